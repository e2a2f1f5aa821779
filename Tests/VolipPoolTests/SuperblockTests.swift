import TestSupport
import Testing

@testable import VolipPool

@Suite struct SuperblockTests {
  private func sample(using generator: inout SeededGenerator) throws -> Superblock {
    let fileBytes = UInt64.random(in: 1 << 20...1 << 42, using: &generator)
    var geometry = try PoolGeometry(fileBytes: fileBytes, logBytes: nil, logBytesMax: nil)
    geometry.baseAddress = try AddressMap.drawBase(
      imageBytes: min(geometry.imageBytes, 1 << 40), using: &generator)
    var superblock = Superblock(poolIdentity: generator.next(), geometry: geometry)
    superblock.sequence = generator.next() >> 2
    superblock.generation = generator.next() >> 2
    superblock.appliedLsn = generator.next() >> 13
    superblock.logTail = generator.next() >> 2 & ~63
    return superblock
  }

  @Test func whatIsEncodedDecodesToTheSame() throws {
    var generator = SeededGenerator.forTest()
    for _ in 0..<500 {
      let superblock = try sample(using: &generator)
      #expect(try Superblock.decode(superblock.encoded) == superblock)
    }
  }

  /// The byte table at the head of Superblock.swift.
  @Test func fieldsStandAtTheBytesOfTheTable() throws {
    var generator = SeededGenerator.forTest()
    let superblock = try sample(using: &generator)
    let bytes = superblock.encoded.withUnsafeBytes { Array($0) }
    func word(_ byte: Int) -> UInt64 {
      (0..<8).reduce(0) { $0 | UInt64(bytes[byte + $1]) << UInt64($1 * 8) }
    }
    #expect(bytes.count == 256)
    #expect(String(decoding: bytes[..<8], as: UTF8.self) == "VOLIPMEM")
    #expect(bytes[8..<12].elementsEqual([2, 0, 0, 0]))
    #expect(bytes[12..<16].elementsEqual([0, 1, 0, 0]))
    let geometry = superblock.geometry
    let table: [(byte: Int, value: UInt64)] = [
      (16, 0), (24, 0), (32, superblock.poolIdentity), (40, geometry.baseAddress),
      (48, geometry.fileBytes), (56, geometry.logOffset), (64, geometry.logBytes),
      (72, geometry.logBytesMax), (80, geometry.imageOffset), (88, geometry.imageBytes),
      (96, superblock.sequence), (104, superblock.generation), (112, superblock.appliedLsn),
      (120, superblock.logTail),
    ]
    for (byte, value) in table { #expect(word(byte) == value, "byte \(byte)") }
    #expect(bytes[128..<248].allSatisfy { $0 == 0 })
    #expect(word(248) != 0)
  }

  @Test(arguments: [0, 1])
  func ofTwoWholeCopiesTheOneWithTheHigherSequenceCounts(_ newer: Int) throws {
    let directory = TemporaryDirectory()
    let path = directory.file("two.pool")
    var geometry = try PoolGeometry(fileBytes: 1 << 20, logBytes: nil, logBytesMax: nil)
    geometry.baseAddress = AddressMap.poolRange.lowerBound
    try PoolFile.create(path: path, geometry: geometry).publish()
    var superblock = Superblock(poolIdentity: 7, geometry: geometry)
    for (copy, offset) in Superblock.copyOffsets.enumerated() {
      superblock.sequence = copy == newer ? 12 : 11
      superblock.generation = superblock.sequence
      FileBytes.write(superblock.encoded.withUnsafeBytes { Array($0) }, to: path, at: offset)
    }
    #expect(try PoolFile.open(path: path).superblock.generation == 12)
  }

  @Test func everyFlippedBitIsRefused() throws {
    var generator = SeededGenerator.forTest()
    let encoded = try sample(using: &generator).encoded
    for bit in 0..<Superblock.byteCount * 8 {
      var flipped = encoded
      flipped[bit / 64] ^= 1 << UInt64(bit % 64)
      let expected: Superblock.Refusal =
        switch bit / 8 {
        case 0..<8: .noMagic
        case 8..<12: .version(Superblock.version ^ 1 << UInt32(bit - 64))
        default: .checksum
        }
      #expect(throws: expected) { try Superblock.decode(flipped) }
    }
  }

  @Test func impossibleFieldsAreRefusedThoughTheChecksumIsRight() throws {
    var generator = SeededGenerator.forTest()
    let superblock = try sample(using: &generator)
    let changes: [(String, (inout Superblock) -> Void)] = [
      ("base not at a page", { $0.geometry.baseAddress += 1 }),
      ("base too low", { $0.geometry.baseAddress = 4096 }),
      ("base in the upper half", { $0.geometry.baseAddress = 1 << 63 }),
      ("base at the end", { $0.geometry.baseAddress = .max & ~4095 }),
      ("file bytes not whole pages", { $0.geometry.fileBytes += 1 }),
      ("file bytes huge", { $0.geometry.fileBytes = .max & ~4095 }),
      ("log in the superblocks", { $0.geometry.logOffset = 4096 }),
      ("log behind the image", { $0.geometry.logOffset = $0.geometry.imageOffset }),
      ("log empty", { $0.geometry.logBytes = 0 }),
      ("log small", { $0.geometry.logBytes = 4096 }),
      ("log larger than its room", { $0.geometry.logBytes = $0.geometry.logBytesMax + 4096 }),
      ("log room over the image", { $0.geometry.logBytesMax += 4096 }),
      ("log room huge", { $0.geometry.logBytesMax = .max & ~4095 }),
      ("image empty", { $0.geometry.imageBytes = 0 }),
      ("image beyond the file", { $0.geometry.imageBytes += 4096 }),
      ("image huge", { $0.geometry.imageBytes = .max & ~4095 }),
      ("image beyond the file's end", { $0.geometry.imageOffset = $0.geometry.fileBytes }),
      ("sequence", { $0.sequence = 1 << 62 }),
      ("generation", { $0.generation = .max }),
      ("applied lsn", { $0.appliedLsn = .max }),
      ("log tail", { $0.logTail = .max & ~63 }),
      ("log tail in a line", { $0.logTail += 1 }),
    ]
    for (name, change) in changes {
      var changed = superblock
      change(&changed)
      let error = #expect(throws: Superblock.Refusal.self) {
        _ = try Superblock.decode(changed.encoded)
      }
      guard case .geometry = error else {
        Issue.record("\(name): \(String(describing: error))")
        continue
      }
    }
  }

  @Test func unknownIncompatibleFeaturesAreRefusedByName() throws {
    var generator = SeededGenerator.forTest()
    var superblock = try sample(using: &generator)
    superblock.incompatibleFeatures = 1 << 40 | 4
    #expect(throws: Superblock.Refusal.features(1 << 40 | 4)) {
      try Superblock.decode(superblock.encoded)
    }
  }

  /// They were written back as zero by every superblock update.
  @Test func compatibleFeaturesOfANewerLibraryAreKept() throws {
    var geometry = try PoolGeometry(fileBytes: 1 << 20, logBytes: nil, logBytesMax: nil)
    geometry.baseAddress = AddressMap.poolRange.lowerBound
    var superblock = Superblock(poolIdentity: 1, geometry: geometry)
    superblock.compatibleFeatures = 0x8000_0000_0000_0001
    #expect(try Superblock.decode(superblock.encoded) == superblock)
  }
}
