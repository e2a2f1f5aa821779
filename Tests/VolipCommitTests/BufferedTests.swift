import TestSupport
import Testing

@testable import VolipCommit

/// Buffered sections: no fence of their own, a prefix of them after a crash.
@Suite struct BufferedTests {
  private func fences(_ pool: EnginePool, _ body: () throws -> Void) throws -> Int {
    let before = try pool.engine.currentStatistics().persistence.fences
    try body()
    return try pool.engine.currentStatistics().persistence.fences - before
  }

  /// Sets a byte of announced memory that says which section was the last.
  private func section(_ pool: EnginePool, _ kind: SectionKind, _ value: UInt8) throws {
    try pool.engine.openSection(kind)
    write(value, to: pool)
    try pool.engine.closeSection()
  }

  private func write(_ value: UInt8, to pool: EnginePool) {
    let first = EnginePool.announcedBytes.lowerBound
    pool.bytes[first] = value
    pool.announce(first..<first + 1)
  }

  private func value(_ bytes: [UInt8]) -> UInt8 { bytes[EnginePool.announcedBytes.lowerBound] }

  @Test func manySectionsHaveOneFence() throws {
    let pool = try EnginePool(announces: true)
    try section(pool, .buffered, 1)
    try pool.engine.sync()
    let none = try fences(pool) {
      for value in UInt8(2)...100 { try section(pool, .buffered, value) }
    }
    #expect(none == 0)
    #expect(try fences(pool) { try pool.engine.sync() } == 1)
    #expect(try fences(pool) { try pool.engine.sync() } == 0)
    #expect(try value(RecoveredImage(FileBytes.read(pool.path), in: pool.directory).bytes) == 100)
  }

  @Test(arguments: [SectionKind.announced, .exclusive])
  func aSectionOfAnotherKindEndsTheEpochWithItsOwnFence(_ kind: SectionKind) throws {
    let pool = try EnginePool(announces: true)
    try section(pool, .buffered, 1)
    #expect(try fences(pool) { try section(pool, kind, 2) } == 1)
    #expect(try fences(pool) { try pool.engine.sync() } == 0)
  }

  /// A section that writes page-tracked memory puts its lines into the image: they are durable.
  @Test func aBufferedSectionThatWritesPageTrackedMemoryHasAFence() throws {
    let pool = try EnginePool(announces: true)
    try section(pool, .buffered, 1)
    let count = try fences(pool) {
      try pool.engine.openSection(.buffered)
      try pool.engine.trackOpenSection()
      pool.bytes[0] = 7
      write(2, to: pool)
      try pool.engine.closeSection()
    }
    #expect(count == 1)
    let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(recovered.bytes[0] == 7 && value(recovered.bytes) == 2)
  }

  /// A section of another kind that only read what buffered ones wrote, and answered somebody on
  /// it, was durable in words alone: it logged nothing, and so it fenced nothing.
  @Test func aSectionThatWritesNothingEndsTheEpochToo() throws {
    let pool = try EnginePool(announces: true)
    func ends(_ body: () throws -> Void) throws {
      try section(pool, .buffered, 1)
      #expect(try fences(pool, body) >= 1)
      #expect(try fences(pool) { try pool.engine.sync() } == 0)
    }
    for kind in [SectionKind.exclusive, .announced, .group] {
      try ends {
        try pool.engine.openSection(kind)
        try pool.engine.closeSection()
      }
      try ends {
        try pool.engine.openSection(kind)
        try pool.engine.abortSection()
      }
    }
    // A rollback of page-tracked memory alone.
    try ends {
      try pool.engine.openSection()
      pool.bytes[0] = 1
      try pool.engine.abortSection()
    }
    try ends {
      try pool.engine.openSection(.buffered)
      try pool.engine.commitSection()
      try pool.engine.closeSection()
    }
  }

  /// Between the records of a thread and the fence of another one is the gate.
  @Test func aThreadsSyncIsForEverybodysSections() throws {
    nonisolated(unsafe) let pool = try EnginePool(announces: true)
    try section(pool, .buffered, 1)
    let thread = BackgroundThread { try! self.section(pool, .buffered, 2) }
    thread.join()
    #expect(try fences(pool) { try pool.engine.sync() } == 1)
    #expect(try value(RecoveredImage(FileBytes.read(pool.path), in: pool.directory).bytes) == 2)
  }

  @Test func growthEndsTheEpoch() throws {
    let pool = try EnginePool(announces: true)
    try section(pool, .buffered, 1)
    try pool.engine.grow(toFileBytes: 4 << 20)
    #expect(try fences(pool) { try pool.engine.sync() } == 0)
    try section(pool, .buffered, 2)
    #expect(value(pool.current) == 2)
    try pool.engine.sync()
    #expect(try value(RecoveredImage(FileBytes.read(pool.path), in: pool.directory).bytes) == 2)
  }

  @Test func anEpochThatIsOldEndsWithTheNextSection() throws {
    let pool = try EnginePool(announces: true, bufferedMilliseconds: 0)
    try section(pool, .buffered, 1)
    #expect(try fences(pool) { for _ in 0..<3 { try section(pool, .buffered, 2) } } == 3)
  }

  /// What one header can count ends the epoch, too.
  @Test func anEpochThatIsLongEnds() throws {
    let pool = try EnginePool(fileBytes: 16 << 20, logBytes: 8 << 20, announces: true)
    let count = try fences(pool) {
      for index in 0...RecordHeader.unfencedMax + 1 {
        try section(pool, .buffered, UInt8(truncatingIfNeeded: index))
      }
    }
    // The superblock says that there are buffers: three, and one for each of its copies.
    #expect(count > 0 && count < 8)
  }

  @Test func aRollbackEndsTheEpochAndTakesOnlyItsOwnSectionBack() throws {
    let pool = try EnginePool(announces: true)
    try section(pool, .buffered, 1)
    let count = try fences(pool) {
      try pool.engine.openSection(.buffered)
      write(2, to: pool)
      try pool.engine.abortSection()
    }
    #expect(count == 1)
    #expect(value(pool.current) == 1)
    #expect(try value(RecoveredImage(FileBytes.read(pool.path), in: pool.directory).bytes) == 1)
  }

  /// Rule 11, and what buffers take from it: of records without a fence in between any may be
  /// missing; of those before the last fence none.
  @Test func aGapInTheLastEpochIsNoDamageAndInAnEarlierOneItIs() throws {
    let pool = try EnginePool(announces: true)
    try section(pool, .announced, 1)
    // Each of these records is a line: header, word and byte.
    for value in UInt8(2)...6 { try section(pool, .buffered, value) }
    func damaged(_ record: Int) -> [UInt8] {
      var file = FileBytes.read(pool.path)
      let superblock = pool.engine.superblock
      let first = Int(superblock.geometry.logOffset + superblock.logTail)
      file[first + record * 64 + 40] ^= 1
      return file
    }
    // Entering made the log empty: record 0 is the first buffered one.
    for record in 0..<5 {
      let recovered = try RecoveredImage(damaged(record), in: pool.directory)
      #expect(value(recovered.bytes) == UInt8(1 + record))
    }
    try section(pool, .announced, 7)
    try section(pool, .buffered, 8)
    for record in 0..<6 {
      #expect {
        _ = try RecoveredImage(damaged(record), in: pool.directory)
      } throws: {
        if case PoolError.damagedLog = $0 { true } else { false }
      }
    }
    #expect(try value(RecoveredImage(damaged(6), in: pool.directory).bytes) == 7)
  }

  @Test func thePoolSaysThatItsLogMayEndInGapsUntilItIsClosed() throws {
    let pool = try EnginePool(announces: true)
    try section(pool, .announced, 1)
    #expect(pool.engine.superblock.incompatibleFeatures == 0)
    try section(pool, .buffered, 1)
    #expect(pool.engine.superblock.incompatibleFeatures == Superblock.buffersFeature)
    let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(recovered.superblock.incompatibleFeatures == 0)
    try pool.engine.close()
    let closed = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(pool.engine.superblock.incompatibleFeatures == 0)
    #expect(closed.summary.recordCount == 0 && value(closed.bytes) == 1)
  }
}
