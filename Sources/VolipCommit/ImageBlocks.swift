/// Which parts of the image certainly have blocks in the file, so that the update cannot meet a
/// full disk. Learned in this process; starts knowing nothing.
final class ImageBlocks {
  /// Bytes that are allocated together: few calls, and little waste in a sparse pool.
  static let chunkBytes: UInt64 = 1 << 20
  static let chunkPages = Int(chunkBytes / PoolGeometry.pageBytes)

  private let file: PoolFile
  private let geometry: PoolGeometry
  private let isAllocated: ReservedArray<Bool>

  init(_ file: PoolFile) throws(PoolError) {
    self.file = file
    geometry = file.superblock.geometry
    isAllocated = try ReservedArray(
      capacity: Int((geometry.imageBytes + Self.chunkBytes - 1) / Self.chunkBytes))
  }

  /// Allocates the blocks of every page that has a changed line.
  func allocate(_ writeSet: WriteSet) throws(PoolError) {
    var last = -1
    for index in 0..<writeSet.pageCount {
      let chunk = writeSet.page(index) / Self.chunkPages
      guard chunk != last, writeSet.hasChanges(index) else { continue }
      last = chunk
      try allocate(chunk: chunk)
    }
  }

  /// Allocates the blocks of some pages.
  func allocate(pages: Range<Int>) throws(PoolError) {
    for chunk in pages.lowerBound / Self.chunkPages...(pages.upperBound - 1) / Self.chunkPages {
      try allocate(chunk: chunk)
    }
  }

  /// Allocates the blocks of a record's lines.
  func allocate(_ record: LogRecord) throws(PoolError) {
    for index in 0..<record.header.extentCount {
      let extent = record.extent(index)
      try allocate(
        bytes: extent.firstLine * 64..<(extent.firstLine + UInt64(extent.lineCount)) * 64)
    }
    try record.forEachAnnounced { (extent, _) throws(PoolError) in
      try allocate(bytes: extent.offset..<extent.offset + UInt64(extent.byteCount))
    }
  }

  private func allocate(bytes: Range<UInt64>) throws(PoolError) {
    let last = (bytes.upperBound - 1) / Self.chunkBytes
    for chunk in bytes.lowerBound / Self.chunkBytes...last { try allocate(chunk: Int(chunk)) }
  }

  private func allocate(chunk: Int) throws(PoolError) {
    guard !isAllocated[chunk] else { return }
    let first = UInt64(chunk) * Self.chunkBytes
    let last = min(first + Self.chunkBytes, geometry.imageBytes)
    try file.allocate(geometry.imageOffset + first..<geometry.imageOffset + last)
    isAllocated[chunk] = true
  }
}
