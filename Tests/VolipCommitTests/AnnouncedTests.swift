import TestSupport
import Testing

@testable import VolipCommit

/// Announced writes: alone, in one record with page-tracked ones, taken back, audited.
@Suite struct AnnouncedTests {
  @Test(arguments: TrackerKind.hostKinds, [true, false])
  func theFileRecoversToTheLastSectionAtEveryMoment(
    _ kind: TrackerKind, audit: Bool
  ) throws {
    var generator = SeededGenerator.forTest("announced \(kind.rawValue) \(audit)")
    guard
      let pool = try whereTrackerIsAvailable({
        try EnginePool(logBytesMax: 512 << 10, tracker: kind, announces: true, audit: audit)
      })
    else { return }
    for round in 0..<400 {
      switch Int.random(in: 0..<8, using: &generator) {
      case 0:
        let isAnnounced = Bool.random(using: &generator)
        try pool.engine.openSection(isAnnounced ? .announced : .exclusive)
        pool.scribbleAnnounced(using: &generator)
        if !isAnnounced { pool.scribble(using: &generator) }
        try pool.engine.abortSection()
        #expect(pool.current == pool.committed, "round \(round)")
      case 1: try pool.engine.checkpointNow()
      default: try pool.commitScribbles(using: &generator)
      }
      guard round % 5 == 0 else { continue }
      let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
      #expect(recovered.bytes == pool.committed, "round \(round)")
    }
    #expect(pool.current == pool.committed)
  }

  /// The call that arms a run of written pages says what it armed between them. It said announced
  /// ones, too: they were compared with an image that their update had yet to reach, and dropped
  /// with the section, so that what an older one had committed was no longer seen.
  @Test(arguments: TrackerKind.hostKinds)
  func anAbortedSectionOnBothSidesOfAnnouncedPagesLeavesThemAlone(_ kind: TrackerKind) throws {
    guard let pool = try whereTrackerIsAvailable({ try EnginePool(tracker: kind, announces: true) })
    else { return }
    let announced = EnginePool.announcedBytes
    let sides = [announced.lowerBound - 1, announced.upperBound]
    try pool.engine.watch(upTo: EnginePool.watchedPages + 8)
    for value in UInt8(1)...8 {
      try pool.engine.openSection(.announced)
      pool.bytes[announced.lowerBound] = value
      pool.announce(announced.lowerBound..<announced.lowerBound + 1)
      try pool.engine.closeSection()
      try pool.engine.openSection()
      for side in sides { pool.bytes[side] = value }
      try pool.engine.abortSection()
      #expect(pool.bytes[announced.lowerBound] == value)
      #expect(sides.map { pool.bytes[$0] } == [0, 0])
    }
  }

  @Test func theMsyncPathRecoversToo() throws {
    var generator = SeededGenerator.forTest()
    let pool = try EnginePool(logBytes: 128 << 10, persistence: .msync, announces: true)
    for round in 0..<60 {
      try pool.commitScribbles(using: &generator)
      let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
      #expect(recovered.bytes == pool.committed, "round \(round)")
    }
  }

  /// At most 1.5 times the announced bytes, 16 an extent and 64 a section; one fence. (A section of
  /// a few single bytes logs up to 12 more: records are whole lines.)
  @Test func loggedBytesStayBelowTheBound() throws {
    var generator = SeededGenerator.forTest()
    let pool = try EnginePool(fileBytes: 16 << 20, logBytes: 1 << 20, announces: true)
    let area = EnginePool.announcedBytes
    for extents in (1...70 as ClosedRange<Int>) {
      for longest in [15, 24, 31, 40, 400] {
        if try pool.engine.currentStatistics().persistence.storedBytes > 0 {
          try pool.engine.checkpointNow()
        }
        let before = try pool.engine.currentStatistics().persistence
        let lapBefore = pool.engine.parts.redoLog.head / (1 << 20)
        var announced = 0
        try pool.engine.openSection(.announced)
        for extent in 0..<extents {
          let count = Int.random(in: (longest + 1) / 2...longest, using: &generator)
          let first = area.lowerBound + (extent * 1013 + Int.random(in: 0..<8, using: &generator))
          pool.bytes[first] &+= 1
          pool.announce(first..<first + count)
          announced += count
        }
        try pool.engine.closeSection()
        let after = try pool.engine.currentStatistics().persistence
        #expect(after.fences - before.fences == 1)
        let logged = after.storedBytes - before.storedBytes
        // Where it goes to the next lap, once in a round of the log, it has the general form.
        let lap = pool.engine.parts.redoLog.head / (1 << 20) == lapBefore ? 0 : 64
        // Records are stored in whole lines.
        let bound = (announced * 3 / 2 + extents * 16 + 64 + lap + 63) / 64 * 64
        #expect(logged <= bound, "\(extents) extents, \(announced) bytes: \(logged) logged")
      }
    }
  }

  @Test func whatIsAnnouncedAgainIsLoggedOnceAndNeighboursAreOneExtent() throws {
    let pool = try EnginePool(announces: true)
    let first = EnginePool.announcedBytes.lowerBound
    func logged(_ body: () -> Void) throws -> Int {
      let before = try pool.engine.currentStatistics().persistence.storedBytes
      try pool.engine.openSection(.announced)
      body()
      try pool.engine.closeSection()
      return try pool.engine.currentStatistics().persistence.storedBytes - before
    }
    #expect(try logged { pool.announce(first..<first + 8) } == 64)
    let again = try logged {
      for round in 0..<1000 {
        pool.bytes[first + round % 16] &+= 1
        pool.announce(first..<first + 8)
        pool.announce(first + 512..<first + 520)
      }
    }
    #expect(again == 64)
    let joined = try logged {
      for word in 0..<1000 { pool.announce(first + word * 8..<first + word * 8 + 8) }
    }
    #expect(joined == (24 + 8 + 8000 + 63) / 64 * 64)
  }

  @Test func aWriteToTrackedMemoryInASectionOfAnnouncedWritesIsOutsideOfOne() throws {
    let pool = try EnginePool(tracker: .writeProtect, announces: true)
    try pool.engine.openSection(.announced)
    try pool.engine.trackOpenSection()
    pool.bytes[0] = 1  // from here on it is as any other
    try pool.engine.closeSection()
    let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(recovered.bytes[0] == 1)
  }

  @Test(arguments: TrackerKind.hostKinds)
  func anAuditFindsTheByteThatNobodyAnnounced(_ kind: TrackerKind) throws {
    var generator = SeededGenerator.forTest("audit \(kind.rawValue)")
    guard
      let pool = try whereTrackerIsAvailable({
        try EnginePool(tracker: kind, announces: true, audit: true)
      })
    else { return }
    for _ in 0..<30 {
      try pool.commitScribbles(using: &generator)
      let offset = Int.random(in: EnginePool.announcedBytes, using: &generator)
      try pool.engine.openSection(.announced)
      pool.scribbleAnnounced(using: &generator)
      let isKnown = pool.isAnnounced(offset)
      pool.bytes[offset] = ~pool.committed[offset]
      if isKnown {
        let next = pool.current
        try pool.engine.closeSection()
        pool.committed = next
      } else {
        #expect(throws: PoolError.unannouncedWrite(offset: UInt64(offset))) {
          try pool.engine.closeSection()
        }
      }
      #expect(pool.current == pool.committed)
    }
  }

  @Test func withoutAnAuditAnnouncedMemoryIsNeverLookedAt() throws {
    let pool = try EnginePool(tracker: .pageMapScan, announces: true)
    let first = EnginePool.announcedBytes.lowerBound
    try pool.engine.openSection()
    for offset in EnginePool.announcedBytes { pool.bytes[offset] = 1 }
    pool.bytes[0] = 1
    pool.announce(first..<first + 8)
    try pool.engine.closeSection()
    #expect(try pool.engine.currentStatistics().pages == 1)
  }

  @Test func aSectionLargerThanTheLogMayGrowIsRolledBack() throws {
    let pool = try EnginePool(logBytesMax: 64 << 10, announces: true)
    var generator = SeededGenerator.forTest()
    try pool.commitScribbles(using: &generator)
    try pool.engine.openSection(.announced)
    for offset in EnginePool.announcedBytes { pool.bytes[offset] &+= 1 }
    pool.announce(EnginePool.announcedBytes)
    #expect {
      try pool.engine.closeSection()
    } throws: {
      guard case PoolError.sectionTooLarge(let needed, 65536) = $0 else { return false }
      return needed > 96 << 10
    }
    #expect(pool.current == pool.committed)
    try pool.commitScribbles(using: &generator)
    let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(recovered.bytes == pool.committed)
  }
}

extension EnginePool {
  /// Whether the open section announced a byte.
  func isAnnounced(_ offset: Int) -> Bool {
    var result = false
    engine.announced.forEach { extent, _ in
      let first = Int(extent.offset)
      result = result || (first..<first + extent.byteCount).contains(offset)
    }
    return result
  }
}
