/// The bytes of an input, zeros behind their end.
struct InputReader {
  private let bytes: UnsafeBufferPointer<UInt8>
  private var position = 0

  init(_ bytes: UnsafeBufferPointer<UInt8>) { self.bytes = bytes }

  var isAtEnd: Bool { position >= bytes.count }

  mutating func byte() -> UInt8 {
    defer { position += 1 }
    return position < bytes.count ? bytes[position] : 0
  }

  mutating func number(bytes count: Int) -> UInt64 {
    (0..<count).reduce(0) { value, index in value | UInt64(byte()) << UInt64(index * 8) }
  }

  /// A value in place of `old`: any, or one near to it.
  mutating func value(for old: UInt64) -> UInt64 {
    let kind = byte()
    switch kind >> 4 {
    case 0: return number(bytes: 1)
    case 1: return number(bytes: 2)
    case 2: return number(bytes: 4)
    case 3: return number(bytes: 8)
    case 4: return old &+ UInt64(kind & 0xF)
    case 5: return old &- UInt64(kind & 0xF)
    case 6: return old ^ 1 << UInt64(byte() & 63)
    case 7: return UInt64.max >> UInt64(byte() & 63)
    case 8: return 1 << UInt64(byte() & 63)
    case 9: return number(bytes: 1) << 12
    case 10: return old & ~0xFFFF | number(bytes: 2)
    case 11: return old & ~0xFFFF_FFFF | number(bytes: 4)
    case 12: return old & 0xFFFF_FFFF | number(bytes: 2) << 32
    case 13: return old & 0xFFFF_FFFF | number(bytes: 4) << 32
    case 14:
      return old & ~(0xFF << UInt64((kind & 7) * 8)) | number(bytes: 1) << UInt64((kind & 7) * 8)
    default: return 0
    }
  }
}
