// A pool's file for those who only look: no lock is taken, and no byte of it changes.

import Glibc

extension PoolFile {
  /// Opens a pool file for reading. Who uses it meanwhile goes on, and changes what is seen.
  package static func view(path: String) throws(PoolError) -> PoolFile {
    let descriptor = try openToRead(path)
    do throws(PoolError) {
      let actualBytes = try regularFileBytes(descriptor, path: path)
      guard actualBytes >= Superblock.areaBytes else {
        throw try tooShort(descriptor, path: path, actualBytes: actualBytes)
      }
      let (superblock, copy) = try readChangingSuperblock(descriptor, path: path)
      try requireWhole(superblock, path: path, actualBytes: actualBytes)
      return PoolFile(path, FileLock(unlocked: descriptor), superblock, isInCopy: copy)
    } catch {
      close(descriptor)
      throw error
    }
  }

  private static func requireWhole(
    _ superblock: Superblock, path: String, actualBytes: UInt64
  ) throws(PoolError) {
    guard superblock.geometry.fileBytes <= actualBytes else {
      throw .truncated(
        path: path, expectedBytes: superblock.geometry.fileBytes, actualBytes: actualBytes)
    }
  }

  private static func openToRead(_ path: String) throws(PoolError) -> Int32 {
    // A named pipe would wait for its other end.
    let answer = attempt("open") { Int(Glibc.open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)) }
    guard answer >= 0 else { throw openError(path, Int32(-answer)) }
    return Int32(answer)
  }

  /// Reads the superblock again, which the pool's user may have written meanwhile.
  package func refresh() throws(PoolError) {
    superblock = try Self.readChangingSuperblock(descriptor, path: path).0
  }

  /// Both copies are damaged to a reader whom a write overtakes between them; once more, and one is
  /// whole.
  private static func readChangingSuperblock(
    _ descriptor: Int32, path: String
  ) throws(PoolError) -> (Superblock, copy: Int) {
    for _ in 1..<readAttemptsMax {
      if let found = try? readSuperblock(descriptor, path: path) { return found }
    }
    return try readSuperblock(descriptor, path: path)
  }

  private static let readAttemptsMax = 8

  /// Whether another handle has the pool at this path open. The lock is asked for and given back:
  /// an opener tries for longer than that.
  package static func isInUse(path: String) throws(PoolError) -> Bool {
    let descriptor = try openToRead(path)
    defer { close(descriptor) }
    let result = attempt("flock") { Int(flock(descriptor, LOCK_SH | LOCK_NB)) }
    guard result == 0 || result == -Int(EWOULDBLOCK) else {
      throw .system(operation: "flock", errorNumber: Int32(-result))
    }
    return result != 0
  }

  /// What stands in each of the two places for a superblock, and why one cannot be used.
  package func superblockCopies() -> [Result<Superblock, Superblock.Refusal>] {
    Superblock.copyOffsets.map { offset in
      let words = try? Self.readWords(descriptor, at: offset)
      do throws(Superblock.Refusal) {
        guard let words else { throw .unreadable }
        return .success(try Superblock.decode(words))
      } catch {
        return .failure(error)
      }
    }
  }

  /// Bytes of the file that have blocks of the file system.
  package func allocatedBytes() throws(PoolError) -> UInt64 {
    var status = stat()
    // SAFETY: fstat fills the structure.
    try require("fstat") { Int(fstat(descriptor, &status)) }
    return UInt64(status.st_blocks) * 512
  }
}
