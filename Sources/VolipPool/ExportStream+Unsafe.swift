// ExportStream: an exported pool's file, written or read from its beginning to its end.

import Glibc

package final class ExportStream {
  package let path: String
  /// Room for the pages of a chunk, aligned to lines.
  package let buffer: UnsafeMutableRawBufferPointer
  private let descriptor: Int32
  package private(set) var offset: UInt64 = 0
  /// Of a file that is read.
  package private(set) var byteCount: UInt64 = 0

  private init(_ path: String, flags: Int32) throws(PoolError) {
    let opened = attempt("open") { Int(Glibc.open(path, flags | O_CLOEXEC, 0o600)) }
    guard opened >= 0 else { throw PoolFile.openError(path, Int32(-opened)) }
    self.path = path
    descriptor = Int32(opened)
    buffer = .allocate(byteCount: ExportChunk.pagesMax << 12, alignment: 4096)
  }

  /// A file that must not exist.
  package convenience init(creating path: String) throws(PoolError) {
    try self.init(path, flags: O_WRONLY | O_CREAT | O_EXCL)
  }

  package convenience init(reading path: String) throws(PoolError) {
    try self.init(path, flags: O_RDONLY | O_NONBLOCK)
    byteCount = try PoolFile.regularFileBytes(descriptor, path: path)
  }

  deinit {
    close(descriptor)
    buffer.deallocate()
  }

  package func write(_ line: ExportLine) throws(PoolError) {
    var result: PoolError?
    line.media.withUnsafeBytes { bytes in
      do throws(PoolError) {
        try write(bytes)
      } catch {
        result = error
      }
    }
    if let result { throw result }
  }

  package func write(_ bytes: UnsafeRawBufferPointer) throws(PoolError) {
    var rest = bytes[...]
    while !rest.isEmpty {
      let part = UnsafeRawBufferPointer(rebasing: rest)
      // SAFETY: at most the buffer's own bytes are written.
      let count = attempt("write") { Glibc.write(descriptor, part.baseAddress, part.count) }
      if count == -Int(EINTR) { continue }
      guard count > 0 else {
        throw PoolFile.spaceError(
          "write", count < 0 ? Int32(-count) : EIO, path, bytes: UInt64(rest.count))
      }
      rest = rest.dropFirst(count)
      offset += UInt64(count)
    }
  }

  /// Makes what was written durable.
  package func finish() throws(PoolError) {
    try require("fsync") { Int(fsync(descriptor)) }
  }

  package func readLine() throws(PoolError) -> ExportLine {
    let bytes = try read(byteCount: ExportLine.byteCount)
    // SAFETY: a line of whole words, aligned.
    return ExportLine(media: Array(bytes.bindMemory(to: UInt64.self)))
  }

  /// The next bytes, which stand in `buffer` until the next call.
  ///
  /// - Throws: `.damagedExport` where the file ends before.
  package func read(byteCount: Int) throws(PoolError) -> UnsafeRawBufferPointer {
    precondition(byteCount <= buffer.count)
    var done = 0
    while done < byteCount {
      // SAFETY: at most the rest of the buffer is read into it.
      let count = attempt("read") {
        Glibc.read(descriptor, buffer.baseAddress! + done, byteCount - done)
      }
      if count == -Int(EINTR) { continue }
      guard count >= 0 else { throw .system(operation: "read", errorNumber: Int32(-count)) }
      guard count > 0 else {
        throw .damagedExport(path: path, fileOffset: offset, reason: "it ends here")
      }
      done += count
      offset += UInt64(count)
    }
    return UnsafeRawBufferPointer(rebasing: buffer[..<byteCount])
  }
}

extension PoolFile {
  /// Writes bytes to a file that nobody has mapped to store there.
  package func store(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(PoolError) {
    var done = 0
    while done < bytes.count {
      // SAFETY: at most the rest of the buffer is written.
      let count = attempt("pwrite") {
        pwrite(descriptor, bytes.baseAddress! + done, bytes.count - done, off_t(offset) + done)
      }
      if count == -Int(EINTR) { continue }
      guard count > 0 else {
        throw Self.spaceError(
          "pwrite", count < 0 ? Int32(-count) : EIO, path, bytes: UInt64(bytes.count - done))
      }
      done += count
    }
  }
}
