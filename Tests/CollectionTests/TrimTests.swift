import TestSupport
import Testing
import VolipMem

@Suite struct TrimTests {
  private func fill(_ pool: Pool) throws -> Ref<PersistentDictionary<UInt64, UInt64>> {
    let map = try pool.section { section in
      try pool.root("map", in: &section) { section in
        try PersistentDictionary<UInt64, UInt64>(in: &section)
      }
    }
    try pool.section { section in
      for key in 0..<20_000 as Range<UInt64> {
        try map.value.updateValue(key, forKey: key, in: &section)
      }
      let words = try pool.allocate(UInt64.self, count: 100_000)
      for index in 0..<100_000 { words[index] = UInt64(index) }
      _ = try pool.root("words", in: &section) { words }
    }
    return map
  }

  private func isWhole(_ pool: Pool, _ map: Ref<PersistentDictionary<UInt64, UInt64>>) throws
    -> Bool
  {
    let words = try #require(try pool.root("words", as: UnsafeMutablePointer<UInt64>.self)).pointee
    return (0..<100_000).allSatisfy { words[$0] == UInt64($0) }
      && (0..<20_000 as Range<UInt64>).allSatisfy { map.value[$0] == $0 }
      && pool.checkHeap().isConsistent
  }

  @Test(arguments: TrackerKind.hostKinds, [true, false])
  func trimmedPagesGiveTheirMemoryBackAndKeepTheirContent(
    _ tracker: TrackerKind, audit: Bool
  ) throws {
    let directory = TemporaryDirectory()
    var options = Pool.Options.test()
    options.engine.tracker = tracker
    options.engine.audit = audit
    let path = directory.file("trim.pool")
    let pool = try Pool.create(path, byteCount: 64 << 20, options: options)
    let map = try fill(pool)
    let dropped = try pool.trim()
    #expect(dropped > 200)
    #expect(try isWhole(pool, map))
    // Reading makes no private copies.
    #expect(try pool.trim() == 0)
    for round in 0..<3 as Range<UInt64> {
      let words = try #require(try pool.root("words", as: UnsafeMutablePointer<UInt64>.self))
        .pointee
      try pool.section { section in
        words[5] = 77
        try map.value.updateValue(round, forKey: 5, in: &section)
      }
      #expect(map.value[5] == round && words[5] == 77)
      try pool.section { section in
        words[5] = 5
        try map.value.updateValue(5, forKey: 5, in: &section)
      }
      #expect(try (1...8).contains(pool.trim()))
      #expect(try isWhole(pool, map))
      #expect(throws: CancellationError.self) {
        try pool.section { section in
          words[6] = 1
          try map.value.updateValue(1, forKey: 6, in: &section)
          throw CancellationError()
        }
      }
      #expect(try isWhole(pool, map))
    }
    try pool.close()
    let again = try Pool.open(path, options: options)
    let found = try #require(
      try again.root("map", of: PersistentDictionary<UInt64, UInt64>.self))
    #expect(try isWhole(again, found))
  }

  @Test func aTrimLeavesWhatNobodyAnnounced() throws {
    let test = try CollectionPool(audit: false)
    var block: UnsafeMutableRawPointer?
    try test.pool.section(.announced) { section in
      block = try section.allocateAnnounced(byteCount: 8)
      block?.storeBytes(of: 7, as: UInt64.self)
      section.announce(block!, byteCount: 8)
    }
    block?.storeBytes(of: 8, as: UInt64.self)
    _ = try test.pool.trim()
    #expect(block?.load(as: UInt64.self) == 8)
  }

  /// Beside the lanes of other threads, commits that threads share, and a checkpoint thread.
  @Test(arguments: TrackerKind.hostKinds)
  func aTrimBetweenSectionsOfManyThreadsLosesNothing(_ tracker: TrackerKind) async throws {
    let directory = TemporaryDirectory()
    let outcome = try await Helper.run(
      "volip-test-helper", ["trims", directory.file("trims.pool"), tracker.rawValue, "40"])
    #expect(outcome.output == "wrong 0 true\n", "\(outcome)")
  }

  @Test(.guest, arguments: TrackerKind.guestKinds)
  func aTrimInGuestModeLosesNothing(_ tracker: TrackerKind) async throws {
    let directory = TemporaryDirectory()
    let outcome = try await Guest.run(
      "trims", [directory.file("trims.pool"), tracker.rawValue, "6"])
    #expect(outcome.output == "wrong 0 true\n", "\(outcome)")
  }

  @Test func aTrimInsideASectionIsRefused() throws {
    let test = try CollectionPool()
    try test.pool.section { _ in
      _ = #expect(throws: PoolError.nestedSection) { try test.pool.trim() }
    }
  }
}
