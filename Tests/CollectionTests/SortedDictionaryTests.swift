import TestSupport
import Testing
import VolipMem

@Suite struct SortedDictionaryTests {
  typealias Sorted = PersistentSortedDictionary<Int, Int>

  private func entries(_ sorted: borrowing Sorted, from start: Int? = nil) -> [[Int]] {
    var result: [[Int]] = []
    sorted.forEach(from: start) { key, value in
      result.append([key, value])
      return true
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
      var inRange: [Int] = []
      sorted.value.forEach(in: start..<start + 500) { key, _ in inRange.append(key) }
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
}
