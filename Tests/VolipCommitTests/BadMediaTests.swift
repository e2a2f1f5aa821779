import CTestSupport
import Glibc
import TestSupport
import Testing

@testable import VolipCommit

/// Pages that answer with SIGBUS, in every part of a pool: repaired, or a typed error with offset.
///
/// UFFDIO_POISON marks a page of one mapping, as failed memory does for all. It is skipped where
/// the kernel has none (before 6.6).
@Suite struct BadMediaTests {
  static let canPoison: Bool = {
    let page = mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
    let result = cts_poison(page)
    if result != 0 { print("skipped: UFFDIO_POISON: errno \(-result)") }
    return result == 0
  }()

  private func poison(_ page: UnsafeMutableRawPointer) {
    let result = cts_poison(page)
    #expect(result == 0, "errno \(-result)")
  }

  /// An engine after some sections, with records in its log.
  private func makePool(
    sections: Int = 5, tracker: TrackerKind? = nil, retention: Bool = false,
    using generator: inout SeededGenerator
  ) throws -> EnginePool {
    let pool = try EnginePool(tracker: tracker, retention: retention)
    for _ in 0..<sections { try pool.commitScribbles(using: &generator) }
    return pool
  }

  private func contents(of pool: EnginePool) -> [UInt8] { FileBytes.read(pool.path) }

  /// A copy of the file as a killed process leaves it, mapped and not yet recovered.
  private func openCopy(
    of bytes: [UInt8], in directory: TemporaryDirectory
  ) throws -> (file: PoolFile, memory: DurableMemory) {
    let path = directory.file("copy.pool")
    unlink(path)
    FileBytes.write(bytes, to: path)
    let file = try PoolFile.open(path: path)
    return (file, try DurableMemory.map(descriptor: file.descriptor, forced: .cacheLines))
  }

  // MARK: Open

  @Test(.enabled(if: canPoison)) func aLogPageThatCannotBeReadIsDamageAndNothingIsApplied() throws {
    var generator = SeededGenerator.forTest()
    let pool = try makePool(using: &generator)
    let bytes = contents(of: pool)
    let geometry = pool.engine.superblock.geometry
    let tail = Int(pool.engine.superblock.logTail % geometry.logBytes)
    for page in Set([tail / 4096, tail / 4096 + 1]) {
      let (file, memory) = try openCopy(of: bytes, in: pool.directory)
      let offset = Int(geometry.logOffset) + page * 4096
      poison(memory.address(offset))
      let error = #expect(throws: PoolError.self) { try Recovery(file, memory).run() }
      guard case .damagedLog(_, let found, _) = error else {
        Issue.record("\(String(describing: error))")
        return
      }
      #expect(Int(found) / 4096 == offset / 4096)
      memory.unmap()
      #expect(FileBytes.read(file.path) == bytes)
    }
  }

  @Test(.enabled(if: canPoison), arguments: Superblock.copyOffsets)
  func aSuperblockPageThatCannotBeReadIsWrittenAnew(copy: Int) throws {
    var generator = SeededGenerator.forTest()
    let pool = try makePool(using: &generator)
    let (file, memory) = try openCopy(of: contents(of: pool), in: pool.directory)
    poison(memory.address(copy))
    _ = try Recovery(file, memory).run()
    memory.unmap()
    file.unlock()
    let recovered = try RecoveredImage(FileBytes.read(file.path), in: pool.directory)
    #expect(recovered.bytes == pool.committed)
    #expect(recovered.superblock.generation == pool.engine.superblock.generation + 2)
  }

  /// Not even the copy on the disk can be read: the other one is the superblock.
  @Test func aSuperblockCopyThatTheFileDoesNotGiveIsADamagedOne() throws {
    var generator = SeededGenerator.forTest()
    let pool = try makePool(using: &generator)
    let bytes = contents(of: pool)
    let path = pool.directory.file("copy.pool")
    FileBytes.write(bytes, to: path)
    var reads = 0
    for number in 1... {
      let refused = RefusedCall(number: number, errorNumber: EIO)
      let opened = try? RefusedCall.$current.withValue(refused) { try PoolFile.open(path: path) }
      guard let operation = refused.refused else { break }
      if operation == "pread" {
        reads += 1
        #expect(opened?.superblock.poolIdentity == pool.engine.superblock.poolIdentity)
      }
    }
    #expect(reads == 2)
  }

  @Test(.enabled(if: canPoison)) func anImagePageThatTheLogHasWholeIsRebuilt() throws {
    var generator = SeededGenerator.forTest()
    let pool = try makePool(using: &generator)
    let lost = 7
    try pool.engine.openSection()
    for line in 0..<64 { pool.bytes[lost * 4096 + line * 64] &+= 1 }
    try pool.engine.closeSection()
    try pool.commitScribbles(using: &generator)
    let geometry = pool.engine.superblock.geometry
    let (file, memory) = try openCopy(of: contents(of: pool), in: pool.directory)
    let page = memory.address(Int(geometry.imageOffset) + lost * 4096)
    poison(page)
    _ = try Recovery(file, memory).run()
    #expect(memcmp(page, pool.bytes + lost * 4096, 4096) == 0)
    memory.unmap()
    file.unlock()
    let recovered = try RecoveredImage(FileBytes.read(file.path), in: pool.directory)
    #expect(recovered.bytes == pool.committed)
  }

  @Test(.enabled(if: canPoison)) func anImagePageOfWhichTheLogHasAPartIsRefusedByOffset() throws {
    var generator = SeededGenerator.forTest()
    let pool = try makePool(using: &generator)
    let lost = 7
    try pool.engine.openSection()
    for line in 0..<63 { pool.bytes[lost * 4096 + line * 64] &+= 1 }
    try pool.engine.closeSection()
    try pool.engine.checkpointNow()
    try pool.engine.openSection()
    pool.bytes[lost * 4096] &+= 1
    try pool.engine.closeSection()
    let bytes = contents(of: pool)
    let geometry = pool.engine.superblock.geometry
    let (file, memory) = try openCopy(of: bytes, in: pool.directory)
    let offset = Int(geometry.imageOffset) + lost * 4096
    poison(memory.address(offset))
    #expect(throws: PoolError.unreadable(fileOffset: UInt64(offset))) {
      try Recovery(file, memory).run()
    }
    // The log is as it was: nothing is lost that was not lost already.
    #expect(file.superblock.appliedLsn == pool.engine.superblock.appliedLsn)
  }

  // MARK: Sections

  /// The section logs the whole page, then the file has it again.
  @Test(.enabled(if: canPoison), arguments: TrackerKind.hostKinds, [false, true])
  func anImagePageThatFailsUnderASectionIsRebuilt(
    _ kind: TrackerKind, retention: Bool
  ) throws {
    var generator = SeededGenerator.forTest("rebuilt \(kind.rawValue) \(retention)")
    guard let pool = try? makePool(tracker: kind, retention: retention, using: &generator) else {
      print("skipped: \(kind.rawValue) is unavailable")
      return
    }
    let geometry = pool.engine.superblock.geometry
    for round in 0..<20 {
      let lost = Int.random(in: 0..<EnginePool.watchedPages, using: &generator)
      let image = pool.engine.parts.memory.address(Int(geometry.imageOffset) + lost * 4096)
      if round % 3 == 0 { try pool.engine.checkpointNow() }
      try pool.engine.openSection()
      pool.scribble(using: &generator)
      pool.bytes[lost * 4096 + round] ^= 0xFF
      poison(image)
      let expected = pool.current
      try pool.engine.closeSection()
      pool.committed = expected
      #expect(memcmp(image, pool.bytes + lost * 4096, 4096) == 0)
      #expect(pool.current == expected)
      let recovered = try RecoveredImage(contents(of: pool), in: pool.directory)
      #expect(recovered.bytes == expected, "round \(round)")
      try requireWholeInLog(page: lost, of: pool)
    }
  }

  /// A section that wrote nothing took the failure that an update had met for answered, and the
  /// checkpoint made zeros durable that stood in for the page. And where the next pstart looked for
  /// stray writes, after a page fault of its thread, it met the failure and poisoned the handle.
  @Test(.enabled(if: canPoison && PersistenceLaboratory.isBuilt), arguments: [false, true])
  func aPageThatFailsUnderAnUpdateIsRebuilt(_ isLookedAtFirst: Bool) throws {
    var generator = SeededGenerator.forTest("rebuilt later")
    let pool = try makePool(using: &generator)
    let offset = Int(pool.engine.superblock.geometry.imageOffset) + 3 * 4096
    nonisolated(unsafe) let image = pool.engine.parts.memory.address(offset)
    try pool.engine.openSection()
    pool.bytes[3 * 4096 + 5] ^= 0xFF
    KillPoint.pause(at: .logged) { _ = cts_poison(image) }
    let expected = pool.current
    try pool.engine.closeSection()
    if isLookedAtFirst { faultOnce() }
    try pool.engine.openSection()
    try pool.engine.closeSection()
    try pool.engine.checkpointNow()
    let recovered = try RecoveredImage(contents(of: pool), in: pool.directory)
    #expect(recovered.bytes == expected)
  }

  /// A page fault of this thread.
  private func faultOnce() {
    let page = mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
    page.storeBytes(of: 1, as: UInt8.self)
    munmap(page, 4096)
  }

  /// Had the machine stopped before the page was rebuilt, recovery would do it.
  private func requireWholeInLog(page lost: Int, of pool: EnginePool) throws {
    let (file, memory) = try openCopy(of: contents(of: pool), in: pool.directory)
    let geometry = pool.engine.superblock.geometry
    let page = memory.address(Int(geometry.imageOffset) + lost * 4096)
    poison(page)
    _ = try Recovery(file, memory).run()
    #expect(memcmp(page, pool.bytes + lost * 4096, 4096) == 0)
    memory.unmap()
    file.unlock()
  }

  /// What stood there before the section is nowhere any more; what is durable stays durable.
  @Test(.enabled(if: canPoison)) func anImagePageThatFailsUnderAnAbortPoisonsTheHandle() throws {
    var generator = SeededGenerator.forTest()
    let pool = try makePool(using: &generator)
    let offset = Int(pool.engine.superblock.geometry.imageOffset) + 3 * 4096
    try pool.engine.openSection()
    pool.bytes[3 * 4096] ^= 0xFF
    poison(pool.engine.parts.memory.address(offset))
    #expect(throws: PoolError.unreadable(fileOffset: UInt64(offset))) {
      try pool.engine.abortSection()
    }
    #expect(throws: PoolError.self) { try pool.engine.openSection() }
    try pool.engine.close()
    let recovered = try RecoveredImage(contents(of: pool), in: pool.directory)
    #expect(recovered.bytes == pool.committed)
  }

  @Test(.enabled(if: canPoison), arguments: [false, true])
  func memoryThatFailsUnderASectionRollsItBack(aborts: Bool) throws {
    var generator = SeededGenerator.forTest()
    let pool = try makePool(tracker: .writeProtect, using: &generator)
    for round in 0..<10 {
      let lost = Int.random(in: 0..<EnginePool.watchedPages, using: &generator)
      try pool.engine.openSection()
      // Without that page there may be nothing to commit.
      if round % 2 == 0 { pool.scribble(using: &generator) }
      pool.bytes[lost * 4096] ^= 0xFF
      poison(pool.bytes + lost * 4096)
      if aborts {
        try pool.engine.abortSection()
      } else {
        #expect(throws: PoolError.memoryFailed(offset: UInt64(lost * 4096))) {
          try pool.engine.closeSection()
        }
      }
      #expect(pool.current == pool.committed)
      try pool.commitScribbles(using: &generator)
      #expect(pool.current == pool.committed)
      let recovered = try RecoveredImage(contents(of: pool), in: pool.directory)
      #expect(recovered.bytes == pool.committed)
    }
  }

  /// The record cannot be written: the section is rolled back; what was committed is all there.
  @Test(.enabled(if: canPoison)) func aLogPageThatFailsUnderACommitRollsTheSectionBack() throws {
    var generator = SeededGenerator.forTest()
    let pool = try makePool(using: &generator)
    let geometry = pool.engine.superblock.geometry
    let head = Int(pool.engine.parts.redoLog.head % geometry.logBytes)
    let offset = Int(geometry.logOffset) + (head / 4096 + 1) * 4096
    poison(pool.engine.parts.memory.address(offset))
    try pool.engine.openSection()
    for byte in 0..<20_000 { pool.bytes[byte] ^= 0xFF }
    #expect(throws: PoolError.unreadable(fileOffset: UInt64(offset))) {
      try pool.engine.closeSection()
    }
    #expect(pool.current == pool.committed)
    #expect(throws: PoolError.self) { try pool.engine.openSection() }
    try pool.engine.close()
    let recovered = try RecoveredImage(contents(of: pool), in: pool.directory)
    #expect(recovered.bytes == pool.committed)
  }

  /// The log is lost, and with it the list of what is not durable yet; the image has all of it.
  @Test(.enabled(if: canPoison)) func aLogPageThatFailsUnderACheckpointLosesNothing() throws {
    var generator = SeededGenerator.forTest()
    let pool = try makePool(using: &generator)
    let geometry = pool.engine.superblock.geometry
    let tail = Int(pool.engine.superblock.logTail % geometry.logBytes)
    poison(pool.engine.parts.memory.address(Int(geometry.logOffset) + tail / 4096 * 4096))
    try pool.engine.checkpointNow()
    #expect(pool.engine.parts.redoLog.isEmpty)
    for _ in 0..<3 { try pool.commitScribbles(using: &generator) }
    let recovered = try RecoveredImage(contents(of: pool), in: pool.directory)
    #expect(recovered.bytes == pool.committed)
  }

  @Test(.enabled(if: canPoison), arguments: Superblock.copyOffsets)
  func aSuperblockPageThatFailsUnderACheckpointIsWrittenAnew(copy: Int) throws {
    var generator = SeededGenerator.forTest()
    let pool = try makePool(using: &generator)
    poison(pool.engine.parts.memory.address(copy))
    try pool.engine.checkpointNow()
    try pool.commitScribbles(using: &generator)
    let bytes = contents(of: pool)
    let other = Superblock.copyOffsets.first { $0 != copy }!
    // The copy that was written anew suffices alone.
    var alone = bytes
    for byte in 0..<256 { alone[other + byte] = 0 }
    for each in [bytes, alone] {
      #expect(try RecoveredImage(each, in: pool.directory).bytes == pool.committed)
    }
  }

  /// Somebody cuts the file under an open pool: the pages behind its end answer with SIGBUS.
  @Test func aFileThatIsCutUnderAnOpenPoolIsATypedError() throws {
    var generator = SeededGenerator.forTest()
    let pool = try makePool(tracker: .writeProtect, retention: true, using: &generator)
    let offset = pool.engine.superblock.geometry.imageOffset + 2 * 4096
    try pool.engine.openSection()
    for page in 0..<40 { pool.bytes[page * 4096 + 1] ^= 0xFF }
    #expect(truncate(pool.path, off_t(offset)) == 0)
    #expect(throws: PoolError.self) { try pool.engine.closeSection() }
    #expect(throws: PoolError.self) { try pool.engine.openSection() }
    try? pool.engine.close()
    let error = #expect(throws: PoolError.self) { try PoolFile.open(path: pool.path) }
    guard case .truncated = error else {
      Issue.record("\(String(describing: error))")
      return
    }
  }
}
