import TestSupport
import Testing

@testable import VolipMem
@testable import VolipPool

/// Rule 11: a bad record is the end of the log only if nothing was committed after it.
@Suite struct BadLogTests {
  let directory = TemporaryDirectory()
  static let sections = 8

  private func expectDamagedLog(
    _ pool: CraftedPool, at fileOffset: Int, _ comment: Comment
  ) {
    let (path, error) = pool.refusal(in: directory, comment)
    guard case .damagedLog(path, UInt64(fileOffset), let reason) = error else {
      Issue.record("\(comment): \(String(describing: error))")
      return
    }
    #expect(!reason.isEmpty && error?.exitCode == 2)
  }

  @Test func theHelperLeavesARecordForEachSection() async throws {
    let whole = try await CraftedPool.make(in: directory, sections: Self.sections)
    #expect(try whole.records.count == Self.sections)
    let pool = try whole.open(in: directory).pool
    #expect(try pool.sectionNumber == UInt64(Self.sections))
    #expect(try pool.statistics().replayed == Self.sections)
    try pool.expectUsable()
  }

  /// Any bit of any record but the last: nothing is applied.
  @Test func aFlipInMidLogIsRefusedAndNothingApplied() async throws {
    var generator = SeededGenerator.forTest()
    let whole = try await CraftedPool.make(in: directory, sections: Self.sections)
    for (offset, header) in try whole.records.dropLast() {
      let named = [0, 5, 8, 16, 24, 32, 40, 44, 48, 56, 64, header.recordBytes - 1]
      let random = (0..<8).map { _ in Int.random(in: 0..<header.recordBytes, using: &generator) }
      for byte in named + random {
        var damaged = whole
        damaged.bytes[offset + byte] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
        expectDamagedLog(damaged, at: offset, "record at \(offset), byte \(byte)")
      }
    }
  }

  @Test func aRecordErasedInMidLogIsRefused() async throws {
    let whole = try await CraftedPool.make(in: directory, sections: Self.sections)
    for (offset, header) in try whole.records.dropLast() {
      var damaged = whole
      for byte in 0..<header.recordBytes { damaged.bytes[offset + byte] = 0 }
      expectDamagedLog(damaged, at: offset, "record at \(offset)")
    }
  }

  /// It cannot be told from a write that a power cut tore: the state before it. (Each section here
  /// changes the same lines, so that replay of the others undoes the update of the last; where the
  /// last one changed lines that no other record names, its update stays in the image.)
  @Test func aFlipInTheVeryLastRecordOpensWithTheStateBefore() async throws {
    var generator = SeededGenerator.forTest()
    let whole = try await CraftedPool.make(in: directory, sections: Self.sections)
    let (offset, header) = try #require(try whole.records.last)
    for _ in 0..<30 {
      var damaged = whole
      let byte = offset + Int.random(in: 0..<header.recordBytes, using: &generator)
      damaged.bytes[byte] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
      let pool = try damaged.open(in: directory).pool
      #expect(try pool.sectionNumber == UInt64(Self.sections - 1))
      try pool.expectUsable()
    }
  }

  /// Records whose seal is right and whose contents are not: a forger has the checksum too.
  @Test func aForgedRecordIsNeverApplied() async throws {
    let whole = try await CraftedPool.make(in: directory, sections: Self.sections)
    let superblock = try whole.superblock
    let imageLines = superblock.geometry.imageBytes / 64
    let (offset, header) = try #require(try whole.records.first)
    let words: [(String, Int, UInt64)] = [
      ("extent beyond the image", 48, imageLines << 16 | 1),
      ("extent over the end", 48, (imageLines - 1) << 16 | 2),
      ("extent far out", 48, .max),
      ("empty extent", 48, header.firstExtent.word & ~0xFFFF),
      ("more lines than the log", 40, 1 | UInt64(UInt32.max) << 32),
      ("more extents than the log", 40, .max),
      ("another position", 24, header.position + 64),
      ("another generation", 8, header.generation + 1),
      ("an older generation", 8, header.generation - 1),
      ("another lsn", 16, header.lsn + 1),
      ("another predecessor", 32, header.previousEnd + 64),
    ]
    for (name, byte, value) in words {
      var forged = whole
      forged.setWord(value, at: offset + byte)
      try forged.reseal(recordAt: offset)
      expectDamagedLog(forged, at: offset, Comment(rawValue: name))
    }
  }
}
