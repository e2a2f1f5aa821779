import Glibc
import TestSupport
import Testing

@testable import VolipCommit

/// Checkpoints beside sections: by steps, and in a thread of their own.
@Suite struct CheckpointThreadTests {
  /// Sections up to one that leaves a record: some write nothing that was not there.
  private func write(_ pool: EnginePool, _ generator: inout SeededGenerator) throws {
    let before = pool.engine.parts.redoLog.lastLsn
    while pool.engine.parts.redoLog.lastLsn == before {
      try pool.commitScribbles(using: &generator)
    }
  }

  private func recovered(_ pool: EnginePool) throws -> RecoveredImage {
    try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
  }

  @Test(arguments: [PersistencePath.cacheLines, .msync])
  func whatSectionsCommitMeanwhileIsRecoveredFromBehindTheNewTail(_ path: PersistencePath) throws {
    var generator = SeededGenerator.forTest("beside")
    let pool = try EnginePool(
      logBytes: 512 << 10, logBytesMax: 1 << 20, persistence: path, announces: true)
    for _ in 0..<20 {
      for _ in 0..<2 { try write(pool, &generator) }
      let checkpoint = try #require(try pool.engine.beginCheckpointBeside())
      try write(pool, &generator)
      checkpoint.flush()
      try write(pool, &generator)
      #expect(try recovered(pool).bytes == pool.committed)
      try pool.engine.endCheckpointBeside()
      #expect(pool.engine.superblock.logTail == checkpoint.head)
      #expect(pool.engine.superblock.appliedLsn == checkpoint.lsn)
      let image = try recovered(pool)
      #expect(image.bytes == pool.committed)
    }
    #expect(pool.current == pool.committed)
    try pool.engine.close()
  }

  /// The gate's owner flushes what nobody has begun to, and goes on.
  @Test func aWholeCheckpointFinishesTheOneBeside() throws {
    var generator = SeededGenerator.forTest("finished")
    let pool = try EnginePool(announces: true)
    try write(pool, &generator)
    let checkpoint = try #require(try pool.engine.beginCheckpointBeside())
    try write(pool, &generator)
    try pool.engine.checkpointNow()
    #expect(pool.engine.superblock.appliedLsn > checkpoint.lsn)
    // The thread comes too late, and changes nothing.
    checkpoint.flush()
    try pool.engine.endCheckpointBeside()
    #expect(try recovered(pool).bytes == pool.committed)
    #expect(try pool.engine.beginCheckpointBeside() == nil)
  }

  @Test func onlyOneGoesOnAtATime() throws {
    var generator = SeededGenerator.forTest("one")
    let pool = try EnginePool(announces: true)
    try write(pool, &generator)
    let first = try pool.engine.beginCheckpointBeside()
    #expect(first != nil)
    #expect(try pool.engine.beginCheckpointBeside() == nil)
    try pool.engine.close()
  }

  /// Sections enough to fill the log many times over: none of them is lost, whoever checkpoints.
  @Test(arguments: [1, 2])
  func aThreadMakesCheckpointsWhileSectionsCommit(_ commitThreads: Int) throws {
    var generator = SeededGenerator.forTest("checkpoint thread")
    let pool = try EnginePool(
      logBytes: 64 << 10, logBytesMax: 256 << 10, announces: true, commitThreads: commitThreads,
      checkpointThread: true)
    for round in 0..<400 {
      try write(pool, &generator)
      guard round % 40 == 0 else { continue }
      #expect(pool.current == pool.committed)
    }
    // Nobody stores while the file is read: the handle is closed.
    try pool.engine.close()
    #expect(try recovered(pool).bytes == pool.committed)
  }

  @Test func aHandleThatIsNotClosedEndsItsThreads() throws {
    for _ in 0..<20 {
      let pool = try EnginePool(commitThreads: 3, checkpointThread: true)
      try pool.engine.openSection()
      pool.bytes[0] = 1
      try pool.engine.closeSection()
    }
  }
}
