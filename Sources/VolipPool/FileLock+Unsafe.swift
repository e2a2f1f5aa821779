// FileLock: a file's exclusive lock that ends with this process, whatever children it has.
//
// A flock belongs to an open file, and every descriptor and mapping of it, also a child's. So:
//
// 1. The descriptor on which it was taken is closed as soon as one page of the file is mapped
//    through it, and the mapping is MADV_DONTFORK: no child inherits it, exec drops it.
// 2. Until then no thread forks; a child that was cloned past the C library has the descriptor, and
//    with it the lock, until it execs. The next opener waits that long.

import CVolipPersistence
import Glibc
import Synchronization

final class FileLock {
  /// Private, close-on-exec; holds no lock.
  let descriptor: Int32
  private let page: UnsafeMutableRawPointer
  private(set) var isHeld = true

  /// How long an opener waits for a lock that a child may have on its way to exec: 50 ms, a
  /// hundred times what a fork and exec take.
  static let attemptsMax = 50
  static let attemptMicroseconds: UInt32 = 1000

  /// Locks the file that `open` opens.
  init(_ path: String, _ open: () throws(PoolError) -> Int32) throws(PoolError) {
    cvp_forks_wait()
    defer { cvp_forks_go_on() }
    let opened = try open()
    defer { close(opened) }
    try Self.lock(opened, path)
    let pageBytes = Int(PoolGeometry.pageBytes)
    // SAFETY: the page is never accessed.
    let mapped = mmap(nil, pageBytes, PROT_READ, MAP_SHARED, opened, 0)
    guard let mapped, mapped != MAP_FAILED else {
      throw errno == ENOMEM
        ? .addressSpaceExhausted(bytes: UInt64(pageBytes))
        : .system(operation: "mmap", errorNumber: errno)
    }
    if !isRemoved(.lockNotInherited) { madvise(mapped, pageBytes, MADV_DONTFORK) }
    descriptor = Glibc.open("/proc/self/fd/\(opened)", O_RDWR | O_CLOEXEC)
    guard descriptor >= 0 else {
      let errorNumber = errno
      munmap(mapped, pageBytes)
      throw PoolFile.openError(path, errorNumber)
    }
    page = mapped
    Self.held.add(1, ordering: .relaxed)
  }

  /// Locks that this process has.
  static let held = Atomic(0)

  private static func lock(_ opened: Int32, _ path: String) throws(PoolError) {
    for _ in 0..<attemptsMax {
      if isRemoved(.fileLock) || flock(opened, LOCK_EX | LOCK_NB) == 0 { return }
      guard errno == EWOULDBLOCK else { throw .system(operation: "flock", errorNumber: errno) }
      usleep(attemptMicroseconds)
    }
    throw .inUse(path: path)
  }

  deinit {
    release()
  }

  func release() {
    guard isHeld else { return }
    isHeld = false
    Self.held.subtract(1, ordering: .relaxed)
    close(descriptor)
    munmap(page, Int(PoolGeometry.pageBytes))
  }
}
