import Glibc
import TestSupport
import Testing

@testable import VolipCommit

@Suite struct RecoveryTests {
  /// The record of the last section loses any of its lines (a power cut before the fence): the
  /// state before it is found, never a mixture.
  @Test func aRecordThatMissesAnyOfItsLinesIsNotThere() throws {
    var generator = SeededGenerator.forTest()
    let pool = try EnginePool(logBytes: 128 << 10)
    for round in 0..<150 {
      let before = FileBytes.read(pool.path)
      let old = pool.committed
      let checkpoints = pool.engine.superblock.sequence
      try pool.commitScribbles(using: &generator)
      guard pool.engine.superblock.sequence == checkpoints else { continue }
      var torn = FileBytes.read(pool.path)
      let geometry = pool.engine.superblock.geometry
      let log = Int(geometry.logOffset)..<Int(geometry.logOffset + geometry.logBytes)
      let changed = log.filter { $0 % 64 == 0 && torn[$0..<$0 + 64] != before[$0..<$0 + 64] }
      guard let some = changed.randomElement(using: &generator) else { continue }
      for line in changed where line == some || Bool.random(using: &generator) {
        torn.replaceSubrange(line..<line + 64, with: before[line..<line + 64])
      }
      // The image too is as before: nothing is updated before the fence.
      let image = Int(geometry.imageOffset)
      torn.replaceSubrange(image..., with: before[image...])
      let recovered = try RecoveredImage(torn, in: pool.directory)
      #expect(recovered.bytes == old, "round \(round)")
    }
  }

  /// A crash in the update: any of the image's new lines are there, and none need be.
  @Test func aHalfUpdatedImageIsMadeWholeFromTheLog() throws {
    var generator = SeededGenerator.forTest()
    let pool = try EnginePool(logBytes: 128 << 10)
    for _ in 0..<60 {
      let before = FileBytes.read(pool.path)
      try pool.commitScribbles(using: &generator)
      var crashed = FileBytes.read(pool.path)
      let image = Int(pool.engine.superblock.geometry.imageOffset)
      for line in stride(from: image, to: crashed.count, by: 64)
      where crashed[line..<line + 64] != before[line..<line + 64]
        && Bool.random(using: &generator)
      {
        crashed.replaceSubrange(line..<line + 64, with: before[line..<line + 64])
      }
      // Only lines of records since the last checkpoint may be missing.
      let superblocks = 0..<8192
      guard crashed[superblocks] == before[superblocks] else { continue }
      let recovered = try RecoveredImage(crashed, in: pool.directory)
      #expect(recovered.bytes == pool.committed)
    }
  }

  /// A process that was killed before its log's msync leaves a record that can be read and is on no
  /// disk. Recovery once put half of it into the image before it made the record itself durable.
  @Test func recoveryMakesTheLogDurableBeforeItTouchesTheImage() throws {
    var generator = SeededGenerator.forTest()
    let pool = try EnginePool(persistence: .msync)
    for _ in 0..<5 { try pool.commitScribbles(using: &generator) }
    let path = pool.directory.file("copy.pool")
    FileBytes.write(FileBytes.read(pool.path), to: path)
    let file = try PoolFile.open(path: path)
    let memory = try DurableMemory.map(descriptor: file.descriptor, forced: .msync)
    #expect(try Recovery(file, memory).run().recordCount > 0)
    // The log, the image, two superblock copies.
    #expect(memory.counters.fences == 4)
  }

  /// A record that shares a sector with an older one is not written without it.
  @Test func onTheMsyncPathEachRecordStartsOnASectorOfItsOwn() throws {
    let pool = try EnginePool(persistence: .msync)
    for value in 1...3 {
      try pool.engine.openSection()
      pool.bytes[0] = UInt8(value)
      try pool.engine.closeSection()
    }
    #expect(pool.engine.parts.redoLog.positions == [0, 4096, 8192])
  }

  @Test func recoveringTwiceGivesTheSameBytesAndAHigherGeneration() throws {
    var generator = SeededGenerator.forTest()
    let pool = try EnginePool()
    for _ in 0..<30 { try pool.commitScribbles(using: &generator) }
    let once = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    let path = pool.directory.file("copy.pool")
    let twice = try RecoveredImage(FileBytes.read(path), in: pool.directory)
    #expect(once.bytes == pool.committed && twice.bytes == pool.committed)
    #expect(twice.summary.recordCount == 0)
    #expect(twice.superblock.generation == once.superblock.generation + 1)
  }

  /// Rule 2: at no moment of a checkpoint does recovery need both superblock copies.
  @Test func eitherSuperblockCopyAloneSufficesAtEachStepOfACheckpoint() throws {
    var generator = SeededGenerator.forTest()
    let pool = try EnginePool()
    for _ in 0..<10 { try pool.commitScribbles(using: &generator) }
    let before = FileBytes.read(pool.path)
    try pool.engine.checkpointNow()
    let after = FileBytes.read(pool.path)
    let first = 0..<256
    let second = 4096..<4352
    #expect(before[first] != after[first] && before[second] != after[second])
    for step in 0...2 {
      var file = after
      if step < 1 { file.replaceSubrange(first, with: before[first]) }
      if step < 2 { file.replaceSubrange(second, with: before[second]) }
      for damaged in [nil, first, second] {
        var image = file
        if let damaged { image[damaged.lowerBound + 100] ^= 0x10 }
        let recovered = try RecoveredImage(image, in: pool.directory)
        #expect(recovered.bytes == pool.committed, "step \(step), damaged \(damaged as Any)")
      }
    }
  }

  /// Rule 3: a record that an earlier life of the pool left in the log is never replayed.
  @Test func recordsOfAnEarlierGenerationAreNotReplayed() throws {
    var generator = SeededGenerator.forTest()
    let pool = try EnginePool()
    for _ in 0..<20 { try pool.commitScribbles(using: &generator) }
    let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(recovered.summary.recordCount > 0)
    // The same log is still in the file; the superblock says where a new one begins.
    let again = try RecoveredImage(
      FileBytes.read(pool.directory.file("copy.pool")), in: pool.directory)
    #expect(again.summary.recordCount == 0)
  }

  /// Rule 11.
  @Test func aDamagedRecordInMidLogIsRefusedAndNothingIsApplied() throws {
    var generator = SeededGenerator.forTest()
    let pool = try EnginePool(logBytes: 256 << 10)
    for _ in 0..<12 { try pool.commitScribbles(using: &generator) }
    let clean = FileBytes.read(pool.path)
    let log = Int(pool.engine.superblock.geometry.logOffset)
    for _ in 0..<20 {
      var damaged = clean
      damaged[log + Int.random(in: 0..<128, using: &generator)] ^= 0x40
      #expect {
        _ = try RecoveredImage(damaged, in: pool.directory)
      } throws: {
        guard case PoolError.damagedLog(_, let offset, _) = $0 else { return false }
        return offset == UInt64(log)
      }
      #expect(FileBytes.read(pool.directory.file("copy.pool")) == damaged)
    }
  }

  @Test func aFlipInTheLastRecordCannotBeToldFromATear() throws {
    let pool = try EnginePool()
    for value in 1...3 {
      try pool.engine.openSection()
      pool.bytes[0] = UInt8(value)
      try pool.engine.closeSection()
    }
    var file = FileBytes.read(pool.path)
    let geometry = pool.engine.superblock.geometry
    file[Int(geometry.logOffset) + 2 * 128 + 64] ^= 1
    file.replaceSubrange(
      Int(geometry.imageOffset)..<Int(geometry.imageOffset) + 64,
      with: [UInt8](repeating: 0, count: 64))
    #expect(try RecoveredImage(file, in: pool.directory).bytes[0] == 2)
  }

  @Test func aRecordOfAnotherPoolIsNotReplayed() throws {
    let one = try EnginePool()
    let other = try EnginePool()
    try one.engine.openSection()
    one.bytes[0] = 1
    try one.engine.closeSection()
    var file = FileBytes.read(other.path)
    let donor = FileBytes.read(one.path)
    let log = Int(other.engine.superblock.geometry.logOffset)
    file.replaceSubrange(log..<log + 128, with: donor[log..<log + 128])
    #expect(try RecoveredImage(file, in: other.directory).summary.recordCount == 0)
  }

  @Test func growthOfTheImageKeepsItsBytesAndAddressesAcrossCrashes() throws {
    var generator = SeededGenerator.forTest()
    let pool = try EnginePool()
    try pool.commitScribbles(using: &generator)
    let base = pool.engine.base
    let before = FileBytes.read(pool.path)
    try pool.engine.grow(toFileBytes: 4 << 20)
    #expect(pool.engine.base == base && pool.current == pool.committed)
    // A crash after the file grew and before a superblock says so: longer than it says is normal.
    let longer = before + [UInt8](repeating: 0, count: 2 << 20)
    #expect(try RecoveredImage(longer, in: pool.directory).bytes == pool.committed)
    let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(recovered.superblock.geometry.fileBytes == 4 << 20)
    for _ in 0..<20 { try pool.commitScribbles(using: &generator) }
    #expect(
      try RecoveredImage(FileBytes.read(pool.path), in: pool.directory).bytes == pool.committed)
  }
}
