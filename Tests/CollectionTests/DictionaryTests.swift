import TestSupport
import Testing
import VolipMem

@Suite struct DictionaryTests {
  /// Random changes beside Swift's own dictionary, sections taken back and pools opened again.
  @Test(arguments: [true, false])
  func aDictionaryDoesWhatSwiftsDoes(audit: Bool) throws {
    var generator = SeededGenerator.forTest("dictionary \(audit)")
    let test = try CollectionPool(audit: audit)
    var model: [UInt64: Int] = [:]
    func dictionary() throws -> Ref<PersistentDictionary<UInt64, Int>> {
      try #require(try test.pool.root("map", of: PersistentDictionary<UInt64, Int>.self))
    }
    try test.pool.section { section in
      _ = try test.pool.root("map", in: &section) { section in
        try PersistentDictionary<UInt64, Int>(in: &section)
      }
    }
    var map = try dictionary()
    for round in 0..<250 {
      var next = model
      func change(_ section: inout VolipMem.Section) throws {
        for _ in 0..<Int.random(in: 0...(round % 10 == 0 ? 1500 : 20), using: &generator) {
          let key = UInt64.random(in: 0..<UInt64(round * 8 + 8), using: &generator)
          switch Int.random(in: 0..<8, using: &generator) {
          case 0, 1, 2:
            #expect(map.value.removeValue(forKey: key, in: &section) == next[key])
            next[key] = nil
          case 3:
            map.value.update(forKey: key, in: &section) { $0 &+= 7 }
            next[key]? &+= 7
          default:
            let value = Int.random(in: 0..<1000, using: &generator)
            #expect(
              try map.value.updateValue(value, forKey: key, in: &section)
                == next.updateValue(value, forKey: key))
          }
        }
        if round == 100 {
          try map.value.removeAll(in: &section)
          next = [:]
        }
      }
      switch Int.random(in: 0..<6, using: &generator) {
      case 0:
        try test.abortedSection(change)
      case 1:
        try test.pool.section(change)
        model = next
      default:
        try test.pool.section(.announced, change)
        model = next
      }
      if round % 50 == 49 {
        try test.reopen()
        map = try dictionary()
      }
      guard round % 5 == 0 else { continue }
      #expect(map.value.count == model.count)
      #expect(Dictionary(map.value) == model, "round \(round)")
      for _ in 0..<50 {
        let key = UInt64.random(in: 0..<UInt64(round * 8 + 8), using: &generator)
        #expect(map.value[key] == model[key])
      }
    }
    test.expectNoLeaks(besideRoots: 1 + 1 + 1 + 1)
    try test.pool.section { section in
      try map.free(in: &section)
      try test.pool.removeRoot("map", in: &section)
    }
    test.expectNoLeaks(besideRoots: 0)
  }

  @Test func aMillionInsertionsInOneSectionAreThereAfterOpeningAgain() throws {
    let test = try CollectionPool(byteCount: 512 << 20, audit: false)
    let count: UInt64 = 100_000
    try test.pool.section(.announced) { section in
      let map = try test.pool.root("map", in: &section) { section in
        try PersistentDictionary<UInt64, UInt64>(in: &section)
      }
      for key in 0..<count { try map.value.updateValue(key, forKey: key &* 7, in: &section) }
    }
    try test.reopen()
    let map = try #require(
      try test.pool.root("map", of: PersistentDictionary<UInt64, UInt64>.self))
    #expect(map.value.count == Int(count))
    #expect((0..<count).allSatisfy { map.value[$0 &* 7] == $0 })
    #expect(test.pool.checkHeap().isConsistent)
  }

  /// What the open section allocated and frees again is taken back, too.
  @Test func anAbortAfterGrowthLeavesTheOldTable() throws {
    let test = try CollectionPool(audit: false)
    let map = try test.pool.section { section in
      try test.pool.root("map", in: &section) { section in
        try PersistentDictionary<UInt64, UInt64>(in: &section)
      }
    }
    try test.pool.section(.announced) { section in
      for key in 0..<1000 as Range<UInt64> {
        try map.value.updateValue(key, forKey: key, in: &section)
      }
    }
    let blocks = test.pool.checkHeap().blocks.map(\.offset)
    for round in 0..<5 as Range<UInt64> {
      try test.abortedSection { section in
        for key in 0..<20_000 as Range<UInt64> {
          try map.value.updateValue(round, forKey: key, in: &section)
        }
        for key in 0..<5000 as Range<UInt64> { try map.value.remove(key, in: &section) }
      }
      #expect(map.value.count == 1000)
      #expect((0..<1000 as Range<UInt64>).allSatisfy { map.value[$0] == $0 })
      #expect(test.pool.checkHeap().blocks.map(\.offset) == blocks)
    }
    try test.reopen()
    let again = try #require(
      try test.pool.root("map", of: PersistentDictionary<UInt64, UInt64>.self))
    #expect((0..<1000 as Range<UInt64>).allSatisfy { again.value[$0] == $0 })
  }

  @Test(arguments: [true, false])
  func aPoolThatGrowsKeepsItsCollectionsAndHasRoomForMore(audit: Bool) throws {
    let test = try CollectionPool(byteCount: 4 << 20, audit: audit)
    let map = try test.pool.section { section in
      try test.pool.root("map", in: &section) { section in
        try PersistentDictionary<UInt64, UInt64>(in: &section)
      }
    }
    func fill(_ keys: Range<UInt64>) throws {
      try test.pool.section(.announced) { section in
        for key in keys { try map.value.updateValue(key, forKey: key, in: &section) }
      }
    }
    try fill(0..<1000)
    for round in 1...3 as ClosedRange<UInt64> {
      try test.pool.grow(byteCount: (4 + round * 8) << 20)
      try fill(round * 10_000..<round * 10_000 + 1500)
      #expect(test.pool.checkHeap().isConsistent)
    }
    try test.reopen()
    let again = try #require(
      try test.pool.root("map", of: PersistentDictionary<UInt64, UInt64>.self))
    #expect(again.value.count == 5500)
    var isRight = true
    again.value.forEach { key, value in isRight = isRight && key == value }
    #expect(isRight)
  }

  @Test func twoDictionariesHaveSeedsOfTheirOwn() throws {
    let test = try CollectionPool()
    try test.pool.section { section in
      let first = try PersistentDictionary(
        (0..<100).map { (key: $0, value: $0) }, in: &section)
      let second = try first.copy(in: &section)
      #expect(Dictionary(first) == Dictionary(second))
      var orders: [[Int]] = [[], []]
      first.forEach { key, _ in orders[0].append(key) }
      second.forEach { key, _ in orders[1].append(key) }
      #expect(orders[0] != orders[1])
      try first.destroy(in: &section)
      try second.destroy(in: &section)
    }
    test.expectNoLeaks(besideRoots: 0)
  }

  struct Old: BitwiseCopyable, Persistable {
    var balance: Int32
  }
  struct New: BitwiseCopyable, Persistable {
    var balance: Int64
    var limit: Int64
  }

  @Test func aRootIsMigratedFromAnOldLayoutInOneSection() throws {
    let test = try CollectionPool()
    typealias OldMap = PersistentDictionary<Int, Old>
    typealias NewMap = PersistentDictionary<Int, New>
    try test.pool.section { section in
      _ = try test.pool.root("map", in: &section) { section in
        try OldMap((0..<50).map { (key: $0, value: Old(balance: Int32($0))) }, in: &section)
      }
    }
    for _ in 0..<2 {
      try test.reopen()
      try test.pool.section { section in
        let new = try test.pool.migrate(
          "map", from: OldMap.self, to: NewMap.self, in: &section
        ) { old, section in
          let new = try NewMap(minimumCapacity: old.count, in: &section)
          try old.forEach { key, value in
            try new.updateValue(
              New(balance: Int64(value.balance), limit: 9), forKey: key, in: &section)
          }
          return new
        }
        #expect(new?.value.count == 50)
      }
    }
    let map = try #require(try test.pool.root("map", of: NewMap.self))
    #expect(map.value[7]?.balance == 7 && map.value[7]?.limit == 9)
    #expect(throws: PoolError.self) { try test.pool.root("map", of: OldMap.self) }
    test.expectNoLeaks(besideRoots: 1 + 1 + 1 + 1)
  }

  struct Hiding: BitwiseCopyable, Persistable {
    var number = 1
    var pointer: UnsafePointer<Int>?
  }

  @Test func aPointerInsideABitwiseStructIsFoundAtTheRoot() throws {
    let test = try CollectionPool()
    #expect {
      try test.pool.section { section in
        _ = try test.pool.root("hiding", in: &section) { section in
          try PersistentArray<Hiding>(in: &section)
        }
      }
    } throws: {
      if case PoolError.invalidArgument = $0 { true } else { false }
    }
    test.expectNoLeaks(besideRoots: 0)
  }

  @Test func aDictionaryOfAnotherTypeIsATypedError() throws {
    let test = try CollectionPool()
    try test.pool.section { section in
      _ = try test.pool.root("map", in: &section) { section in
        try PersistentDictionary<Int, Int>(in: &section)
      }
    }
    #expect {
      _ = try test.pool.root("map", of: PersistentDictionary<Int, Double>.self)
    } throws: {
      guard case PoolError.rootLayoutMismatch("map", let expected, let found) = $0 else {
        return false
      }
      return expected.contains("Double") && !found.contains("Double")
        && found.contains("PersistentDictionary.2<") && "\($0)".contains(found)
    }
  }
}
