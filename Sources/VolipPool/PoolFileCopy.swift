// Bytes of one pool file in another, and blocks given back.

import CVolipPersistence
import Glibc

extension PoolFile {
  /// Copies bytes of another file to the same place of this one.
  package func copy(_ range: Range<UInt64>, from source: PoolFile) throws(PoolError) {
    let result = attemptShim("copy_file_range") {
      Int(
        cvp_copy_bytes(
          source.descriptor, range.lowerBound, descriptor, range.lowerBound, range.count))
    }
    guard result == 0 else {
      throw Self.spaceError("copy_file_range", Int32(-result), path, bytes: UInt64(range.count))
    }
  }

  /// Copies the whole file as it is to a new one, durably.
  ///
  /// - Throws: `.alreadyExists`; what is there by then is removed.
  package func backUp(to target: String) throws(PoolError) {
    let answer = attempt("open") {
      Int(Glibc.open(target, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600))
    }
    guard answer >= 0 else { throw Self.openError(target, Int32(-answer)) }
    let made = Int32(answer)
    defer { close(made) }
    do throws(PoolError) {
      let end = try Self.regularFileBytes(descriptor, path: path)
      var rest: Range<UInt64> = 0..<end
      while !rest.isEmpty {
        let part = data(in: rest)
        let result = attemptShim("copy_file_range") {
          Int(cvp_copy_bytes(descriptor, part.lowerBound, made, part.lowerBound, part.count))
        }
        guard result == 0 else {
          throw Self.spaceError(
            "copy_file_range", Int32(-result), target, bytes: UInt64(part.count))
        }
        rest = part.upperBound..<end
      }
      try require("ftruncate") { Int(ftruncate(made, off_t(end))) }
      try require("fsync") { Int(fsync(made)) }
    } catch {
      unlink(target)
      throw error
    }
  }

  /// Gives the blocks of a range back, which reads as zeros then. Where the file system cannot do
  /// that nothing happens.
  ///
  /// - Returns: whether it can.
  package func punchHole(_ range: Range<UInt64>) throws(PoolError) -> Bool {
    let result = attemptShim("fallocate") {
      Int(cvp_punch_hole(descriptor, range.lowerBound, UInt64(range.count)))
    }
    if result == -Int(EOPNOTSUPP) { return false }
    guard result == 0 else { throw .system(operation: "fallocate", errorNumber: Int32(-result)) }
    return true
  }

  /// Who may do what with the file, as `create` takes it.
  package func permissions() throws(PoolError) -> mode_t {
    var status = stat()
    try require("fstat") { Int(fstat(descriptor, &status)) }
    return status.st_mode & 0o777
  }
}
