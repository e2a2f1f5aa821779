// FilePool: a pool that holds the bytes of one plain file, for programs that know nothing of pools.
//
//   image   0        one page    + length                        capacity
//           | header | the file's bytes | zeros, not there yet ... |
//
// The header is working memory as the bytes are, so that a new length is in the same epoch as what
// was written. The pool is sparse: its capacity costs addresses only.
//
// Invariants
// 1. Bytes of the image beyond the length are zero, but for those that the program wrote through a
//    mapping that reaches beyond the end of the file.
// 2. Every page below `watchedBytes` may be written; epochs commit what was.

@_exported import VolipCommit

import Glibc

public final class FilePool {
  /// "VOLIPFIL", little-endian.
  static let magic: UInt64 = 0x4C49_4650_494C_4F56
  public static let headerBytes = PoolGeometry.pageBytes
  /// Room to grow that every file gets: addresses, and no more.
  static let capacityMin: UInt64 = 16 << 30

  public let engine: PoolEngine
  public let path: String
  private var watchedBytes: UInt64 = 0

  private init(_ engine: PoolEngine, path: String) throws(PoolError) {
    self.engine = engine
    self.path = path
    try engine.watch(upTo: 1)
    // SAFETY: the header's page is mapped, and two words of it are read.
    let words = engine.base.assumingMemoryBound(to: UInt64.self)
    guard words[0] == UInt64(littleEndian: Self.magic) else {
      throw .notAPool(
        path: path, fileOffset: engine.superblock.geometry.imageOffset,
        reason: "it holds no file of a wrapped program")
    }
    guard words[1] <= capacity else {
      throw .notAPool(
        path: path, fileOffset: engine.superblock.geometry.imageOffset + 8,
        reason: "a length beyond the pool's end")
    }
    try watch(upTo: length)
    try engine.beginEpochs()
  }

  /// Opens a pool and recovers it.
  ///
  /// - Throws: `PoolError`; `.notAPool` where the pool holds no file.
  public static func open(_ path: String, options: EngineOptions) throws(PoolError) -> FilePool {
    try PoolEngine.withoutCancellation { () throws(PoolError) in
      try FilePool(PoolEngine(PoolFile.open(path: path), options: options), path: path)
    }
  }

  /// Makes a pool of the first `length` bytes behind `descriptor`. It has its name when all of them
  /// are durable in it, not before.
  public static func create(
    _ path: String, from descriptor: Int32, length: UInt64, options: EngineOptions
  ) throws(PoolError) -> FilePool {
    let geometry = try geometry(length: length)
    return try PoolEngine.create(path: path, geometry: geometry) { file throws(PoolError) in
      try fill(file, from: descriptor, length: length)
      return try FilePool(PoolEngine(file, options: options), path: path)
    }
  }

  /// An epoch may change every byte of the file, and more than once what it is now.
  private static func geometry(length: UInt64) throws(PoolError) -> PoolGeometry {
    let page = PoolGeometry.pageBytes
    let capacity = (max(capacityMin, 4 * length) + page - 1) / page * page
    let logBytesMax = capacity / 4
    let logBytes = min(max(length / 4, 1 << 20), 32 << 20)
    return try PoolGeometry(
      fileBytes: Superblock.areaBytes + logBytesMax + headerBytes + capacity,
      logBytes: logBytes, logBytesMax: logBytesMax)
  }

  /// Bytes and header, durable before the pool has a name.
  private static func fill(
    _ file: PoolFile, from descriptor: Int32, length: UInt64
  ) throws(PoolError) {
    let image = file.superblock.geometry.imageOffset
    let header = [magic.littleEndian, length.littleEndian]
    // SAFETY: an array's own bytes.
    let written = header.withUnsafeBytes { bytes in
      attempt("pwrite") { pwrite(file.descriptor, bytes.baseAddress, bytes.count, off_t(image)) }
    }
    guard written == 16 else {
      throw .system(operation: "pwrite", errorNumber: Int32(max(-written, 0)))
    }
    try copy(
      from: descriptor, 0, to: file.descriptor, image + headerBytes, byteCount: length,
      sparsely: true)
    try file.sync()
  }

  private static let copyBytes = 1 << 20

  /// Copies bytes of a file, without those blocks that are zero if `sparsely`.
  static func copy(
    from source: Int32, _ sourceOffset: UInt64, to target: Int32, _ targetOffset: UInt64,
    byteCount: UInt64, sparsely: Bool
  ) throws(PoolError) {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: copyBytes, alignment: 4096)
    defer { buffer.deallocate() }
    var done: UInt64 = 0
    while done < byteCount {
      let wanted = Int(min(UInt64(copyBytes), byteCount - done))
      // SAFETY: at most the buffer's own bytes.
      let count = try require("pread") {
        pread(source, buffer.baseAddress, wanted, off_t(sourceOffset + done))
      }
      guard count > 0 else { return }  // shorter by now; the rest is zero
      let bytes = UnsafeRawBufferPointer(rebasing: buffer[..<count])
      try write(bytes, to: target, at: targetOffset + done, sparsely: sparsely)
      done += UInt64(count)
    }
  }

  /// Writes bytes to a file, without those MiB that are zero if `sparsely`.
  static func write(
    _ bytes: UnsafeRawBufferPointer, to target: Int32, at offset: UInt64, sparsely: Bool
  ) throws(PoolError) {
    guard let start = bytes.baseAddress else { return }
    // SAFETY: all bytes equal their neighbour, and the first is 0.
    if sparsely, start.load(as: UInt8.self) == 0, memcmp(start, start + 1, bytes.count - 1) == 0 {
      return
    }
    var done = 0
    while done < bytes.count {
      // SAFETY: the rest of the bytes.
      done += try require("pwrite") {
        pwrite(target, start + done, bytes.count - done, off_t(offset) + off_t(done))
      }
    }
  }

  // MARK: Facts

  /// The file's first byte in memory, the same in every process and for ever.
  public var base: UnsafeMutableRawPointer { engine.base + Int(Self.headerBytes) }
  /// Bytes that the file may grow to.
  public var capacity: UInt64 {
    UInt64(engine.pageCount) * PoolGeometry.pageBytes - Self.headerBytes
  }
  /// Where the length stands: working memory, to be changed as the bytes are.
  public var lengthWord: UnsafeMutablePointer<UInt64> {
    // SAFETY: the second word of the header's page.
    engine.base.assumingMemoryBound(to: UInt64.self) + 1
  }
  public var length: UInt64 { lengthWord.pointee }

  // MARK: Changes

  /// Lets the first `byteCount` bytes of the file be written.
  public func watch(upTo byteCount: UInt64) throws(PoolError) {
    guard byteCount > watchedBytes else { return }
    let page = PoolGeometry.pageBytes
    try engine.watchInEpoch(upTo: Int((Self.headerBytes + byteCount + page - 1) / page))
    watchedBytes = byteCount
  }

  /// Makes bytes of the file zero. Pages that nobody ever wrote stay as they are: no memory.
  public func zero(_ bytes: Range<UInt64>) throws(PoolError) {
    guard bytes.count > Self.copyBytes else { return zeroAll(bytes) }
    // An msync of another thread arms pages before they are in the image.
    try engine.betweenCommits { () throws(PoolError) in try zeroSparsely(bytes) }
  }

  private func zeroSparsely(_ bytes: Range<UInt64>) throws(PoolError) {
    let page = PoolGeometry.pageBytes
    let pageMap = try Int32(
      require("open") { Int(Glibc.open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)) })
    defer { close(pageMap) }
    var entries = [UInt64](repeating: 0, count: 4096)
    var next = bytes.lowerBound
    while next < bytes.upperBound {
      let first = next / page
      let end = min(bytes.upperBound, (first + UInt64(entries.count)) * page)
      let address = UInt64(UInt(bitPattern: base)) + first * page
      // SAFETY: an array's own bytes.
      let count = entries.withUnsafeMutableBytes {
        pread(pageMap, $0.baseAddress, $0.count, off_t(address / page * 8))
      }
      guard count == entries.count * 8 else { return zeroAll(next..<bytes.upperBound) }
      let parts = engine.dataParts(in: Self.headerBytes + next..<Self.headerBytes + end)
      for (index, entry) in entries.enumerated() where next < end {
        let upper = min(end, (first + UInt64(index) + 1) * page)
        let image = Self.headerBytes + next..<Self.headerBytes + upper
        // In memory or swapped out, and not armed, which would say that it is as its image;
        // or a page of the image that is there.
        let mayDiffer = entry >> 62 != 0 && entry >> 57 & 1 == 0
        if mayDiffer || parts.contains(where: image.overlaps) { zeroAll(next..<upper) }
        next = upper
      }
    }
  }

  private func zeroAll(_ bytes: Range<UInt64>) {
    // SAFETY: watched bytes of the file.
    memset(base + Int(bytes.lowerBound), 0, bytes.count)
  }

  /// Writes the file's bytes to a plain file, sparsely, and makes them durable there.
  public func extract(to descriptor: Int32) throws(PoolError) {
    try require("ftruncate") { Int(ftruncate(descriptor, 0)) }
    try require("ftruncate") { Int(ftruncate(descriptor, off_t(length))) }
    var done: UInt64 = 0
    while done < length {
      let count = Int(min(UInt64(Self.copyBytes), length - done))
      // SAFETY: the first `length` bytes are mapped.
      let bytes = UnsafeRawBufferPointer(start: base + Int(done), count: count)
      try Self.write(bytes, to: descriptor, at: done, sparsely: true)
      done += UInt64(count)
    }
    try require("fsync") { Int(fsync(descriptor)) }
  }
}
