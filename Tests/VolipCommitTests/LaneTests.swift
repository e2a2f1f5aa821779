import Glibc
import Synchronization
import TestSupport
import Testing

@testable import VolipCommit

/// Concurrent sections: each commits alone in a lane of the log.
@Suite struct LaneTests {
  static func pool(
    logBytes: UInt64? = 64 << 10, lanes: Int = 4, persistence: PersistencePath = .cacheLines
  ) throws -> EnginePool {
    try EnginePool(
      logBytes: logBytes, logBytesMax: logBytes, tracker: .writeProtect,
      persistence: persistence, announces: true, lanes: lanes)
  }

  @Test(arguments: [PersistencePath.cacheLines, .msync])
  func theFileRecoversToTheLastSectionAtEveryMoment(_ path: PersistencePath) throws {
    var generator = SeededGenerator.forTest("lanes \(path)")
    let pool = try Self.pool(logBytes: 256 << 10, persistence: path)
    for round in 0..<(path == .msync ? 100 : 500) {
      switch Int.random(in: 0..<10, using: &generator) {
      case 0:
        try pool.engine.openSection(.concurrent)
        pool.scribbleInLane(using: &generator)
        try pool.engine.abortSection()
        #expect(pool.current == pool.committed, "round \(round)")
      case 1: try pool.engine.checkpointNow()
      case 2: try pool.commitScribbles(using: &generator)  // the log is one again
      default: try pool.commitInLane(using: &generator)
      }
      let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
      #expect(recovered.bytes == pool.committed, "round \(round)")
    }
    #expect(pool.current == pool.committed)
  }

  @Test func aCommitInALaneHasOneFence() throws {
    let pool = try Self.pool()
    var generator = SeededGenerator.forTest()
    try pool.commitInLane(using: &generator)
    for _ in 0..<20 {
      try pool.engine.checkpointNow()
      let before = try pool.engine.currentStatistics().persistence.fences
      try pool.engine.openSection(.concurrent)
      pool.bytes[EnginePool.announcedBytes.lowerBound] &+= 1
      pool.announce(EnginePool.announcedBytes.lowerBound..<EnginePool.announcedBytes.lowerBound + 1)
      try pool.engine.closeSection()
      #expect(try pool.engine.currentStatistics().persistence.fences == before + 1)
    }
  }

  /// Threads add to counters of their own, and, under a lock, to counters that they share, which
  /// stand in one line: lanes write the same line in turn. Copies of the file are recovered all the
  /// while: each thread's counter is one of its last two, and shared ones never differ.
  @Test func threadsThatWriteTheSameLineInTurnLeaveItsLastState() throws {
    let pool = try Self.pool()
    let work = SharedWork(pool)
    run(threads: 3) { thread in
      for round in 1...400 as ClosedRange<UInt64> {
        work.section(thread, round)
        if round % 16 == 0 { work.abortedSection(thread) }
      }
    }
    #expect(work.failures.load(ordering: .relaxed) == 0)
    #expect(work.words[0] == 1200 && work.words[1] == 1200)
    let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(recovered.bytes == pool.current)
    try pool.engine.close()
    let again = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(again.bytes == recovered.bytes)
    #expect(again.summary.recordCount == 0)
  }

  @Test func exclusiveSectionsAndConcurrentOnesWaitForEachOther() throws {
    let pool = try Self.pool()
    let work = SharedWork(pool)
    run(threads: 3) { thread in
      for round in 1...150 as ClosedRange<UInt64> {
        if thread == 0, round % 5 == 0 {
          work.exclusiveSection()
        } else {
          work.section(thread, round)
        }
      }
    }
    #expect(work.failures.load(ordering: .relaxed) == 0)
    let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(recovered.bytes == pool.current)
  }

  @Test func moreThreadsThanLanesWaitForOne() throws {
    let pool = try Self.pool(lanes: 2)
    let work = SharedWork(pool)
    run(threads: 6) { thread in
      for round in 1...60 as ClosedRange<UInt64> { work.section(thread, round) }
    }
    #expect(work.failures.load(ordering: .relaxed) == 0)
    #expect(work.words[0] == 360)
  }

  @Test func aSectionTooLargeForItsLaneIsRolledBack() throws {
    let pool = try Self.pool()
    var generator = SeededGenerator.forTest()
    try pool.commitInLane(using: &generator)
    try pool.engine.openSection(.concurrent)
    for offset in EnginePool.announcedBytes { pool.bytes[offset] &+= 1 }
    pool.announce(EnginePool.announcedBytes)
    #expect {
      try pool.engine.closeSection()
    } throws: {
      guard case PoolError.sectionTooLarge(_, 16384) = $0 else { return false }
      return true
    }
    #expect(pool.current == pool.committed)
    // As large as a lane nearly: wherever its head was, there is room.
    for count in [9000, 14_000, 11_000, 15_000] {
      let first = EnginePool.announcedBytes.lowerBound
      try pool.engine.openSection(.concurrent)
      for offset in first..<first + count { pool.bytes[offset] &+= 1 }
      pool.announce(first..<first + count)
      try pool.engine.closeSection()
      pool.committed = pool.current
      let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
      #expect(recovered.bytes == pool.committed)
    }
  }

  /// Records of all sizes go round; the tail moves now and then, so that laps end in gaps.
  @Test func lanesGoRoundWithGaps() throws {
    let pool = try Self.pool()
    var generator = SeededGenerator.forTest()
    for round in 0..<300 {
      try pool.engine.openSection(.concurrent)
      let count = Int.random(in: 1...3000, using: &generator)
      let area = EnginePool.announcedBytes
      let first = Int.random(in: area.lowerBound...area.upperBound - count, using: &generator)
      for offset in first..<first + count { pool.bytes[offset] = generator.next() as UInt8 }
      pool.announce(first..<first + count)
      try pool.engine.closeSection()
      pool.committed = pool.current
      if round % 3 == 0 { try pool.engine.checkpointNow() }
      let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
      #expect(recovered.bytes == pool.committed, "round \(round)")
    }
    try pool.engine.openSection()
    try pool.engine.closeSection()
    let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(recovered.bytes == pool.committed && recovered.summary.recordCount == 0)
  }

  @Test func anExclusiveSectionWaitsForAConcurrentOne() throws {
    let pool = try Self.pool()
    let engine = pool.engine
    let (opened, opens) = (Event(), Event())
    run(threads: 2) { thread in
      attempt {
        if thread == 0 {
          try engine.openSection(.concurrent)
          opens.signal()
          if opened.wait(milliseconds: 300) { fatalError("both are open") }
          try engine.closeSection()
        } else {
          opens.wait()
          try engine.openSection(.exclusive)
          opened.signal()
          try engine.closeSection()
        }
      }
    }
  }

  /// A file in which one lane has a record.
  private func fileWithARecord() throws -> (EnginePool, [UInt8], Superblock) {
    let pool = try Self.pool()
    let first = EnginePool.announcedBytes.lowerBound
    try pool.engine.openSection(.concurrent)
    pool.bytes[first] = 77
    pool.announce(first..<first + 8)
    try pool.engine.closeSection()
    return (pool, FileBytes.read(pool.path), pool.engine.superblock)
  }

  @Test func aRecordOfAnotherLaneIsNotReplayed() throws {
    let (pool, original, superblock) = try fileWithARecord()
    var bytes = original
    let table = try #require(superblock.lanes)
    let lanes = (0..<2).map { Int(superblock.laneRegion($0, of: table).offset) }
    for byte in 0..<64 {
      bytes[lanes[1] + byte] = bytes[lanes[0] + byte]
      bytes[lanes[0] + byte] = 0
    }
    let recovered = try RecoveredImage(bytes, in: pool.directory)
    #expect(recovered.summary.recordCount == 0)
    #expect(recovered.bytes.allSatisfy { $0 == 0 })
  }

  @Test func aRecordThatTheSuperblockSaysIsAppliedIsNotReplayed() throws {
    let (pool, original, found) = try fileWithARecord()
    var (bytes, superblock) = (original, found)
    superblock.appliedLsn += 5
    superblock.encoded.withUnsafeBytes { words in
      for offset in Superblock.copyOffsets {
        for (byte, value) in words.enumerated() { bytes[offset + byte] = value }
      }
    }
    let recovered = try RecoveredImage(bytes, in: pool.directory)
    #expect(recovered.summary.recordCount == 0)
    #expect(recovered.bytes.allSatisfy { $0 == 0 })
  }

  @Test func aDamagedRecordInTheMiddleOfALaneIsRefused() throws {
    let (pool, _, superblock) = try fileWithARecord()
    var generator = SeededGenerator.forTest()
    let first = EnginePool.announcedBytes.lowerBound
    for _ in 0..<5 {
      try pool.engine.openSection(.concurrent)
      pool.bytes[first] &+= 1
      pool.announce(first..<first + 8)
      try pool.engine.closeSection()
    }
    var bytes = FileBytes.read(pool.path)
    let table = try #require(superblock.lanes)
    let start = Int(superblock.laneRegion(0, of: table).offset)
    bytes[start + 2 * 64 + Int.random(in: 8..<40, using: &generator)] ^= 4
    #expect {
      _ = try RecoveredImage(bytes, in: pool.directory)
    } throws: {
      guard case PoolError.damagedLog(_, let offset, _) = $0 else { return false }
      return offset == UInt64(start + 2 * 64)
    }
  }

  @Test func pageTrackedMemoryIsRefused() throws {
    let pool = try Self.pool()
    try pool.engine.openSection(.concurrent)
    #expect(throws: PoolError.pageTrackedWrite) { try pool.engine.trackOpenSection() }
    #expect(throws: PoolError.pageTrackedWrite) { try pool.engine.openSection(.exclusive) }
    try pool.engine.openSection(.concurrent)
    try pool.engine.closeSection()
    try pool.engine.closeSection()
  }

  /// A record that is on its way holds the cut back: what a rollback restores is behind it.
  @Test func aRollbackWaitsForRecordsThatWereDrawnBefore() throws {
    final class Pause: PersistenceObserver, @unchecked Sendable {
      let (isStored, goesOn) = (Event(), Event())
      let isArmed = Atomic(false)
      func didMap(_ memory: DurableMemory) {}
      func didStore(_ range: Range<Int>, isCached: Bool) {}
      func didFlush(_ range: Range<Int>) {}
      func willFence() throws(PoolError) {
        let wasArmed = isArmed.exchange(false, ordering: .sequentiallyConsistent)
        guard wasArmed else { return }
        isStored.signal()
        _ = goesOn.wait(milliseconds: 300)
      }
      func didFence() {}
      func didSetLength(_ bytes: Int) {}
      func didSyncLength() {}
    }
    let pause = Pause()
    let pool = try PersistenceLaboratory.$observer.withValue(pause) { try Self.pool() }
    let engine = pool.engine
    let address = engine.base + EnginePool.announcedBytes.lowerBound
    @Sendable func set(_ value: UInt64, at word: Int = 0) {
      let address = engine.base + EnginePool.announcedBytes.lowerBound
      address.storeBytes(of: value, toByteOffset: word * 8, as: UInt64.self)
      engine.announcedOfThisThread.announce(address + word * 8, byteCount: 8)
    }
    try engine.openSection(.concurrent)
    set(1)
    try engine.closeSection()
    run(threads: 2) { thread in
      attempt {
        if thread == 0 {
          try engine.openSection(.concurrent)
          set(5, at: 100)
          pause.isArmed.store(true, ordering: .sequentiallyConsistent)
          return try engine.closeSection()
        }
        pause.isStored.wait()
        try engine.openSection(.concurrent)
        set(2)
        try engine.closeSection()
        try engine.openSection(.concurrent)
        set(3)
        try engine.abortSection()
        pause.goesOn.signal()
      }
    }
    #expect(address.load(as: UInt64.self) == 2)
  }

  /// A thread says what was next, sleeps, and draws after others have committed: the cut of a
  /// rollback is behind them all the same.
  @Test func aRollbackNeverBringsBackWhatIsOlderThanAnAcknowledgedSection() throws {
    let pool = try Self.pool()
    let engine = pool.engine
    let address = engine.base + EnginePool.announcedBytes.lowerBound
    @Sendable func set(_ value: UInt64, at word: Int = 0) {
      let address = engine.base + EnginePool.announcedBytes.lowerBound
      address.storeBytes(of: value, toByteOffset: word * 8, as: UInt64.self)
      engine.announcedOfThisThread.announce(address + word * 8, byteCount: 8)
    }
    let (hasLoaded, goesOn, isOver) = (Event(), Event(), Event())
    run(threads: 2) { thread in
      attempt {
        if thread == 0 {
          try engine.openSection(.concurrent)
          set(5, at: 100)
          KillPoint.pause(at: .laneDrawing) {
            hasLoaded.signal()
            goesOn.wait()
            KillPoint.pause(at: .laneStored) { isOver.wait() }
          }
          return try engine.closeSection()
        }
        hasLoaded.wait()
        try engine.openSection(.concurrent)
        set(1)
        try engine.closeSection()
        try engine.openSection(.concurrent)
        set(7)
        KillPoint.pause(at: .laneWaited) {
          goesOn.signal()
          while engine.lanes.all.allSatisfy({ $0.pendingLsn.load(ordering: .acquiring) == .max }) {
            sched_yield()
          }
        }
        try engine.abortSection()
        isOver.signal()
      }
    }
    #expect(address.load(as: UInt64.self) == 1)
    let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(recovered.bytes == pool.current)
  }

  /// Its fence fails while the section waits: nobody builds on what it left in memory.
  @Test(arguments: [SectionKind.exclusive, .announced, .group])
  func aSectionThatWaitedForALaneThatFailedIsRefused(_ kind: SectionKind) throws {
    final class Failure: PersistenceObserver, @unchecked Sendable {
      let beforeFence = Mutex<(@Sendable () -> Void)?>(nil)
      func didMap(_ memory: DurableMemory) {}
      func didStore(_ range: Range<Int>, isCached: Bool) {}
      func didFlush(_ range: Range<Int>) {}
      func willFence() throws(PoolError) {
        let body = beforeFence.withLock { body in
          defer { body = nil }
          return body
        }
        guard let body else { return }
        body()
        throw .system(operation: "msync", errorNumber: EIO)
      }
      func didFence() {}
      func didSetLength(_ bytes: Int) {}
      func didSyncLength() {}
    }
    let failure = Failure()
    let pool = try PersistenceLaboratory.$observer.withValue(failure) { try Self.pool() }
    let engine = pool.engine
    let isStored = Event()
    run(threads: 2) { thread in
      attempt {
        if thread == 0 {
          try engine.openSection(.concurrent)
          let address = engine.base + EnginePool.announcedBytes.lowerBound
          address.storeBytes(of: 5, as: UInt64.self)
          engine.announcedOfThisThread.announce(address, byteCount: 8)
          failure.beforeFence.withLock {
            $0 = {
              isStored.signal()
              // The other thread has closed the gate and waits for this section.
              while !engine.lanes.isClosed.load(ordering: .acquiring) { sched_yield() }
            }
          }
          do {
            try engine.closeSection()
            fatalError("committed")
          } catch PoolError.outcomeUnknown {}
          return
        }
        isStored.wait()
        do {
          try engine.openSection(kind)
          fatalError("opened")
        } catch PoolError.poisoned {}
      }
    }
    #expect(throws: (any Error).self) { try engine.openSection() }
    // The record is there, and close has not said that it does not count.
    try engine.close()
    let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(recovered.bytes[EnginePool.announcedBytes.lowerBound] == 5)
  }

  @Test func aThreadThatEndsInItsSectionRollsItBack() throws {
    let pool = try Self.pool()
    let first = EnginePool.announcedBytes.lowerBound
    let engine = pool.engine
    run(threads: 1) { _ in
      try! engine.openSection(.concurrent)
      (engine.base + first).storeBytes(of: 7, as: UInt64.self)
      engine.announcedOfThisThread.announce(engine.base + first, byteCount: 8)
    }
    #expect(pool.bytes[first] == 0)
    try pool.engine.openSection()
    try pool.engine.closeSection()
  }
}

/// What the threads of these tests do.
private final class SharedWork: @unchecked Sendable {
  let engine: PoolEngine
  let words: UnsafeMutablePointer<UInt64>
  let failures = Atomic(0)
  private let lock = Lock()

  init(_ pool: EnginePool) {
    engine = pool.engine
    words = (engine.base + EnginePool.announcedBytes.lowerBound)
      .assumingMemoryBound(to: UInt64.self)
  }

  private func set(_ index: Int, _ value: UInt64) {
    words[index] = value
    engine.announcedOfThisThread.announce(words + index, byteCount: 8)
  }

  func section(_ thread: Int, _ round: UInt64) {
    lock.lock()
    attempt {
      try engine.openSection(.concurrent)
      set(0, words[0] + 1)
      set(1, words[1] + 1)
      set(16 + thread, round)
      try engine.closeSection()
    }
    lock.unlock()
    attempt {
      try engine.openSection(.concurrent)
      set(64 + thread * 8, round)
      try engine.closeSection()
    }
  }

  func abortedSection(_ thread: Int) {
    lock.lock()
    attempt {
      let before = (words[0], words[1])
      try engine.openSection(.concurrent)
      set(0, 1 << 40)
      set(1, 1 << 41)
      try engine.abortSection()
      if before != (words[0], words[1]) { failures.add(1, ordering: .relaxed) }
    }
    lock.unlock()
  }

  func exclusiveSection() {
    lock.lock()
    attempt {
      try engine.openSection()
      set(0, words[0] + 1)
      engine.base.storeBytes(of: words[0], as: UInt64.self)
      try engine.closeSection()
    }
    lock.unlock()
  }
}

extension EnginePool {
  /// Writes announced memory in a concurrent section.
  func scribbleInLane(using generator: inout SeededGenerator) {
    for _ in 0..<Int.random(in: 0...12, using: &generator) {
      let count = Int.random(in: 1...60, using: &generator)
      let area = Self.announcedBytes
      let first = Int.random(in: area.lowerBound...area.upperBound - count, using: &generator)
      for offset in first..<first + count { bytes[offset] = generator.next() as UInt8 }
      announce(first..<first + count)
    }
  }

  func commitInLane(using generator: inout SeededGenerator) throws {
    try engine.openSection(.concurrent)
    scribbleInLane(using: &generator)
    let next = current
    try engine.closeSection()
    committed = next
  }
}
