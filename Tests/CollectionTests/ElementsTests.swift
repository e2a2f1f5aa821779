import TestSupport
import Testing
import VolipMem

@Suite struct ElementsTests {
  /// Filled and thinned out, so that tables have gaps and rings begin in the middle.
  private func withCollections(
    _ body: (
      borrowing PersistentArray<Int>, borrowing PersistentDeque<Int>,
      borrowing PersistentDictionary<Int, Int>, borrowing PersistentSet<Int>, [Int]
    ) throws -> Void
  ) throws {
    let test = try CollectionPool()
    try test.pool.section { section in
      let numbers = Array(0..<500)
      let array = try PersistentArray(numbers, in: &section)
      let deque = try PersistentDeque(numbers + [1, 2, 3], in: &section)
      for number in 1...3 {
        #expect(deque.popLast(in: &section) == 4 - number)
        try deque.prepend(-number, in: &section)
      }
      for _ in 1...3 { _ = deque.popFirst(in: &section) }
      let map = try PersistentDictionary(
        (0..<1000).map { (key: $0, value: $0 * 2) }, in: &section)
      let set = try PersistentSet(0..<1000, in: &section)
      for number in 500..<1000 {
        try map.remove(number, in: &section)
        try set.remove(number, in: &section)
      }
      try body(array, deque, map, set, numbers)
      try array.destroy(in: &section)
      try deque.destroy(in: &section)
      try map.destroy(in: &section)
      try set.destroy(in: &section)
    }
    test.expectNoLeaks(besideRoots: 0)
  }

  @Test func forLoopsSeeEveryElementOnce() throws {
    try withCollections { array, deque, map, set, numbers in
      var seen: [Int] = []
      for element in array.elements { seen.append(element) }
      #expect(seen == numbers)
      seen = []
      for element in deque.elements { seen.append(element) }
      #expect(seen == numbers)
      seen = []
      for (key, value) in map.elements {
        #expect(value == 2 * key)
        seen.append(key)
      }
      #expect(seen.sorted() == numbers)
      #expect(Array(set.elements).sorted() == numbers)
      #expect(map.keys.sorted() == numbers && map.values.reduce(0, +) == 499 * 500)
    }
  }

  @Test func algorithmsOfTheStandardLibraryWorkOnElements() throws {
    try withCollections { array, deque, map, _, numbers in
      #expect(array.elements.firstIndex(of: 7) == 7 && array.elements.max() == 499)
      #expect(array.elements.reversed().prefix(2) == [499, 498])
      #expect(array.elements[10..<12].map { $0 * 2 } == [20, 22])
      #expect(deque.elements.elementsEqual(array.elements))
      #expect(map.elements.first { $0.key == 9 }?.value == 18)
      #expect(map.elements.filter { $0.key < 3 }.count == 3)
    }
  }

  @Test func placesOfKeysReadWhatCannotBeCopied() throws {
    let test = try CollectionPool()
    try test.pool.section { section in
      let plain = ["one": [1], "two": [1, 2], "none": []]
      let map = try PersistentDictionary<PersistentString, PersistentArray<Int>>(
        importing: plain, in: &section)
      var sizes: [String: Int] = [:]
      for index in map.indices { sizes[String(map[keyAt: index])] = map[valueAt: index].count }
      #expect(sizes == plain.mapValues(\.count))
      let two = try PersistentString("two", in: &section)
      let last = map.index(forKey: two).flatMap { map[valueAt: $0].last }
      #expect(last == 2)
      try two.destroy(in: &section)
      try map.destroy(in: &section)
    }
    test.expectNoLeaks(besideRoots: 0)
  }

  @Test func anEmptyCollectionHasNoElements() throws {
    let test = try CollectionPool()
    try test.pool.section { section in
      let map = try PersistentDictionary<Int, Int>(in: &section)
      let array = try PersistentArray<Int>(in: &section)
      let deque = try PersistentDeque<Int>(in: &section)
      #expect(Array(map.elements).isEmpty && array.elements.isEmpty && deque.elements.isEmpty)
      try map.destroy(in: &section)
      try array.destroy(in: &section)
      try deque.destroy(in: &section)
    }
  }

  /// Entries of all shapes: sizes and alignments that groups of slots are made of.
  @Test func tablesOfSmallAndLargeEntriesKeepTheirKeys() throws {
    struct Wide: BitwiseCopyable, Equatable, Persistable {
      var words: (UInt64, UInt64, UInt64, UInt64, UInt64)
      init(_ number: UInt64) { words = (number, 1, 2, 3, number) }
      static func == (left: Wide, right: Wide) -> Bool { left.words == right.words }
    }
    func check<
      Key: PersistentKey & BitwiseCopyable, Value: Persistable & BitwiseCopyable & Equatable
    >(
      _ keys: [Key], _ value: (Key) -> Value
    ) throws {
      let test = try CollectionPool()
      try test.pool.section(.announced) { section in
        let map = try PersistentDictionary<Key, Value>(in: &section)
        for key in keys { try map.updateValue(value(key), forKey: key, in: &section) }
        #expect(map.count == keys.count)
        for key in keys { #expect(map[key] == value(key)) }
        for key in keys.prefix(keys.count / 2) { try map.remove(key, in: &section) }
        for (place, key) in keys.enumerated() {
          #expect(map[key] == (place < keys.count / 2 ? nil : value(key)))
        }
        try map.destroy(in: &section)
      }
      test.expectNoLeaks(besideRoots: 0)
    }
    try check(Array(0...255 as ClosedRange<UInt8>)) { $0 }
    try check([true, false]) { $0 }
    try check(Array(0..<300 as Range<UInt16>)) { UInt8(truncatingIfNeeded: $0) }
    try check(Array(0..<300 as Range<UInt32>)) { UInt64($0) }
    try check(Array(0..<300 as Range<UInt64>)) { Wide($0) }
    try check(Array(0..<300 as Range<Int32>)) { Int32($0) }
  }
}
