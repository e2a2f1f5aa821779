import Glibc
import Synchronization
import TestSupport
import Testing

@testable import VolipCommit

/// Threads that share a commit: what it makes is what one thread makes.
@Suite struct CommitThreadsTests {
  @Test func eachIndexIsInOneChunkWhateverTheirNumber() throws {
    var generator = SeededGenerator.forTest("chunks")
    for count in [2, 3, 7] {
      let threads = try #require(try CommitThreads.started(count))
      for _ in 0..<200 {
        let total = Int.random(in: 0...100, using: &generator)
        let seen = Mutex([Int](repeating: 0, count: total))
        let chunks = Mutex([Int]())
        threads.forEachChunk(of: total) { chunk, indexes, thread in
          precondition((0..<count).contains(thread))
          chunks.withLock { $0.append(chunk) }
          seen.withLock { for index in indexes { $0[index] += 1 } }
        }
        #expect(seen.withLock { $0 } == [Int](repeating: 1, count: total))
        #expect(
          chunks.withLock { $0.sorted() } == Array(0..<threads.chunkCount(of: total)))
      }
      threads.stop()
    }
  }

  @Test func impossibleNumbersOfThreadsAreRefused() {
    for count in [0, -1, 65] {
      #expect(throws: PoolError.self) { try CommitThreads.started(count) }
    }
  }

  /// Random sections over up to all pages: memory, image and what a crash leaves are the same.
  @Test(arguments: [PersistencePath.cacheLines, .msync], [2, 3])
  func aSharedCommitIsRecoveredWhole(_ path: PersistencePath, _ count: Int) throws {
    var generator = SeededGenerator.forTest("shared commits")
    let pool = try EnginePool(
      logBytes: 256 << 10, logBytesMax: 1 << 20, persistence: path, commitThreads: count)
    for round in 0..<60 {
      try pool.engine.openSection()
      for _ in 0..<Int.random(in: 1...40, using: &generator) {
        pool.scribble(using: &generator)
      }
      let next = pool.current
      try pool.engine.closeSection()
      pool.committed = next
      #expect(pool.current == next)
      guard round % 6 == 0 else { continue }
      // No checkpoint since: what is recovered is read from shared records.
      let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
      #expect(recovered.bytes == pool.committed)
    }
    try pool.engine.close()
  }

  /// The fences that the caller counts are its own: one a record, as without other threads.
  @Test func aSharedCommitHasOneFenceOfItsCaller() throws {
    let pool = try EnginePool(logBytes: 256 << 10, commitThreads: 2)
    let before = try pool.engine.currentStatistics().persistence
    try pool.engine.openSection()
    for page in 0..<20 { pool.bytes[page * 4096] = 1 }
    try pool.engine.closeSection()
    let after = try pool.engine.currentStatistics().persistence
    #expect(after.fences - before.fences == 1)
    // A header line, and extents of twenty lines in three more.
    #expect(after.storedBytes - before.storedBytes == (1 + 3 + 20) * 64)
  }

  @Test func aSharedSectionIsTakenBack() throws {
    let pool = try EnginePool(logBytes: 256 << 10, commitThreads: 2)
    try pool.engine.openSection()
    for page in 0..<30 { pool.bytes[page * 4096] = 7 }
    try pool.engine.closeSection()
    let before = pool.current
    try pool.engine.openSection()
    for page in 0..<40 { pool.bytes[page * 4096 + 64] = 9 }
    try pool.engine.abortSection()
    #expect(pool.current == before)
  }
}
