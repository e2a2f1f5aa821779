// ScratchPool: a pool file on tmpfs that needs no cleaning up.
//
// Invariant: after `init` the file has no name, only a descriptor of this process. It is gone when
// the process is, whatever ends it. Other processes reach it through `path` while we live.

import Glibc
import VolipMem

final class ScratchPool {
  static let directory = "/dev/shm"

  /// Names the file through our descriptor.
  let path: String
  private let descriptor: Int32

  /// Makes a pool and closes it again.
  init(byteCount: UInt64, logBytes: UInt64? = nil) throws {
    let name = "\(Self.directory)/volip-bench-\(getpid())-\(UInt64.random(in: 0 ... .max)).pool"
    var options = PoolConfiguration.plain.options
    options.logBytes = logBytes
    let pool = try Pool.create(name, byteCount: byteCount, options: options)
    descriptor = Glibc.open(name, O_RDWR | O_CLOEXEC)
    unlink(name)
    path = "/proc/\(getpid())/fd/\(descriptor)"
    guard descriptor >= 0 else { throw BenchError("cannot open \(name): errno \(errno)") }
    try pool.close()
  }

  deinit {
    close(descriptor)
  }

  func open(_ configuration: PoolConfiguration = .plain) throws -> Pool {
    try Pool.open(path, options: configuration.options)
  }
}

/// Why a benchmark has no figure to give.
struct BenchError: Error, CustomStringConvertible {
  let description: String

  init(_ description: String) { self.description = description }
}
