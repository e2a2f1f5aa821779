import Glibc
import TestSupport
import Testing

@testable import VolipCommit

/// Logs that have gone round, forged with right seals: no number in them ends the process.
@Suite struct ForgedLogTests {
  @Test func aForgedLogThatHasGoneRoundIsRefusedOrApplied() throws {
    var generator = SeededGenerator.forTest()
    let pool = try EnginePool(fileBytes: 1 << 20, logBytesMax: 64 << 10)
    var (refused, applied, wrapped, forged) = (0, 0, 0, 0)
    while forged < 250 || wrapped == 0 {
      try pool.commitScribbles(using: &generator)
      let clean = FileBytes.read(pool.path)
      let log = ForgedLog(clean, pool.engine.superblock, pool.engine.parts.redoLog.positions)
      guard log.positions.count > 1 else { continue }
      if log.hasGoneRound { wrapped += 1 }
      for _ in 0..<5 {
        forged += 1
        var mutant = log
        for _ in 0..<Int.random(in: 1...3, using: &generator) { mutant.forge(using: &generator) }
        do {
          _ = try RecoveredImage(mutant.bytes, in: pool.directory)
          applied += 1
        } catch {
          guard case PoolError.damagedLog = error else { throw error }
          refused += 1
          let left = FileBytes.read(pool.directory.file("copy.pool"))
          #expect(memcmp(left, mutant.bytes, left.count) == 0)
        }
      }
    }
    print("\(refused) refused, \(applied) applied, \(wrapped) logs had gone round")
    #expect(refused > 0 && applied > 0)
  }
}

extension ForgedLogTests {
  /// Three records; of the last one field is wrong, under a right seal. It is not what follows the
  /// second, so it is not replayed: either there is no such record, or it is damage.
  @Test(arguments: [8, 16, 24, 32])
  func aSealedRecordThatDoesNotFollowIsNotReplayed(_ field: Int) throws {
    let pool = try EnginePool()
    for value in 1...3 {
      try pool.engine.openSection()
      pool.bytes[0] = UInt8(value)
      try pool.engine.closeSection()
    }
    let log = ForgedLog(
      FileBytes.read(pool.path), pool.engine.superblock, pool.engine.parts.redoLog.positions)
    #expect(try RecoveredImage(log.bytes, in: pool.directory).summary.recordCount == 3)
    for difference: UInt64 in [1, 64, 128, 4096, .max] {
      var forged = log
      forged.add(difference, toField: field, ofRecord: 2)
      do {
        let found = try RecoveredImage(forged.bytes, in: pool.directory)
        #expect(found.summary.recordCount == 2, "\(difference)")
      } catch {
        guard case PoolError.damagedLog = error else { throw error }
      }
    }
  }

  /// A record at the end of the log whose lines are said to go on behind it, sealed over what is
  /// there.
  @Test func aRecordThatReachesOverTheEndOfTheLogIsNotReplayed() throws {
    let pool = try EnginePool(fileBytes: 1 << 20, logBytesMax: 64 << 10)
    var number = 0
    var positions: [UInt64] = []
    repeat {
      number += 1
      try pool.engine.openSection()
      pool.bytes[0] = UInt8(truncatingIfNeeded: number)
      try pool.engine.closeSection()
      positions = pool.engine.parts.redoLog.positions
    } while positions.last! != (64 << 10) - 128
    var log = ForgedLog(FileBytes.read(pool.path), pool.engine.superblock, positions)
    log.lengthen(record: positions.count - 1, byLines: 3)
    let found = try RecoveredImage(log.bytes, in: pool.directory)
    #expect(found.summary.recordCount == positions.count - 1)
  }
}

/// A pool file whose records can be changed and sealed again.
private struct ForgedLog {
  var bytes: [UInt8]
  private let superblock: Superblock
  let positions: [UInt64]

  init(_ bytes: [UInt8], _ superblock: Superblock, _ positions: [UInt64]) {
    self.bytes = bytes
    self.superblock = superblock
    self.positions = positions
  }

  private var logBytes: UInt64 { superblock.geometry.logBytes }
  var hasGoneRound: Bool { Set(positions.map { $0 / logBytes }).count > 1 }

  private func offset(_ position: UInt64) -> Int {
    Int(superblock.geometry.logOffset + position % logBytes)
  }

  /// Sets one field of one record, or copies a record to another's place, and seals it.
  mutating func forge(using generator: inout SeededGenerator) {
    let position = positions.randomElement(using: &generator)!
    let start = offset(position)
    let other = positions.randomElement(using: &generator)!
    let interesting: [UInt64] = [
      0, 1, position, other, superblock.logTail, superblock.logTail + logBytes, logBytes,
      position + logBytes, position &- logBytes, 1 << 61, .max, .max - 63, UInt64(UInt32.max),
      superblock.appliedLsn, superblock.appliedLsn + UInt64(positions.count),
      generator.next() & 0xFFFF, generator.next(),
    ]
    let value = interesting.randomElement(using: &generator)!
    switch Int.random(in: 0..<9, using: &generator) {
    case 0: set(UInt16(truncatingIfNeeded: value & 15), start + 6)
    case 1: set(value, start + 16)  // lsn
    case 2: set(value, start + 24)  // position
    case 3: set(value, start + 32)  // previous end
    case 4: set(UInt32(truncatingIfNeeded: value), start + 40)
    case 5: set(UInt32(truncatingIfNeeded: value), start + 44)
    case 6: set(value, start + Int.random(in: 6..<16, using: &generator) * 8)  // extents, lines
    case 7:
      let count = min(Int(value & 0xFC0), bytes.count - max(start, offset(other)))
      for byte in 0..<count { bytes[start + byte] = bytes[offset(other) + byte] }
      set(position, start + 24)
    default: bytes[start + Int(value & 127)] ^= 4
    }
    reseal(start)
  }

  /// Changes a word of a record's header, and seals it.
  mutating func add(_ difference: UInt64, toField byte: Int, ofRecord index: Int) {
    let start = offset(positions[index])
    let word = bytes.withUnsafeBytes {
      $0.loadUnaligned(fromByteOffset: start + byte, as: UInt64.self)
    }
    set(word &+ difference, start + byte)
    reseal(start)
  }

  /// Makes a record of one extent longer, and seals it.
  mutating func lengthen(record index: Int, byLines count: Int) {
    let start = offset(positions[index])
    set(UInt32(1 + count), start + 44)
    set(LineExtent(firstLine: 0, lineCount: 1 + count).word, start + 48)
    reseal(start)
  }

  private mutating func set<T: FixedWidthInteger>(_ value: T, _ offset: Int) {
    bytes.withUnsafeMutableBytes {
      $0.storeBytes(of: value.littleEndian, toByteOffset: offset, as: T.self)
    }
  }

  private mutating func reseal(_ start: Int) {
    set(UInt64(0), start + RecordHeader.checksumByte)
    let line = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 64)
    defer { line.deallocate() }
    bytes.withUnsafeBytes { line.copyMemory(from: $0.baseAddress! + start, byteCount: 64) }
    guard let header = RecordHeader.decode(from: line)?.header,
      header.recordBytes <= bytes.count - start
    else { return }
    let words = bytes.withUnsafeBytes { bytes in
      (0..<header.recordBytes / 8).map {
        bytes.loadUnaligned(fromByteOffset: start + $0 * 8, as: UInt64.self)
      }
    }
    let seed = RecordHeader.seed(
      poolIdentity: superblock.poolIdentity, generation: header.generation, lsn: header.lsn)
    set(checksumOfLines(words, seed: seed), start + RecordHeader.checksumByte)
  }
}

extension RedoLog {
  /// Where the live records begin.
  var positions: [UInt64] {
    var result: [UInt64] = []
    forEachLive { result.append($0.header.position) }
    return result
  }
}
