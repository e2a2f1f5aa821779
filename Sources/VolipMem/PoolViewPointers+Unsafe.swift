// Words of blocks that look like addresses of memory that is not the pool's.

extension PoolView {
  /// A word of a block, and the one of the given ranges in which it points.
  package struct ForeignPointer: Equatable {
    /// Bytes from the start of persistent memory.
    package let offset: UInt64
    package let value: UInt64
    package let range: Int
  }

  /// The most that are listed.
  package static let foreignPointersMax = 100_000

  /// Looks at each word of the blocks of a report.
  ///
  /// - Parameter ranges: ascending, without the pool's own.
  package func foreignPointers(
    _ report: HeapReport, into ranges: [Range<UInt64>]
  ) throws(PoolError) -> [ForeignPointer] {
    guard let first = ranges.first?.lowerBound, let end = ranges.last?.upperBound else { return [] }
    var found: [ForeignPointer] = []
    for block in report.blocks {
      let start = block.offset.bytes
      try withBytes(start..<start + UInt64(block.byteCount)) { bytes in
        // SAFETY: the view has the whole block mapped; blocks begin at multiples of 16.
        for byte in stride(from: 0, to: bytes.count & ~7, by: 8) {
          let value = UInt64(littleEndian: bytes.load(fromByteOffset: byte, as: UInt64.self))
          guard value >= first, value < end, let range = Self.range(of: value, in: ranges),
            found.count < Self.foreignPointersMax
          else { continue }
          found.append(ForeignPointer(offset: start + UInt64(byte), value: value, range: range))
        }
      }
    }
    return found
  }

  private static func range(of value: UInt64, in ranges: [Range<UInt64>]) -> Int? {
    var (low, high) = (0, ranges.count)
    while low < high {
      let middle = (low + high) / 2
      if ranges[middle].upperBound <= value { low = middle + 1 } else { high = middle }
    }
    return low < ranges.count && ranges[low].contains(value) ? low : nil
  }
}
