import TestSupport
import Testing
import VolipMem

@Suite struct SortedDictionaryTests {
  typealias Sorted = PersistentSortedDictionary<Int, Int>

  private func entries(_ sorted: borrowing Sorted, from start: Int? = nil) -> [[Int]] {
    var result: [[Int]] = []
    if let start {
      sorted.forEach(from: start) { key, value in
        result.append([copy key, copy value])
        return true
      }
      #expect(sorted.elements(from: start).map { [$0.key, $0.value] } == result)
    } else {
      sorted.forEach { result.append([copy $0, copy $1]) }
      #expect(sorted.elements.map { [$0.key, $0.value] } == result)
    }
    return result
  }

  /// Random insertions and removals of growing and shrinking trees beside a dictionary.
  @Test func aSortedDictionaryDoesWhatADictionaryDoesInOrder() throws {
    var generator = SeededGenerator.forTest()
    let test = try CollectionPool()
    var sorted = try test.pool.section { section in
      try test.pool.root("sorted", in: &section) { section in try Sorted(in: &section) }
    }
    var model: [Int: Int] = [:]
    for round in 0..<120 {
      var next = model
      func change(_ section: inout VolipMem.Section) throws {
        for _ in 0..<Int.random(in: 0...200, using: &generator) {
          let key = Int.random(in: 0..<5000, using: &generator)
          let grows = round % 60 < 30
          if Int.random(in: 0..<10, using: &generator) < (grows ? 8 : 1) {
            let old = try sorted.value.updateValue(round, forKey: key, in: &section)
            #expect(old == next.updateValue(round, forKey: key))
          } else {
            // In a shrinking tree one that is there.
            let there = grows ? key : next.keys.randomElement(using: &generator) ?? key
            let old = try sorted.value.removeValue(forKey: there, in: &section)
            #expect(old == next.removeValue(forKey: there))
          }
        }
      }
      if round % 7 == 0 {
        try test.abortedSection(change)
      } else {
        try test.pool.section(.announced, change)
        model = next
      }
      let expected = model.keys.sorted().map { [$0, model[$0]!] }
      let found = entries(sorted.value)
      #expect(found == expected && sorted.value.count == expected.count, "round \(round)")
      #expect(sorted.value.first?.key == expected.first?[0])
      #expect(sorted.value.last?.key == expected.last?[0])
      let start = Int.random(in: 0..<5000, using: &generator)
      let behind = entries(sorted.value, from: start)
      #expect(behind == expected.filter { $0[0] >= start })
      let inRange = sorted.value.elements(in: start..<start + 500).map(\.key)
      #expect(inRange == expected.map { $0[0] }.filter { $0 >= start && $0 < start + 500 })
      #expect(sorted.value[start] == model[start])
      if round % 40 == 39 {
        try test.reopen()
        sorted = try #require(try test.pool.root("sorted", of: Sorted.self))
      }
    }
    try test.pool.section { section in
      let other = try sorted.value.copy(in: &section)
      #expect(entries(other) == entries(sorted.value))
      for key in model.keys { try other.removeValue(forKey: key, in: &section) }
      #expect(other.isEmpty && other.first == nil)
      try other.destroy(in: &section)
      try sorted.free(in: &section)
      try test.pool.removeRoot("sorted", in: &section)
    }
    test.expectNoLeaks(besideRoots: 0)
  }

  /// Keys and values that own memory: nodes above the leaves have keys of their own.
  @Test func aSortedDictionaryOfStringsIsInOrderAndIsFreedWhole() throws {
    var generator = SeededGenerator.forTest()
    let test = try CollectionPool()
    typealias Names = PersistentSortedDictionary<PersistentString, PersistentArray<Int>>
    let names = try test.pool.section { section in
      try test.pool.root("names", in: &section) { section in try Names(in: &section) }
    }
    var model: [String: [Int]] = [:]
    for round in 0..<40 {
      var next = model
      func change(_ section: inout VolipMem.Section) throws {
        for number in 0..<Int.random(in: 0...60, using: &generator) {
          let name = "a name longer than the header \(Int.random(in: 0..<600, using: &generator))"
          if Int.random(in: 0..<10, using: &generator) < (round % 20 < 12 ? 8 : 1) {
            let numbers = try PersistentArray([round, number], in: &section)
            try names.value.insert(numbers, forKey: name, in: &section)
            next[name] = [round, number]
          } else {
            let there = round % 20 < 12 ? name : next.keys.sorted().first ?? name
            let removed = try names.value.remove(there, in: &section)
            #expect(removed == (next.removeValue(forKey: there) != nil))
          }
        }
      }
      if round % 5 == 0 {
        try test.abortedSection(change)
      } else {
        try test.pool.section(.announced, change)
        model = next
      }
      #expect(names.value.exported == model)
      var keys: [String] = []
      names.value.forEach { key, _ in keys.append(String(key)) }
      #expect(keys == model.keys.sorted())
    }
    let copied = try test.pool.section { section in
      let other = try names.value.copy(in: &section)
      let exported = other.exported
      let first = model.keys.sorted().first ?? ""
      let sizes = [
        names.value.withValue(forKey: first) { $0.count },
        names.value.contains(first) ? 2 : nil,
      ]
      #expect(sizes == [2, 2] || model.isEmpty)
      try other.destroy(in: &section)
      try names.free(in: &section)
      try test.pool.removeRoot("names", in: &section)
      return exported
    }
    #expect(copied == model)
    test.expectNoLeaks(besideRoots: 0)
  }
}
