// PoolGeometry: where the parts of a pool file are.
//
//   file   0        8 KiB              + logBytesMax                      fileBytes
//          | copy 1 | copy 2 | log, then room for it to grow | image ...  |
//
// The log grows in place into room that is a hole in the file until then; the image grows at the
// end of the file.

public struct PoolGeometry: Equatable, Sendable {
  public var baseAddress: UInt64
  public var fileBytes: UInt64
  public var logOffset: UInt64
  public var logBytes: UInt64
  public var logBytesMax: UInt64
  public var imageOffset: UInt64
  public var imageBytes: UInt64

  public static let pageBytes: UInt64 = 4096
  /// Smallest pool file: superblocks, a log, and an image with room for the heap's own pages.
  public static let fileBytesMin: UInt64 = 1 << 20
  /// Smallest log: a section that changes a page and the heap's own lines fits.
  public static let logBytesMin: UInt64 = 64 << 10
  /// Largest file: what the address range and 32-bit page indexes allow.
  public static let fileBytesMax: UInt64 = 1 << 43

  public var pageCount: UInt64 { imageBytes / Self.pageBytes }

  init(
    baseAddress: UInt64, fileBytes: UInt64, logOffset: UInt64, logBytes: UInt64,
    logBytesMax: UInt64, imageOffset: UInt64, imageBytes: UInt64
  ) {
    self.baseAddress = baseAddress
    self.fileBytes = fileBytes
    self.logOffset = logOffset
    self.logBytes = logBytes
    self.logBytesMax = logBytesMax
    self.imageOffset = imageOffset
    self.imageBytes = imageBytes
  }

  /// The parts of a new pool of `fileBytes` in all.
  ///
  /// - Parameters:
  ///   - logBytes: first size of the log; 1/32 of the file, at most 32 MiB, when nil.
  ///   - logBytesMax: what it may grow to; 1/8 of the file, at most 1 GiB, when nil.
  public init(fileBytes: UInt64, logBytes: UInt64?, logBytesMax: UInt64?) throws(PoolError) {
    guard fileBytes >= Self.fileBytesMin, fileBytes <= Self.fileBytesMax else {
      throw .invalidArgument(
        "a pool has \(Self.fileBytesMin) to \(Self.fileBytesMax) bytes, not \(fileBytes)")
    }
    let fileBytes = fileBytes / Self.pageBytes * Self.pageBytes
    // Before any of them is rounded up: sizes near 2^64 would overflow.
    guard max(logBytes ?? 0, logBytesMax ?? 0) <= fileBytes else {
      throw .invalidArgument("a log larger than its pool of \(fileBytes) bytes")
    }
    let most = Self.wholePages(logBytesMax ?? max(min(fileBytes / 8, 1 << 30), logBytes ?? 0))
    let first = Self.wholePages(
      logBytes ?? min(most, max(Self.logBytesMin, min(fileBytes / 32, 32 << 20))))
    guard first >= Self.logBytesMin, first <= most else {
      throw .invalidArgument(
        "a log has at least \(Self.logBytesMin) bytes and at most its logBytesMax, not \(first)")
    }
    let imageOffset = Superblock.areaBytes + most
    guard imageOffset + Self.imageBytesMin <= fileBytes else {
      throw .invalidArgument("a log of \(most) bytes leaves no room in a pool of \(fileBytes)")
    }
    self.init(
      baseAddress: 0, fileBytes: fileBytes, logOffset: Superblock.areaBytes, logBytes: first,
      logBytesMax: most, imageOffset: imageOffset, imageBytes: fileBytes - imageOffset)
  }

  /// Room for the heap's header, its page table and a few pages.
  static let imageBytesMin: UInt64 = 256 << 10

  private static func wholePages(_ bytes: UInt64) -> UInt64 {
    (bytes + pageBytes - 1) / pageBytes * pageBytes
  }

  /// What is impossible about a geometry that was read from a file, or nil (rule 21).
  var contradiction: String? {
    let parts = [fileBytes, logOffset, logBytes, logBytesMax, imageOffset, imageBytes]
    guard parts.allSatisfy({ $0 <= Self.fileBytesMax && $0 % Self.pageBytes == 0 }) else {
      return "a size or offset is out of range or not whole pages"
    }
    guard logOffset >= Superblock.areaBytes, logBytes >= Self.logBytesMin,
      logBytes <= logBytesMax, logOffset + logBytesMax <= imageOffset
    else { return "log and other parts overlap" }
    guard imageBytes >= Self.imageBytesMin, imageOffset + imageBytes <= fileBytes else {
      return "the image is outside the file"
    }
    guard AddressMap.isPlausible(base: baseAddress, imageBytes: imageBytes) else {
      return "base address out of range"
    }
    return nil
  }
}
