// Superblock: who the pool is, where its parts are, how far its log was applied.
//
// Two copies, at bytes 0 and 4,096 of the file; either alone suffices (rule 2). All integers are
// little-endian.
//
//   byte  size  field
//      0     8  magic "VOLIPMEM"
//      8     4  format version, 2
//     12     4  superblock bytes, 256
//     16     8  compatible features: may be ignored
//     24     8  incompatible features: unknown bits are refused
//     32     8  pool identity, drawn at creation
//     40     8  base address
//     48     8  file bytes; a longer file is normal
//     56     8  log offset in the file
//     64     8  log bytes in use
//     72     8  log bytes at most: the room behind log offset
//     80     8  image offset in the file
//     88     8  image bytes
//     96     8  sequence: raised by each superblock update
//    104     8  generation: only records of this generation are ever replayed (rule 3)
//    112     8  applied lsn: records up to it are in the image
//    120     8  log tail: position of the first record after the applied ones
//    128     4  number of lanes that the log is divided into; 0: it is one log
//    132     4  zero
//    136     8  each lane's tail
//      .        zero
//    248     8  checksum of the bytes before it, seeded with the magic

import CVolipPersistence

public struct Superblock: Equatable, Sendable {
  public static let magic: UInt64 = 0x4D45_4D50_494C_4F56  // "VOLIPMEM", little-endian
  public static let version: UInt32 = 2
  public static let byteCount = 256
  /// Where the copies stand in the file.
  public static let copyOffsets = [0, 4096]
  /// Bytes before the log: a page for each copy.
  public static let areaBytes: UInt64 = 8192
  /// Incompatible feature: the log is divided into lanes now. A pool that was closed has none.
  public static let lanesFeature: UInt64 = 1
  /// Incompatible feature: the log may end in records that were stored before a fence that never
  /// came, some of them missing. A pool that was closed has none.
  public static let buffersFeature: UInt64 = 2
  /// Incompatible features that this library knows.
  public static let knownFeatures: UInt64 = lanesFeature | buffersFeature

  /// Features of newer libraries that may be ignored; kept as they are.
  public var compatibleFeatures: UInt64 = 0
  /// But for that of `lanes`.
  public var incompatibleFeatures: UInt64 = 0
  public var poolIdentity: UInt64
  public var geometry: PoolGeometry
  public var sequence: UInt64 = 1
  public var generation: UInt64 = 1
  public var appliedLsn: UInt64 = 0
  public var logTail: UInt64 = 0
  /// Nil while the log is one.
  public var lanes: LaneTable?
  /// Whether the log may end in gaps.
  public var hasBuffers: Bool { incompatibleFeatures & Self.buffersFeature != 0 }

  public init(poolIdentity: UInt64, geometry: PoolGeometry) {
    self.poolIdentity = poolIdentity
    self.geometry = geometry
  }

  private var words: [UInt64] {
    [
      Self.magic, UInt64(Self.version) | UInt64(Self.byteCount) << 32,
      compatibleFeatures, incompatibleFeatures | (lanes == nil ? 0 : Self.lanesFeature),
      poolIdentity, geometry.baseAddress, geometry.fileBytes, geometry.logOffset,
      geometry.logBytes, geometry.logBytesMax, geometry.imageOffset, geometry.imageBytes,
      sequence, generation, appliedLsn, logTail,
    ] + LaneTable.words(lanes)
  }

  /// The 32 words of the superblock, checksum included, as they stand on media.
  public var encoded: [UInt64] {
    let body = words
    return (body + [Self.checksum(body)]).map(\.littleEndian)
  }

  /// Why a copy cannot be used.
  public enum Refusal: Error, Equatable {
    case noMagic
    case version(UInt32)
    case checksum
    case features(UInt64)
    case geometry(String)
    case unreadable
  }

  /// Reads one copy. Trusts nothing before the checksum, nor the geometry after it (rule 21).
  public static func decode(_ media: [UInt64]) throws(Refusal) -> Superblock {
    precondition(media.count == byteCount / 8)
    let words = media.map { UInt64(littleEndian: $0) }
    guard words[0] == magic else { throw .noMagic }
    let version = UInt32(truncatingIfNeeded: words[1])
    guard version == Self.version else { throw .version(version) }
    guard words[31] == checksum(Array(words[..<31])) || isRemoved(.superblockChecksum) else {
      throw .checksum
    }
    guard words[3] & ~knownFeatures == 0 || isRemoved(.superblockFeatures) else {
      throw .features(words[3] & ~knownFeatures)
    }
    let geometry = PoolGeometry(
      baseAddress: words[5], fileBytes: words[6], logOffset: words[7], logBytes: words[8],
      logBytesMax: words[9], imageOffset: words[10], imageBytes: words[11])
    if let reason = geometry.contradiction, !isRemoved(.superblockGeometry) {
      throw .geometry(reason)
    }
    var superblock = Superblock(poolIdentity: words[4], geometry: geometry)
    superblock.compatibleFeatures = words[2]
    superblock.incompatibleFeatures = words[3] & ~lanesFeature
    superblock.sequence = words[12]
    superblock.generation = words[13]
    superblock.appliedLsn = words[14]
    superblock.logTail = words[15]
    // So many positions, generations or records are not reached in the life of a pool; beyond them
    // sums could overflow, and a record's header has room for no larger lsn.
    guard [words[12], words[13], words[15]].allSatisfy({ $0 < 1 << 62 }),
      words[14] < RecordHeader.lsnLimit / 2
    else { throw .geometry("counter out of range") }
    guard words[15] % UInt64(DurableMemory.lineBytes) == 0 else {
      throw .geometry("log tail is not at a line")
    }
    if words[3] & lanesFeature != 0 {
      let table = LaneTable(words: Array(words[16..<31]))
      if let reason = table.contradiction(logBytes: geometry.logBytes) { throw .geometry(reason) }
      superblock.lanes = table
    }
    return superblock
  }

  private static func checksum(_ words: [UInt64]) -> UInt64 {
    checksumOfLines(words + [0], seed: magic)
  }
}
