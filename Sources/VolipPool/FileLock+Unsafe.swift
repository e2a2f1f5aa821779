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
  /// Nil for a file that is only looked at, and not locked.
  private let page: UnsafeMutableRawPointer?
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
    let answer = attempt("mmap") {
      Int(bitPattern: mmap(nil, pageBytes, PROT_READ, MAP_SHARED, opened, 0))
    }
    guard answer >= 0, let mapped = UnsafeMutableRawPointer(bitPattern: answer) else {
      throw answer == -Int(ENOMEM)
        ? .addressSpaceExhausted(bytes: UInt64(pageBytes))
        : .system(operation: "mmap", errorNumber: Int32(-answer))
    }
    do throws(PoolError) {
      if !isRemoved(.lockNotInherited) {
        try require("madvise") { Int(madvise(mapped, pageBytes, MADV_DONTFORK)) }
      }
      let again = attempt("open") {
        Int(Glibc.open("/proc/self/fd/\(opened)", O_RDWR | O_CLOEXEC))
      }
      guard again >= 0 else { throw PoolFile.openError(path, Int32(-again)) }
      descriptor = Int32(again)
    } catch {
      munmap(mapped, pageBytes)
      throw error
    }
    page = mapped
    if Self.holder.exchange(getpid(), ordering: .relaxed) != getpid() {
      Self.held.store(0, ordering: .relaxed)
    }
    Self.held.add(1, ordering: .relaxed)
  }

  /// A file that is only looked at.
  init(unlocked descriptor: Int32) {
    self.descriptor = descriptor
    page = nil
  }

  var isLock: Bool { page != nil }

  private static let held = Atomic(0)
  /// The process that `held` counts for: a forked child has none of its parent's.
  private static let holder = Atomic<pid_t>(0)
  private let process = getpid()

  /// Locks that this process has.
  static var heldCount: Int {
    holder.load(ordering: .relaxed) == getpid() ? held.load(ordering: .relaxed) : 0
  }

  private static func lock(_ opened: Int32, _ path: String) throws(PoolError) {
    for _ in 0..<attemptsMax {
      let result =
        isRemoved(.fileLock) ? 0 : attempt("flock") { Int(flock(opened, LOCK_EX | LOCK_NB)) }
      if result == 0 { return }
      guard result == -Int(EWOULDBLOCK) else {
        throw .system(operation: "flock", errorNumber: Int32(-result))
      }
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
    close(descriptor)
    guard let page, process == getpid() else { return }  // a child has not the page
    Self.held.subtract(1, ordering: .relaxed)
    munmap(page, Int(PoolGeometry.pageBytes))
  }
}
