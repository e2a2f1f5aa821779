// RecordHeader: how a record in the log begins. There are two forms.
//
// The general one is a line:
//
//   byte  size  field
//      0     4  magic "VREC"
//      4     2  kind, 1: lines of the image; 3: announced writes, and lines perhaps
//      6     2  alignment of the record after this one, as a power of two: 6 or 12
//      8     8  generation
//     16     8  lsn, one more than the record before, in the lower 52 bits; above them how many
//               records were stored since the last fence when this one was
//     24     8  position: bytes of log written in this generation up to this record
//     32     8  previous end: where the record before ended; less than position where the rest of
//               the log was too short for this record
//     40     4  extent count
//     44     4  line count
//     48     8  kind 1: first extent (LineExtent.word); kind 3: announced words
//     56     8  checksum, computed with this word zero
//     64     8  kind 3: the announced words, then zero up to a whole line
//      .     8  each (further) extent, then zero up to a whole line
//      .    64  each line, in the order of the extents
//
// The compact one is for announced writes alone that begin where the record before ended, so that a
// section of one update is a line. What it does not say the reader knows, and the seed of its
// checksum covers:
//
//      0     4  magic "VRAN"
//      4     4  announced words; bit 31 for an alignment of 12 and not 6
//      8     8  lsn, and records since the last fence, as above
//     16     8  checksum, computed with this word zero
//     24     8  each announced word, then zero up to a whole line
//
// Announced words are extents of bytes: ByteExtent.word, then its bytes, zero up to a whole word.
//
// The checksum covers the whole record; its seed mixes pool identity, generation and the word of
// the lsn, and in the compact form the position. It is the seal: without it there is no record.

import CVolipPersistence

public struct RecordHeader: Equatable, Sendable {
  public static let magic: UInt32 = 0x4345_5256  // "VREC", little-endian
  public static let compactMagic: UInt32 = 0x4E41_5256  // "VRAN"
  public static let kindLines: UInt16 = 1
  public static let kindAnnounced: UInt16 = 3
  static let lineBytes = DurableMemory.lineBytes
  /// The byte of the checksum in the general form.
  public static let checksumByte = 56
  /// Bytes of the compact form, before its announced words.
  public static let compactBytes = 24
  /// Announced words that a header of either form can count: 16 GiB.
  public static let announcedWordsMax = 0x7FFF_FFFF
  /// Unfenced records before another one that its header can count.
  public static let unfencedMax = 0xFFF
  private static let lsnBits: UInt64 = 52
  static let lsnLimit: UInt64 = 1 << lsnBits

  public var alignmentShift: UInt16
  public var generation: UInt64
  public var lsn: UInt64
  public var position: UInt64
  public var previousEnd: UInt64
  public var extentCount: Int
  public var lineCount: Int
  public var firstExtent: LineExtent
  public var announcedWords: Int
  /// Records stored between the last fence and this one: as many before this one may be missing
  /// after a crash though this one is there.
  public var unfencedCount = 0
  public private(set) var isCompact = false

  public init(
    alignmentShift: UInt16, generation: UInt64, lsn: UInt64, position: UInt64,
    previousEnd: UInt64, extentCount: Int, lineCount: Int, firstExtent: LineExtent,
    announcedWords: Int = 0
  ) {
    self.alignmentShift = alignmentShift
    self.generation = generation
    self.lsn = lsn
    self.position = position
    self.previousEnd = previousEnd
    self.extentCount = extentCount
    self.lineCount = lineCount
    self.firstExtent = firstExtent
    self.announcedWords = announcedWords
  }

  /// A compact header.
  public init(
    alignmentShift: UInt16, generation: UInt64, lsn: UInt64, position: UInt64, announcedWords: Int
  ) {
    self.init(
      alignmentShift: alignmentShift, generation: generation, lsn: lsn, position: position,
      previousEnd: position, extentCount: 0, lineCount: 0,
      firstExtent: LineExtent(firstLine: 0, lineCount: 0), announcedWords: announcedWords)
    isCompact = true
  }

  /// Lines of extents behind the header: without announced words the first extent is in the header.
  public static func extentLines(_ extentCount: Int, announcedWords: Int = 0) -> Int {
    (extentCount - (announcedWords == 0 ? 1 : 0) + 7) / 8
  }

  /// Lines of announced words in the general form.
  public static func announcedLines(_ words: Int) -> Int { (words + 7) / 8 }

  /// Bytes of a whole record in the general form.
  public static func recordBytes(
    extentCount: Int, lineCount: Int, announcedWords: Int = 0
  ) -> Int {
    let extents = extentLines(extentCount, announcedWords: announcedWords)
    return (1 + announcedLines(announcedWords) + extents + lineCount) * lineBytes
  }

  /// Bytes of a whole record in the compact form.
  public static func compactRecordBytes(announcedWords: Int) -> Int {
    (compactBytes + announcedWords * 8 + lineBytes - 1) / lineBytes * lineBytes
  }

  public var recordBytes: Int {
    isCompact
      ? Self.compactRecordBytes(announcedWords: announcedWords)
      : Self.recordBytes(
        extentCount: extentCount, lineCount: lineCount, announcedWords: announcedWords)
  }

  /// Where the announced words begin.
  public var announcedByte: Int { isCompact ? Self.compactBytes : Self.lineBytes }

  /// The byte of this header's checksum.
  public var sealByte: Int { isCompact ? 16 : Self.checksumByte }

  /// The position at which the next record may begin.
  public var end: UInt64 {
    let alignment = UInt64(1) << UInt64(alignmentShift)
    return (position + UInt64(recordBytes) + alignment - 1) / alignment * alignment
  }

  private var lsnWord: UInt64 { lsn | UInt64(unfencedCount) << Self.lsnBits }

  private mutating func take(lsnWord word: UInt64) {
    lsn = word & (Self.lsnLimit - 1)
    unfencedCount = Int(word >> Self.lsnBits)
  }

  /// - Parameter lsn: the header's word, with what is above the lsn.
  public static func seed(poolIdentity: UInt64, generation: UInt64, lsn: UInt64) -> UInt64 {
    isRemoved(.sealSeed) ? 0 : cvp_mix(cvp_mix(cvp_mix(poolIdentity) ^ generation) ^ lsn)
  }

  /// The seed of this record's checksum.
  public func seed(poolIdentity: UInt64) -> UInt64 {
    let seed = Self.seed(poolIdentity: poolIdentity, generation: generation, lsn: lsnWord)
    return isCompact ? cvp_mix(seed ^ position) : seed
  }

  /// Writes the header, checksum zero, to a line; of a compact one only its own bytes.
  public func encode(to line: UnsafeMutableRawPointer) {
    // SAFETY: `line` has 64 bytes aligned to 64.
    func store<T: FixedWidthInteger>(_ value: T, _ byte: Int) {
      line.storeBytes(of: value.littleEndian, toByteOffset: byte, as: T.self)
    }
    guard !isCompact else {
      store(Self.compactMagic, 0)
      store(UInt32(announcedWords) | (alignmentShift == 12 ? 1 << 31 : 0), 4)
      store(lsnWord, 8)
      store(UInt64(0), sealByte)
      return
    }
    store(Self.magic, 0)
    store(announcedWords == 0 ? Self.kindLines : Self.kindAnnounced, 4)
    store(alignmentShift, 6)
    store(generation, 8)
    store(lsnWord, 16)
    store(position, 24)
    store(previousEnd, 32)
    store(UInt32(extentCount), 40)
    store(UInt32(lineCount), 44)
    store(announcedWords == 0 ? firstExtent.word : UInt64(announcedWords), 48)
    store(UInt64(0), Self.checksumByte)
  }

  /// Reads a header; nil where there is none. Every number in it is still a stranger's. A compact
  /// one gets the position and the generation that it is read for.
  public static func decode(
    from line: UnsafeRawPointer, at position: UInt64 = 0, generation: UInt64 = 0
  ) -> (header: RecordHeader, seal: UInt64)? {
    // SAFETY: `line` has 64 bytes aligned to 64.
    func load<T: FixedWidthInteger>(_ byte: Int, as type: T.Type) -> T {
      T(littleEndian: line.load(fromByteOffset: byte, as: T.self))
    }
    switch load(0, as: UInt32.self) {
    case compactMagic:
      let words = load(4, as: UInt32.self)
      var header = RecordHeader(
        alignmentShift: words >> 31 == 0 ? 6 : 12, generation: generation, lsn: 0,
        position: position, announcedWords: Int(words & 0x7FFF_FFFF))
      header.take(lsnWord: load(8, as: UInt64.self))
      return header.announcedWords > 1 ? (header, load(header.sealByte, as: UInt64.self)) : nil
    case magic:
      return decodeGeneral(load(4, as: UInt16.self), load, load, load)
    default:
      return nil
    }
  }

  private static func decodeGeneral(
    _ kind: UInt16, _ short: (Int, UInt16.Type) -> UInt16, _ half: (Int, UInt32.Type) -> UInt32,
    _ word: (Int, UInt64.Type) -> UInt64
  ) -> (header: RecordHeader, seal: UInt64)? {
    let last = word(48, UInt64.self)
    let isAnnounced = kind == kindAnnounced
    guard isAnnounced ? last > 1 && last <= announcedWordsMax : kind == kindLines else {
      return nil
    }
    var header = RecordHeader(
      alignmentShift: short(6, UInt16.self), generation: word(8, UInt64.self), lsn: 0,
      position: word(24, UInt64.self),
      previousEnd: word(32, UInt64.self), extentCount: Int(half(40, UInt32.self)),
      lineCount: Int(half(44, UInt32.self)),
      firstExtent: LineExtent(word: isAnnounced ? 0 : last),
      announcedWords: isAnnounced ? Int(last) : 0)
    header.take(lsnWord: word(16, UInt64.self))
    guard header.alignmentShift == 6 || header.alignmentShift == 12,
      header.extentCount >= 1 || isAnnounced, header.lineCount >= header.extentCount,
      header.position < 1 << 62, header.previousEnd < 1 << 62
    else { return nil }
    return (header, word(checksumByte, UInt64.self))
  }
}
