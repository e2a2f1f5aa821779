// Units of pool addressing. Different things have different types; none of them is an address.

@_exported import VolipPersistence

/// Bytes from the start of persistent memory (the pool's base address).
public struct PoolOffset: Hashable, Comparable, Sendable, CustomStringConvertible {
  public let bytes: UInt64
  @inlinable
  public init(bytes: UInt64) { self.bytes = bytes }
  @inlinable
  public static func < (left: PoolOffset, right: PoolOffset) -> Bool { left.bytes < right.bytes }
  public var description: String { "0x" + String(bytes, radix: 16) }
}

/// A page of persistent memory, counted from its start. 2^32 pages are 16 TiB.
public struct PageIndex: Hashable, Comparable, Sendable, CustomStringConvertible {
  public let value: UInt32
  @inlinable
  public init(_ value: UInt32) { self.value = value }
  @inlinable
  public static func < (left: PageIndex, right: PageIndex) -> Bool { left.value < right.value }
  @inlinable
  public var offset: PoolOffset { PoolOffset(bytes: UInt64(value) << 12) }
  public var description: String { "page \(value)" }
}

/// Lines of 64 bytes of the image that follow each other, as a record names them.
///
/// On media one word: the first line's index shifted left by 16, plus the count (1 to 65,535).
public struct LineExtent: Equatable, Sendable {
  public var firstLine: UInt64
  public var lineCount: Int

  @inlinable
  public init(firstLine: UInt64, lineCount: Int) {
    self.firstLine = firstLine
    self.lineCount = lineCount
  }

  @inlinable
  public init(word: UInt64) {
    firstLine = word >> 16
    lineCount = Int(word & 0xFFFF)
  }

  @inlinable
  public var word: UInt64 { firstLine << 16 | UInt64(lineCount) }

  /// Which lines of a page it names: bit i for line i.
  public func mask(inPage page: UInt64) -> UInt64 {
    let lines = firstLine..<firstLine + UInt64(lineCount)
    let own = lines.clamped(to: page * 64..<page * 64 + 64)
    guard !own.isEmpty else { return 0 }
    return (UInt64.max >> (64 - UInt64(own.count))) << (own.lowerBound % 64)
  }

  /// The most lines that one extent can name.
  public static let lineCountMax = 0xFFFF
}

/// Bytes of the image that follow each other, as an announced write names them.
///
/// On media one word: the offset of the first byte shifted left by 20, plus the count.
public struct ByteExtent: Equatable, Sendable {
  public var offset: UInt64
  public var byteCount: Int

  @inlinable
  public init(offset: UInt64, byteCount: Int) {
    self.offset = offset
    self.byteCount = byteCount
  }

  @inlinable
  public init(word: UInt64) {
    offset = word >> 20
    byteCount = Int(word & 0xF_FFFF)
  }

  @inlinable
  public var word: UInt64 { offset << 20 | UInt64(byteCount) }

  /// Words that the bytes take in a record, behind the extent's own.
  @inlinable
  public var words: Int { (byteCount + 7) >> 3 }

  /// The most bytes that one extent can name. Offsets have 44 bits, more than a pool.
  public static let byteCountMax = 0xF_FFFF
}
