// RecordHeader: the first line of a record in the log.
//
//   byte  size  field
//      0     4  magic "VREC"
//      4     2  kind, 1: lines of the image
//      6     2  alignment of the record after this one, as a power of two: 6 or 12
//      8     8  generation
//     16     8  lsn, one more than the record before
//     24     8  position: bytes of log written in this generation up to this record
//     32     8  previous end: where the record before ended; less than position where the rest of
//               the log was too short for this record
//     40     4  extent count
//     44     4  line count
//     48     8  first extent (LineExtent.word)
//     56     8  checksum, computed with this word zero
//     64     8  each further extent, then zero up to a whole line
//      .    64  each line, in the order of the extents
//
// The checksum covers header, extents and lines; its seed mixes pool identity, generation and lsn.
// It is the seal: without it there is no record.

import CVolipPersistence

public struct RecordHeader: Equatable, Sendable {
  public static let magic: UInt32 = 0x4345_5256  // "VREC", little-endian
  public static let kindLines: UInt16 = 1
  static let lineBytes = DurableMemory.lineBytes
  /// The byte of the checksum in the header.
  public static let checksumByte = 56

  public var alignmentShift: UInt16
  public var generation: UInt64
  public var lsn: UInt64
  public var position: UInt64
  public var previousEnd: UInt64
  public var extentCount: Int
  public var lineCount: Int
  public var firstExtent: LineExtent

  public init(
    alignmentShift: UInt16, generation: UInt64, lsn: UInt64, position: UInt64,
    previousEnd: UInt64, extentCount: Int, lineCount: Int, firstExtent: LineExtent
  ) {
    self.alignmentShift = alignmentShift
    self.generation = generation
    self.lsn = lsn
    self.position = position
    self.previousEnd = previousEnd
    self.extentCount = extentCount
    self.lineCount = lineCount
    self.firstExtent = firstExtent
  }

  /// Lines of extents behind the header: the first extent is in the header itself.
  public static func extentLines(_ extentCount: Int) -> Int { (extentCount - 1 + 7) / 8 }

  /// Bytes of a whole record.
  public static func recordBytes(extentCount: Int, lineCount: Int) -> Int {
    (1 + extentLines(extentCount) + lineCount) * lineBytes
  }

  public var recordBytes: Int {
    Self.recordBytes(extentCount: extentCount, lineCount: lineCount)
  }

  /// The position at which the next record may begin.
  public var end: UInt64 {
    let alignment = UInt64(1) << UInt64(alignmentShift)
    return (position + UInt64(recordBytes) + alignment - 1) / alignment * alignment
  }

  public static func seed(poolIdentity: UInt64, generation: UInt64, lsn: UInt64) -> UInt64 {
    isRemoved(.sealSeed) ? 0 : cvp_mix(cvp_mix(cvp_mix(poolIdentity) ^ generation) ^ lsn)
  }

  /// Writes the header, checksum zero, to a line.
  public func encode(to line: UnsafeMutableRawPointer) {
    // SAFETY: `line` has 64 bytes aligned to 64.
    func store<T: FixedWidthInteger>(_ value: T, _ byte: Int) {
      line.storeBytes(of: value.littleEndian, toByteOffset: byte, as: T.self)
    }
    store(Self.magic, 0)
    store(Self.kindLines, 4)
    store(alignmentShift, 6)
    store(generation, 8)
    store(lsn, 16)
    store(position, 24)
    store(previousEnd, 32)
    store(UInt32(extentCount), 40)
    store(UInt32(lineCount), 44)
    store(firstExtent.word, 48)
    store(UInt64(0), Self.checksumByte)
  }

  /// Reads a header; nil where there is none. Every number in it is still a stranger's.
  public static func decode(from line: UnsafeRawPointer) -> (header: RecordHeader, seal: UInt64)? {
    // SAFETY: `line` has 64 bytes aligned to 64.
    func load<T: FixedWidthInteger>(_ byte: Int, as type: T.Type) -> T {
      T(littleEndian: line.load(fromByteOffset: byte, as: T.self))
    }
    guard load(0, as: UInt32.self) == magic, load(4, as: UInt16.self) == kindLines else {
      return nil
    }
    let header = RecordHeader(
      alignmentShift: load(6, as: UInt16.self), generation: load(8, as: UInt64.self),
      lsn: load(16, as: UInt64.self), position: load(24, as: UInt64.self),
      previousEnd: load(32, as: UInt64.self), extentCount: Int(load(40, as: UInt32.self)),
      lineCount: Int(load(44, as: UInt32.self)),
      firstExtent: LineExtent(word: load(48, as: UInt64.self)))
    guard header.alignmentShift == 6 || header.alignmentShift == 12, header.extentCount >= 1,
      header.lineCount >= header.extentCount, header.position < 1 << 62,
      header.previousEnd < 1 << 62
    else { return nil }
    return (header, load(checksumByte, as: UInt64.self))
  }
}
