import Dispatch
import Glibc
import TestSupport
import Testing

@testable import VolipCommit

@Suite struct CommitTests {
  @Test func oneFenceForEachRecordWhateverItsSize() throws {
    let pool = try EnginePool(fileBytes: 16 << 20, logBytes: 1 << 20)
    for lines in [1, 2, 63, 64, 65, 1000, 4000] {
      let before = try pool.engine.currentStatistics().persistence
      try pool.engine.openSection()
      for line in 0..<lines { pool.bytes[line * 64] &+= 1 }
      try pool.engine.closeSection()
      let after = try pool.engine.currentStatistics().persistence
      #expect(after.fences - before.fences == 1)
      try pool.engine.checkpointNow()
    }
  }

  @Test func aSectionWithoutChangesLogsNothing() throws {
    let pool = try EnginePool()
    let before = try pool.engine.currentStatistics().persistence
    try pool.engine.openSection()
    pool.bytes[100] = 0  // written, with the value that is there
    try pool.engine.closeSection()
    #expect(try pool.engine.currentStatistics().persistence == before)
  }

  @Test func loggedBytesAreAtMostTwiceTheChangedLinesAnd128() throws {
    let pool = try EnginePool(fileBytes: 16 << 20, logBytes: 1 << 20)
    for (lines, step) in [(1, 1), (2, 2), (10, 7), (64, 1), (100, 3), (1000, 4), (2000, 2)] {
      try pool.engine.checkpointNow()
      let before = try pool.engine.currentStatistics().persistence.storedBytes
      try pool.engine.openSection()
      for line in 0..<lines { pool.bytes[line * step * 64] &+= 1 }
      try pool.engine.closeSection()
      let logged = try pool.engine.currentStatistics().persistence.storedBytes - before
      #expect(logged <= 2 * lines * 64 + 128, "\(lines) lines: \(logged) bytes")
    }
  }

  /// After every section the file alone, as a kill would leave it, recovers to that section: in
  /// the middle of the log, after wrap-around, checkpoints and growth of the log.
  @Test(arguments: TrackerKind.hostKinds, [true, false])
  func theFileRecoversToTheLastSectionAtEveryMoment(
    _ kind: TrackerKind, retention: Bool
  ) throws {
    var generator = SeededGenerator.forTest("fileRecovers \(kind.rawValue) \(retention)")
    guard
      let pool = try whereTrackerIsAvailable({
        try EnginePool(logBytesMax: 512 << 10, tracker: kind, retention: retention)
      })
    else { return }
    for round in 0..<400 {
      switch Int.random(in: 0..<8, using: &generator) {
      case 0:
        try pool.engine.openSection()
        pool.scribble(using: &generator)
        try pool.engine.abortSection()
        #expect(pool.current == pool.committed)
      case 1: try pool.engine.checkpointNow()
      default: try pool.commitScribbles(using: &generator)
      }
      guard round % 5 == 0 else { continue }
      let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
      #expect(recovered.bytes == pool.committed, "round \(round)")
    }
    #expect(pool.current == pool.committed)
  }

  @Test func theMsyncPathRecoversToo() throws {
    var generator = SeededGenerator.forTest()
    let pool = try EnginePool(logBytes: 128 << 10, persistence: .msync)
    for round in 0..<60 {
      let before = try pool.engine.currentStatistics().persistence.fences
      try pool.commitScribbles(using: &generator)
      let fences = try pool.engine.currentStatistics().persistence.fences - before
      #expect(fences == 0 || fences == 1 || fences == 4)  // 4: a checkpoint came first
      let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
      #expect(recovered.bytes == pool.committed, "round \(round)")
    }
  }

  @Test func aSectionLargerThanTheLogMayGrowIsRolledBackWithBothSizes() throws {
    let pool = try EnginePool(logBytesMax: 64 << 10)
    var generator = SeededGenerator.forTest()
    try pool.commitScribbles(using: &generator)
    try pool.engine.openSection()
    for offset in 0..<EnginePool.watchedPages * 4096 { pool.bytes[offset] = generator.next() }
    #expect {
      try pool.engine.closeSection()
    } throws: {
      guard case PoolError.sectionTooLarge(let needed, let available) = $0 else { return false }
      return needed > 256 << 10 && available == 64 << 10
    }
    #expect(pool.current == pool.committed)
    try pool.commitScribbles(using: &generator)
    let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(recovered.bytes == pool.committed)
  }

  @Test func theLogGrowsForALargeSectionAndGoesOn() throws {
    let pool = try EnginePool(fileBytes: 8 << 20, logBytes: 64 << 10, logBytesMax: 1 << 20)
    var generator = SeededGenerator.forTest()
    for _ in 0..<20 {
      try pool.commitScribbles(using: &generator)
      try pool.engine.openSection()
      for offset in 0..<EnginePool.watchedPages * 4096 { pool.bytes[offset] = generator.next() }
      let next = pool.current
      try pool.engine.closeSection()
      pool.committed = next
      let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
      #expect(recovered.bytes == pool.committed)
    }
    #expect(pool.engine.superblock.geometry.logBytes == 512 << 10)
  }

  /// Blocks that are there and were never written cost each fence two writes of the journal: a
  /// commit to a log that had grown to 32 MiB took 300 us, for 8,000 commits, where 190 do.
  @Test func aLogThatGrewIsWrittenWhereFencesAreTheFileSystems() throws {
    let pool = try EnginePool(
      fileBytes: 8 << 20, logBytes: 64 << 10, logBytesMax: 1 << 20, persistence: .msync)
    try pool.engine.openSection()
    for offset in 0..<EnginePool.watchedPages * 4096 { pool.bytes[offset] = 1 }
    try pool.engine.closeSection()
    let geometry = pool.engine.superblock.geometry
    #expect(geometry.logBytes == 512 << 10)
    let added = geometry.logOffset + (64 << 10)..<geometry.logOffset + geometry.logBytes
    // Unwritten blocks are holes to this.
    #expect(pool.engine.file.dataParts(in: added) == [added])
  }
}

@Suite struct SectionTests {
  /// On a file system that is no tmpfs the update would be the first to need them, after the seal.
  @Test func aLinesBlocksAreAllocatedTogetherByTheCommit() throws {
    let pool = try EnginePool(fileBytes: 64 << 20)
    // More at once than gets blocks ahead.
    try pool.engine.watch(upTo: 8000)
    func allocatedBytes() -> Int {
      var status = stat()
      stat(pool.path, &status)
      return Int(status.st_blocks) * 512
    }
    let before = allocatedBytes()
    try pool.engine.openSection()
    pool.bytes[7000 * 4096] = 1
    try pool.engine.closeSection()
    #expect(allocatedBytes() - before >= 1 << 20)
  }

  @Test func nestedSectionsCommitWithTheOutermost() throws {
    let pool = try EnginePool()
    try pool.engine.openSection()
    pool.bytes[0] = 1
    try pool.engine.openSection()
    pool.bytes[5000] = 2
    try pool.engine.closeSection()
    let inside = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(inside.bytes[0] == 0 && inside.bytes[5000] == 0)
    try pool.engine.closeSection()
    let after = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(after.bytes[0] == 1 && after.bytes[5000] == 2)
  }

  @Test func anAbortedInnerSectionRollsTheWholeSectionBackAtTheOutermostPend() throws {
    let pool = try EnginePool()
    try pool.engine.openSection()
    pool.bytes[0] = 1
    try pool.engine.openSection()
    pool.bytes[5000] = 2
    try pool.engine.abortSection()
    #expect(throws: PoolError.sectionAborted) { try pool.engine.closeSection() }
    #expect(pool.bytes[0] == 0 && pool.bytes[5000] == 0)
    #expect(throws: PoolError.noSection) { try pool.engine.closeSection() }
    try pool.engine.openSection()
    try pool.engine.closeSection()
  }

  @Test func pcommitMakesDurableAndGoesOn() throws {
    let pool = try EnginePool()
    try pool.engine.openSection()
    pool.bytes[0] = 1
    try pool.engine.commitSection()
    pool.bytes[1] = 2
    let between = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(between.bytes[0] == 1 && between.bytes[1] == 0)
    try pool.engine.abortSection()
    #expect(pool.bytes[0] == 1 && pool.bytes[1] == 0)
  }

  @Test func withoutASectionEveryEndIsATypedError() throws {
    let pool = try EnginePool()
    #expect(throws: PoolError.noSection) { try pool.engine.closeSection() }
    #expect(throws: PoolError.noSection) { try pool.engine.abortSection() }
    #expect(throws: PoolError.noSection) { try pool.engine.commitSection() }
    #expect(throws: PoolError.noSection) {
      try pool.engine.willWrite(pool.engine.base, byteCount: 1)
    }
  }

  @Test func aClosedHandleRefusesSections() throws {
    let pool = try EnginePool()
    try pool.engine.close()
    #expect(throws: PoolError.closed) { try pool.engine.openSection() }
    #expect(throws: PoolError.closed) { try pool.engine.checkpointNow() }
  }

  @Test func sectionsOfTwoThreadsNeverOverlap() throws {
    let pool = try EnginePool()
    nonisolated(unsafe) let counter = pool.engine.base.assumingMemoryBound(to: UInt64.self)
    let engine = pool.engine
    DispatchQueue.concurrentPerform(iterations: 2) { _ in
      for _ in 0..<500 {
        try! engine.openSection()
        counter.pointee += 1
        try! engine.closeSection()
      }
    }
    #expect(counter.pointee == 1000)
  }

  /// Rule 22.
  @Test func aThreadThatEndsInItsSectionAbortsIt() throws {
    let pool = try EnginePool()
    let context = Unmanaged.passRetained(pool)
    var thread = pthread_t()
    pthread_create(
      &thread, nil,
      { argument in
        let pool = Unmanaged<EnginePool>.fromOpaque(argument!).takeRetainedValue()
        try! pool.engine.openSection()
        pool.bytes[0] = 7
        return nil
      }, context.toOpaque())
    pthread_join(thread, nil)
    #expect(pool.bytes[0] == 0)
    try pool.engine.openSection()
    pool.bytes[1] = 8
    try pool.engine.closeSection()
    #expect(try pool.engine.currentStatistics().rolledBack == 1)
  }

  /// Threads that commit, abort, or end half way, nested or not: two cells stay equal.
  @Test(arguments: TrackerKind.hostKinds)
  func threadsThatEndAnywhereLeaveWholeSections(_ kind: TrackerKind) throws {
    var generator = SeededGenerator.forTest("threads \(kind.rawValue)")
    guard let pool = try whereTrackerIsAvailable({ try EnginePool(tracker: kind) }) else { return }
    for _ in 0..<60 {
      var threads: [pthread_t] = []
      for _ in 0..<4 {
        let work = ThreadWork(pool.engine, seed: generator.next())
        var thread = pthread_t()
        pthread_create(
          &thread, nil,
          { argument in
            Unmanaged<ThreadWork>.fromOpaque(argument!).takeRetainedValue().run()
            return nil
          }, Unmanaged.passRetained(work).toOpaque())
        threads.append(thread)
      }
      for thread in threads { pthread_join(thread, nil) }
      let cells = pool.engine.base.assumingMemoryBound(to: UInt64.self)
      #expect(cells[0] == cells[4096])
    }
    let image = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory).bytes
    #expect(image == pool.current)
  }

  @Test func aWriteBetweenSectionsIsPutBackAndReported() throws {
    guard let pool = try whereTrackerIsAvailable({ try EnginePool(tracker: .pageMapScan) }) else {
      return
    }
    try pool.engine.openSection()
    pool.bytes[5] = 1
    try pool.engine.closeSection()
    pool.bytes[3 * 4096 + 200] = 9
    #expect(throws: PoolError.writeOutsideSection(offset: 3 * 4096 + 192)) {
      try pool.engine.openSection()
    }
    #expect(pool.bytes[3 * 4096 + 200] == 0)
    try pool.engine.openSection()
    pool.bytes[3 * 4096 + 201] = 4
    try pool.engine.closeSection()
    let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(recovered.bytes[3 * 4096 + 200] == 0 && recovered.bytes[3 * 4096 + 201] == 4)
  }
}

/// A few sections of one thread; the last may be left open when the thread ends.
private final class ThreadWork {
  private let engine: PoolEngine
  private var generator: SeededGenerator

  init(_ engine: PoolEngine, seed: UInt64) {
    self.engine = engine
    generator = SeededGenerator(seed: seed)
  }

  func run() {
    let cells = engine.base.assumingMemoryBound(to: UInt64.self)
    for _ in 0..<Int.random(in: 1...6, using: &generator) {
      try! engine.openSection()
      precondition(cells[0] == cells[4096], "half a section is seen")
      cells[0] += 1
      switch Int.random(in: 0..<6, using: &generator) {
      case 0: return
      case 1: try! engine.abortSection()
      case 2:
        try! engine.openSection()
        try! engine.abortSection()
        do { try engine.closeSection() } catch {}
      case 3:
        try! engine.openSection()
        return
      default:
        cells[4096] += 1
        if Bool.random(using: &generator) { try! engine.commitSection() }
        try! engine.closeSection()
      }
    }
  }
}
