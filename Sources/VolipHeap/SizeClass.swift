/// Sizes of small blocks: 16 to 128 in steps of 16, then four in each power of two up to 4,096.
enum SizeClass {
  /// Bytes of a slab's header: one line, so that blocks are aligned as well as their size allows.
  static let slabHeaderBytes = 64
  /// Where in the header the bitmap is.
  static let bitmapByte = 8
  /// Blocks that a slab's bitmap can name.
  static let blocksMax = 256
  /// Requests beyond it get whole pages.
  static let smallBytesMax = 4096

  static let sizes: [Int] =
    (1...8).map { $0 * 16 } + (7..<12).flatMap { power in (5...8).map { $0 << (power - 2) } }

  static let count = 28

  struct Shape {
    let blockBytes: Int
    /// Pages of a slab: the fewest of 1, 2, 4 or 8 that waste at most an eighth.
    let pages: Int
    let blocks: Int
    /// 2^32 / blockBytes, rounded up: (offset * reciprocal) >> 32 is offset / blockBytes for every
    /// offset in a slab (at most 2^15).
    let reciprocal: UInt64

    /// The block in which a byte is, counted from the first block's first byte.
    @inline(__always)
    func index(_ inside: Int) -> Int {
      // Shifts bind tighter than products in Swift.
      Int((UInt64(inside) &* reciprocal) >> 32)
    }
  }

  static let shapes: [Shape] = sizes.map { size in
    let pages = [1, 2, 4, 8].first { pages in
      let room = pages * 4096 - slabHeaderBytes
      return min(room / size, blocksMax) * size * 8 >= pages * 4096 * 7
    }
    let room = (pages ?? 8) * 4096 - slabHeaderBytes
    return Shape(
      blockBytes: size, pages: pages ?? 8, blocks: min(room / size, blocksMax),
      reciprocal: ((1 << 32) + UInt64(size) - 1) / UInt64(size))
  }

  /// The class of a request of 1 to 4,096 bytes.
  @inline(__always)
  static func index(_ byteCount: Int) -> Int {
    if byteCount <= 128 { return (byteCount + 15) / 16 - 1 }
    let last = byteCount - 1
    let power = Int.bitWidth - 1 - last.leadingZeroBitCount
    return 8 + (power - 7) * 4 + (last >> (power - 2) & 3)
  }
}
