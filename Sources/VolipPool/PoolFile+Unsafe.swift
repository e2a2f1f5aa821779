// PoolFile: a pool's file: made, opened, locked, its superblock read and judged.
//
// Invariants
// 1. Open changes nothing in the file.
// 2. The lock is a flock that lives in a mapping, not in a descriptor (rule 19): the descriptor on
//    which it was taken is closed as soon as one page of the file is mapped through it, and the
//    mapping is MADV_DONTFORK. So no child of whatever kind of clone inherits it, exec drops it,
//    and it ends with this process or with `close`.
// 3. Blocks of the log are allocated at creation and growth, blocks of the image before the first
//    store to them (`allocate`), so that no store to a mapping meets a full disk.

import CVolipPersistence
import Glibc
import Synchronization

public final class PoolFile {
  public let path: String
  /// Private, close-on-exec; holds no lock.
  public let descriptor: Int32
  public private(set) var superblock: Superblock
  private let lockPage: UnsafeMutableRawPointer
  private var isPublished = true
  private var isLocked = true

  /// Takes over the lock of `locked`, which the caller closes.
  private init(
    path: String, locked: Int32, superblock: Superblock
  ) throws(PoolError) {
    let pageBytes = Int(PoolGeometry.pageBytes)
    let mapped = mmap(nil, pageBytes, PROT_READ, MAP_SHARED, locked, 0)
    guard let mapped, mapped != MAP_FAILED else {
      throw errno == ENOMEM
        ? .addressSpaceExhausted(bytes: UInt64(pageBytes))
        : .system(operation: "mmap", errorNumber: errno)
    }
    madvise(mapped, pageBytes, MADV_DONTFORK)
    descriptor = Glibc.open("/proc/self/fd/\(locked)", O_RDWR | O_CLOEXEC)
    guard descriptor >= 0 else {
      let errorNumber = errno
      munmap(mapped, pageBytes)
      throw Self.openError(path, errorNumber)
    }
    lockPage = mapped
    self.path = path
    self.superblock = superblock
    Self.openFiles.add(1, ordering: .relaxed)
  }

  private static let openFiles = Atomic(0)
  /// Pools that this process has open.
  public static var openCount: Int { openFiles.load(ordering: .relaxed) }

  deinit {
    unlock()
  }

  /// Lets others open the pool, before the last reference goes. Nothing may use the file any more.
  public func unlock() {
    guard isLocked else { return }
    isLocked = false
    Self.openFiles.subtract(1, ordering: .relaxed)
    close(descriptor)
    munmap(lockPage, Int(PoolGeometry.pageBytes))
  }

  // MARK: Create

  /// Makes a pool file, open and locked. It has no name until `publish`, so that a crash or a
  /// failure leaves nothing behind, and nobody opens a pool that is not finished. On a file system
  /// without unnamed files it has its name at once, and a crash may leave a file that is no pool.
  public static func create(
    path: String, geometry: PoolGeometry, permissions: mode_t = 0o600
  ) throws(PoolError) -> PoolFile {
    guard access(path, F_OK) != 0 else { throw .alreadyExists(path: path) }
    var made = cvp_unnamed_file(directory(of: path), permissions)
    let isNamed = made == -EOPNOTSUPP
    if isNamed {
      made = Glibc.open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, permissions)
      if made < 0 { made = -errno }
    }
    guard made >= 0 else { throw openError(path, -made) }
    defer { close(made) }
    do throws(PoolError) {
      try lock(made, path: path)
      let file = try PoolFile(
        path: path, locked: made, superblock: try fill(made, path: path, geometry: geometry))
      file.isPublished = isNamed
      return file
    } catch {
      if isNamed { unlink(path) }
      throw error
    }
  }

  /// Gives a new pool file its name, durably.
  ///
  /// - Throws: `.alreadyExists` when somebody else was faster.
  public func publish() throws(PoolError) {
    if !isPublished {
      let result = cvp_name_file(descriptor, path)
      guard result == 0 else { throw Self.openError(path, -result) }
      isPublished = true
    }
    try Self.syncDirectory(of: path)
  }

  private static func fill(
    _ descriptor: Int32, path: String, geometry: PoolGeometry
  ) throws(PoolError) -> Superblock {
    var generator = SystemRandomNumberGenerator()
    let superblock = Superblock(poolIdentity: generator.next(), geometry: geometry)
    guard ftruncate(descriptor, off_t(geometry.fileBytes)) == 0 else {
      throw .system(operation: "ftruncate", errorNumber: errno)
    }
    let logEnd = geometry.logOffset + geometry.logBytes
    try allocate(descriptor, 0..<logEnd, path: path)
    // SAFETY: the bytes written are those of an array of 256 bytes.
    for offset in Superblock.copyOffsets {
      let written = superblock.encoded.withUnsafeBytes {
        pwrite(descriptor, $0.baseAddress, $0.count, off_t(offset))
      }
      guard written == Superblock.byteCount else {
        throw .system(operation: "pwrite", errorNumber: errno)
      }
    }
    guard fsync(descriptor) == 0 else {
      throw .system(operation: "fsync", errorNumber: errno)
    }
    return superblock
  }

  private static func directory(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }

  /// Makes the new name durable.
  private static func syncDirectory(of path: String) throws(PoolError) {
    let directory = directory(of: path)
    let descriptor = Glibc.open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { throw openError(directory, errno) }
    defer { close(descriptor) }
    guard fsync(descriptor) == 0 || errno == EINVAL else {
      throw .system(operation: "fsync", errorNumber: errno)
    }
  }

  // MARK: Open

  /// Opens and locks a pool file and reads its superblock.
  public static func open(path: String) throws(PoolError) -> PoolFile {
    let locked = Glibc.open(path, O_RDWR | O_CLOEXEC)
    guard locked >= 0 else { throw openError(path, errno) }
    defer { close(locked) }
    let actualBytes = try regularFileBytes(locked, path: path)
    guard actualBytes >= Superblock.areaBytes else {
      throw try tooShort(locked, path: path, actualBytes: actualBytes)
    }
    try lock(locked, path: path)
    let superblock = try readSuperblock(locked, path: path)
    guard superblock.geometry.fileBytes <= actualBytes else {
      throw .truncated(
        path: path, expectedBytes: superblock.geometry.fileBytes, actualBytes: actualBytes)
    }
    // A copy made without its holes' blocks has a hole where the log is (invariant 3).
    let geometry = superblock.geometry
    try allocate(locked, geometry.logOffset..<geometry.logOffset + geometry.logBytes, path: path)
    return try PoolFile(
      path: path, locked: locked, superblock: superblock)
  }

  private static func lock(_ descriptor: Int32, path: String) throws(PoolError) {
    guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
      throw errno == EWOULDBLOCK
        ? .inUse(path: path) : .system(operation: "flock", errorNumber: errno)
    }
  }

  private static func openError(_ path: String, _ errorNumber: Int32) -> PoolError {
    switch errorNumber {
    case ENOENT, ENOTDIR: .notFound(path: path)
    case EEXIST: .alreadyExists(path: path)
    case EACCES, EPERM, EROFS: .noPermission(path: path)
    // Directories and sockets cannot be opened for writing at all.
    case EISDIR, ENXIO: .notAPool(path: path, fileOffset: 0, reason: "no regular file")
    case ENOSPC, EDQUOT: .diskFull(path: path, neededBytes: 0)
    default: .system(operation: "open", errorNumber: errorNumber)
    }
  }

  private static func regularFileBytes(
    _ descriptor: Int32, path: String
  ) throws(PoolError) -> UInt64 {
    var status = stat()
    guard fstat(descriptor, &status) == 0 else {
      throw .system(operation: "fstat", errorNumber: errno)
    }
    guard status.st_mode & S_IFMT == S_IFREG else {
      throw .notAPool(path: path, fileOffset: 0, reason: "no regular file")
    }
    return UInt64(status.st_size)
  }

  /// A file without room for the superblocks: the stump of a pool, or something else.
  private static func tooShort(
    _ descriptor: Int32, path: String, actualBytes: UInt64
  ) throws(PoolError) -> PoolError {
    guard actualBytes >= UInt64(Superblock.byteCount),
      let superblock = try? Superblock.decode(readWords(descriptor, at: 0))
    else {
      return .notAPool(path: path, fileOffset: 0, reason: "only \(actualBytes) bytes")
    }
    return .truncated(
      path: path, expectedBytes: superblock.geometry.fileBytes, actualBytes: actualBytes)
  }

  private static func readWords(
    _ descriptor: Int32, at offset: Int
  ) throws(PoolError) -> [UInt64] {
    var words = [UInt64](repeating: 0, count: Superblock.byteCount / 8)
    // SAFETY: reads at most the array's own bytes.
    let count = words.withUnsafeMutableBytes {
      pread(descriptor, $0.baseAddress, $0.count, off_t(offset))
    }
    guard count == Superblock.byteCount else {
      throw .system(operation: "pread", errorNumber: count < 0 ? errno : EIO)
    }
    return words
  }

  /// The newer whole copy; its twin may be older or damaged.
  private static func readSuperblock(
    _ descriptor: Int32, path: String
  ) throws(PoolError) -> Superblock {
    var whole: [Superblock] = []
    var refusals: [(copy: Int, refusal: Superblock.Refusal)] = []
    for (copy, offset) in Superblock.copyOffsets.enumerated() {
      let words = try readWords(descriptor, at: offset)
      do throws(Superblock.Refusal) {
        whole.append(try Superblock.decode(words))
      } catch {
        refusals.append((copy, error))
      }
    }
    // A newer library's features are never overruled by an older copy.
    for (copy, refusal) in refusals {
      if case .features(let bits) = refusal {
        let offset = UInt64(Superblock.copyOffsets[copy] + 24)
        throw .unknownFeatures(path: path, fileOffset: offset, bits: bits)
      }
    }
    if let newer = whole.max(by: { $0.sequence < $1.sequence }) { return newer }
    throw refusalError(refusals, path: path)
  }

  private static func refusalError(
    _ refusals: [(copy: Int, refusal: Superblock.Refusal)], path: String
  ) -> PoolError {
    for (copy, refusal) in refusals {
      if case .version(let found) = refusal {
        return .foreignVersion(
          path: path, fileOffset: UInt64(Superblock.copyOffsets[copy] + 8), found: found,
          supported: Superblock.version)
      }
    }
    guard let damaged = refusals.first(where: { $0.refusal != .noMagic }) else {
      return .notAPool(path: path, fileOffset: 0, reason: "no superblock")
    }
    let reason: String
    if case .geometry(let text) = damaged.refusal { reason = text } else { reason = "checksum" }
    return .damagedSuperblock(
      path: path, fileOffset: UInt64(Superblock.copyOffsets[damaged.copy]), reason: reason)
  }

  /// Whether reading a hole of the file takes a block: so on tmpfs, where it is SIGBUS when there
  /// is none left.
  public private(set) lazy var holesNeedBlocks = cvp_is_on_tmpfs(descriptor) != 0

  // MARK: Change

  /// Writes both copies, one after the other, each durable before the next begins (rule 2).
  public func write(_ next: Superblock, through memory: DurableMemory) throws(PoolError) {
    precondition(next.sequence > superblock.sequence)
    precondition(next.poolIdentity == superblock.poolIdentity)
    let line = UnsafeMutableRawPointer.allocate(byteCount: Superblock.byteCount, alignment: 64)
    defer { line.deallocate() }
    // SAFETY: 256 bytes aligned to lines, filled from an array of 256 bytes.
    next.encoded.withUnsafeBytes {
      line.copyMemory(from: $0.baseAddress!, byteCount: Superblock.byteCount)
    }
    for offset in Superblock.copyOffsets {
      for byte in stride(from: 0, to: Superblock.byteCount, by: DurableMemory.lineBytes) {
        memory.storeLine(at: offset + byte, from: line + byte)
      }
      try memory.fence()
    }
    superblock = next
  }

  /// Makes sure that the file has blocks for a range, so that stores to it cannot fail.
  public func allocate(_ range: Range<UInt64>) throws(PoolError) {
    try Self.allocate(descriptor, range, path: path)
  }

  private static func allocate(
    _ descriptor: Int32, _ range: Range<UInt64>, path: String
  ) throws(PoolError) {
    var result = cvp_allocate_blocks(descriptor, range.lowerBound, UInt64(range.count))
    if result == -EOPNOTSUPP {
      // The C library's way for file systems without fallocate: it writes to each block that is a
      // hole. Nobody else stores to this range now.
      result = -posix_fallocate(descriptor, off_t(range.lowerBound), off_t(range.count))
    }
    switch -result {
    case 0:
      return
    case ENOSPC, EDQUOT, EFBIG:
      throw .diskFull(path: path, neededBytes: UInt64(range.count))
    default:
      throw .system(operation: "fallocate", errorNumber: -result)
    }
  }

  /// Makes the file longer and the new length durable (rule 20).
  public func extend(to bytes: UInt64) throws(PoolError) {
    precondition(bytes >= superblock.geometry.fileBytes)
    guard ftruncate(descriptor, off_t(bytes)) == 0 else {
      throw .diskFull(path: path, neededBytes: bytes)
    }
    try sync()
  }

  public func sync() throws(PoolError) {
    guard fsync(descriptor) == 0 else { throw .system(operation: "fsync", errorNumber: errno) }
  }
}
