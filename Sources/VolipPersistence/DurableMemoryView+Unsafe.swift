// A pool file's bytes for those who only look: nothing that is stored here reaches the file.

import Glibc

extension DurableMemory {
  /// How much of another process's stores a view sees.
  package enum View {
    /// A memory of its own over the file, which recovery may change.
    case own
    /// The file as it is at each moment; it cannot be stored to.
    case shared
  }

  /// Maps the first bytes of a file that is open for reading.
  package static func view(
    _ view: View, descriptor: Int32, byteCount: Int
  ) throws(PoolError) -> DurableMemory {
    let kind = view == .own ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED
    let protection = view == .own ? PROT_READ | PROT_WRITE : PROT_READ
    let answer = attempt("mmap") {
      Int(bitPattern: mmap(nil, byteCount, protection, kind, descriptor, 0))
    }
    guard answer >= 0, let address = UnsafeMutableRawPointer(bitPattern: answer) else {
      throw answer == -Int(ENOMEM)
        ? .addressSpaceExhausted(bytes: UInt64(byteCount))
        : .system(operation: "mmap", errorNumber: Int32(-answer))
    }
    // SAFETY: mapped a moment ago. The cache-line path makes no system call for what is flushed.
    return try DurableMemory(
      base: address, byteCount: byteCount, path: .cacheLines, descriptor: descriptor)
  }
}
