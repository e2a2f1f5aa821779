// PoolFile: a pool's file: made, opened, locked, its superblock read and judged.
//
// Invariants
// 1. Open changes nothing in the file.
// 2. The lock is a flock that lives in a mapping, not in a descriptor (rule 19): see FileLock.
// 3. Blocks of the log are allocated at creation and growth, blocks of the image before the first
//    store to them (`allocate`), so that no store to a mapping meets a full disk.

import CVolipPersistence
import Glibc
import Synchronization

public final class PoolFile {
  public let path: String
  /// Private, close-on-exec; holds no lock.
  public var descriptor: Int32 { fileLock.descriptor }
  public internal(set) var superblock: Superblock
  /// Where the next update writes its copies, in this order: never first over the only whole one.
  private var copyOffsets: [Int]
  private let fileLock: FileLock
  /// False until a new pool is finished: then its name, if it has one, goes with it.
  private var isPublished = true
  private var hasName = true

  init(_ path: String, _ fileLock: FileLock, _ superblock: Superblock, isInCopy copy: Int) {
    self.path = path
    self.fileLock = fileLock
    self.superblock = superblock
    copyOffsets = Self.writeOrder(isInCopy: copy)
  }

  /// The other copy first.
  private static func writeOrder(isInCopy copy: Int) -> [Int] {
    if isRemoved(.superblockOrder) { return Superblock.copyOffsets }
    return [Superblock.copyOffsets[1 - copy], Superblock.copyOffsets[copy]]
  }

  /// Pools that this process has open.
  public static var openCount: Int { FileLock.heldCount }

  deinit {
    unlock()
  }

  /// Lets others open the pool, before the last reference goes. Nothing may use the file any more.
  public func unlock() {
    if hasName, !isPublished, fileLock.isHeld { unlink(path) }
    fileLock.release()
  }

  // MARK: Create

  /// Makes a pool file, open and locked. It has no name until `publish`, so that a crash or a
  /// failure leaves nothing behind, and nobody opens a pool that is not finished. On a file system
  /// without unnamed files it has its name at once, and a crash may leave a file that is no pool.
  public static func create(
    path: String, geometry: PoolGeometry, permissions: mode_t = 0o600
  ) throws(PoolError) -> PoolFile {
    guard attempt("access", { Int(access(path, F_OK)) }) != 0 else {
      throw .alreadyExists(path: path)
    }
    var hasName = false
    do throws(PoolError) {
      let fileLock = try FileLock(path) { () throws(PoolError) in
        var made = attemptShim("open") {
          Int(cvp_unnamed_file(directory(of: path), permissions))
        }
        if made == -Int(EOPNOTSUPP) {
          made = attempt("open") {
            Int(Glibc.open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, permissions))
          }
          hasName = made >= 0
        }
        guard made >= 0 else { throw openError(path, Int32(-made)) }
        return Int32(made)
      }
      let superblock = try fill(fileLock.descriptor, path: path, geometry: geometry)
      let file = PoolFile(path, fileLock, superblock, isInCopy: 1)
      file.hasName = hasName
      file.isPublished = false
      return file
    } catch {
      if hasName { unlink(path) }
      throw error
    }
  }

  /// Gives a new pool file its name, durably.
  ///
  /// - Throws: `.alreadyExists` when somebody else was faster.
  public func publish() throws(PoolError) {
    if !hasName {
      let result = attemptShim("linkat") { Int(cvp_name_file(descriptor, path)) }
      guard result == 0 else { throw Self.openError(path, Int32(-result)) }
      hasName = true
    }
    try Self.syncDirectory(of: path)
    isPublished = true
  }

  private static func fill(
    _ descriptor: Int32, path: String, geometry: PoolGeometry
  ) throws(PoolError) -> Superblock {
    var generator = SystemRandomNumberGenerator()
    let superblock = Superblock(poolIdentity: generator.next(), geometry: geometry)
    let length = attempt("ftruncate") { Int(ftruncate(descriptor, off_t(geometry.fileBytes))) }
    guard length == 0 else {
      throw spaceError("ftruncate", Int32(-length), path, bytes: geometry.fileBytes)
    }
    let logEnd = geometry.logOffset + geometry.logBytes
    try allocate(descriptor, 0..<logEnd, path: path)
    // SAFETY: the bytes written are those of an array of 256 bytes.
    for offset in Superblock.copyOffsets {
      let written = superblock.encoded.withUnsafeBytes { bytes in
        attempt("pwrite") { pwrite(descriptor, bytes.baseAddress, bytes.count, off_t(offset)) }
      }
      guard written == Superblock.byteCount else {
        throw spaceError(
          "pwrite", written < 0 ? Int32(-written) : EIO, path, bytes: Superblock.areaBytes)
      }
    }
    try require("fsync") { Int(fsync(descriptor)) }
    return superblock
  }

  private static func directory(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }

  /// Makes the new name durable.
  private static func syncDirectory(of path: String) throws(PoolError) {
    let directory = directory(of: path)
    let opened = attempt("open") {
      Int(Glibc.open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC))
    }
    guard opened >= 0 else { throw openError(directory, Int32(-opened)) }
    defer { close(Int32(opened)) }
    let synced = attempt("fsync") { Int(fsync(Int32(opened))) }
    guard synced == 0 || synced == -Int(EINVAL) else {
      throw .system(operation: "fsync", errorNumber: Int32(-synced))
    }
  }

  // MARK: Open

  /// Opens and locks a pool file and reads its superblock.
  public static func open(path: String) throws(PoolError) -> PoolFile {
    var actualBytes: UInt64 = 0
    let fileLock = try FileLock(path) { () throws(PoolError) in
      let answer = attempt("open") { Int(Glibc.open(path, O_RDWR | O_CLOEXEC)) }
      guard answer >= 0 else { throw openError(path, Int32(-answer)) }
      let opened = Int32(answer)
      do throws(PoolError) {
        actualBytes = try regularFileBytes(opened, path: path)
        guard actualBytes >= Superblock.areaBytes else {
          throw try tooShort(opened, path: path, actualBytes: actualBytes)
        }
      } catch {
        close(opened)
        throw error
      }
      return opened
    }
    let (superblock, copy) = try judge(fileLock.descriptor, path: path, actualBytes: actualBytes)
    return PoolFile(path, fileLock, superblock, isInCopy: copy)
  }

  /// The superblock by which the pool is opened, if it can be.
  private static func judge(
    _ descriptor: Int32, path: String, actualBytes: UInt64
  ) throws(PoolError) -> (Superblock, copy: Int) {
    let (superblock, copy) = try readSuperblock(descriptor, path: path)
    guard superblock.geometry.fileBytes <= actualBytes || isRemoved(.fileLengthCheck) else {
      throw .truncated(
        path: path, expectedBytes: superblock.geometry.fileBytes, actualBytes: actualBytes)
    }
    // A copy made without its holes' blocks has a hole where the log is (invariant 3).
    let geometry = superblock.geometry
    try allocate(
      descriptor, geometry.logOffset..<geometry.logOffset + geometry.logBytes, path: path)
    return (superblock, copy)
  }

  /// Judges the file again as `open` does, after somebody else changed it: for tests that have a
  /// thousand files a second to judge.
  package func reopen() throws(PoolError) {
    let actualBytes = try Self.regularFileBytes(descriptor, path: path)
    let (found, copy) = try Self.judge(descriptor, path: path, actualBytes: actualBytes)
    superblock = found
    copyOffsets = Self.writeOrder(isInCopy: copy)
  }

  static func openError(_ path: String, _ errorNumber: Int32) -> PoolError {
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

  static func regularFileBytes(
    _ descriptor: Int32, path: String
  ) throws(PoolError) -> UInt64 {
    var status = stat()
    try require("fstat") { Int(fstat(descriptor, &status)) }
    guard status.st_mode & S_IFMT == S_IFREG else {
      throw .notAPool(path: path, fileOffset: 0, reason: "no regular file")
    }
    return UInt64(status.st_size)
  }

  /// A file without room for the superblocks: the stump of a pool, or something else.
  static func tooShort(
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

  static func readWords(
    _ descriptor: Int32, at offset: Int
  ) throws(PoolError) -> [UInt64] {
    var words = [UInt64](repeating: 0, count: Superblock.byteCount / 8)
    // SAFETY: reads at most the array's own bytes.
    let count = words.withUnsafeMutableBytes { bytes in
      attempt("pread") { pread(descriptor, bytes.baseAddress, bytes.count, off_t(offset)) }
    }
    guard count == Superblock.byteCount else {
      throw .system(operation: "pread", errorNumber: count < 0 ? Int32(-count) : EIO)
    }
    return words
  }

  /// The newer whole copy; its twin may be older or damaged.
  static func readSuperblock(
    _ descriptor: Int32, path: String
  ) throws(PoolError) -> (Superblock, copy: Int) {
    var whole: [(Superblock, copy: Int)] = []
    var refusals: [(copy: Int, refusal: Superblock.Refusal)] = []
    for (copy, offset) in Superblock.copyOffsets.enumerated() {
      // A copy that cannot be read is a damaged one.
      let words = try? readWords(descriptor, at: offset)
      do throws(Superblock.Refusal) {
        guard let words else { throw .unreadable }
        whole.append((try Superblock.decode(words), copy))
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
    if isRemoved(.superblockNewerCopy), let first = whole.first { return first }
    if let newer = whole.max(by: { $0.0.sequence < $1.0.sequence }) { return newer }
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
    let reason: String =
      switch damaged.refusal {
      case .geometry(let text): text
      case .unreadable: "it cannot be read"
      default: "checksum"
      }
    return .damagedSuperblock(
      path: path, fileOffset: UInt64(Superblock.copyOffsets[damaged.copy]), reason: reason)
  }

  /// Whether reading a hole of the file takes a block: so on tmpfs, where it is SIGBUS when there
  /// is none left.
  public private(set) lazy var holesNeedBlocks = cvp_is_on_tmpfs(descriptor) != 0

  /// Parts of a range that are no holes of the file, ascending; of very many the last reaches to
  /// the end of the range.
  public func dataParts(in range: Range<UInt64>) -> [Range<UInt64>] {
    var parts: [Range<UInt64>] = []
    var rest = range
    while !rest.isEmpty, parts.count < Self.dataPartsMax {
      let part = data(in: rest)
      if !part.isEmpty { parts.append(part) }
      rest = part.upperBound..<range.upperBound
    }
    if !rest.isEmpty { parts.append(rest) }
    return parts
  }

  /// A log is written in laps: few parts; they are searched through for each line.
  private static let dataPartsMax = 64

  /// The first part of a range that is no hole of the file; empty at its end when all of it is one.
  /// Where the file system cannot tell, it is the range.
  package func data(in range: Range<UInt64>) -> Range<UInt64> {
    let (seekData, seekHole): (Int32, Int32) = (3, 4)  // not in Swift's view of the C library
    let first = attempt("lseek") { Int(lseek(descriptor, off_t(range.lowerBound), seekData)) }
    if first == -Int(ENXIO) { return range.upperBound..<range.upperBound }
    guard first >= 0 else { return range }
    let end = attempt("lseek") { Int(lseek(descriptor, off_t(first), seekHole)) }
    // Whole pages: what is compared or decoded there never straddles one.
    let page = PoolGeometry.pageBytes
    let start = max(UInt64(first) / page * page, range.lowerBound)
    let upper = end > first ? (UInt64(end) + page - 1) / page * page : range.upperBound
    guard start < range.upperBound else { return range.upperBound..<range.upperBound }
    return start..<min(max(upper, start), range.upperBound)
  }

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
    for (number, offset) in copyOffsets.enumerated() {
      if number == 1, isRemoved(.superblockSecondCopy) { continue }
      for byte in stride(from: 0, to: Superblock.byteCount, by: DurableMemory.lineBytes) {
        memory.storeLine(at: offset + byte, from: line + byte)
      }
      // Nothing but the copy is in its page: what stands in for a page that failed has it all.
      try memory.rebuildFailed(in: offset..<offset + DurableMemory.pageBytes)
      if isRemoved(number == 0 ? .superblockFirstFence : .superblockSecondFence) { continue }
      try memory.fence()
      pass(.superblockCopy)
    }
    copyOffsets = Superblock.copyOffsets
    superblock = next
  }

  /// Makes both copies durable with the next fence as they can be read: a killed process may have
  /// stored the newer one and not fenced it.
  ///
  /// - Throws: `.unreadable` for a copy whose page fails while the other is no whole one.
  public func storeSuperblockAgain(through memory: DurableMemory) throws(PoolError) {
    for offset in copyOffsets {
      memory.storeAgain(offset..<offset + Superblock.byteCount)
      guard !memory.failedPages.isEmpty else { continue }
      // The page is gone; what was read from it, or from its twin, is written anew.
      // SAFETY: the stand-in of a page of the mapping.
      superblock.encoded.withUnsafeBytes {
        memory.address(offset).copyMemory(from: $0.baseAddress!, byteCount: $0.count)
      }
      try memory.rebuildFailed(in: offset..<offset + DurableMemory.pageBytes)
    }
  }

  /// Makes sure that the file has blocks for a range, so that stores to it cannot fail.
  public func allocate(_ range: Range<UInt64>) throws(PoolError) {
    guard fileLock.isLock else { return }  // a view stores nothing to the file
    try Self.allocate(descriptor, range, path: path)
  }

  static func allocate(
    _ descriptor: Int32, _ range: Range<UInt64>, path: String
  ) throws(PoolError) {
    var result = attemptShim("fallocate") {
      Int(cvp_allocate_blocks(descriptor, range.lowerBound, UInt64(range.count)))
    }
    if result == -Int(EOPNOTSUPP) {
      // The C library's way for file systems without fallocate: it writes to each block that is a
      // hole. Nobody else stores to this range now.
      result = attemptShim("fallocate") {
        -Int(posix_fallocate(descriptor, off_t(range.lowerBound), off_t(range.count)))
      }
    }
    guard result == 0 else {
      throw spaceError("fallocate", Int32(-result), path, bytes: UInt64(range.count))
    }
  }

  /// Writes zeroes to whole pages in which nothing is yet. What `allocate` leaves unwritten takes
  /// the file system's journal along when it is first flushed.
  public func writeZeros(_ range: Range<UInt64>) throws(PoolError) {
    guard fileLock.isLock else { return }  // as in `allocate`
    let result = attemptShim("pwrite") {
      Int(cvp_write_zeros(descriptor, range.lowerBound, UInt64(range.count)))
    }
    guard result == 0 else {
      throw Self.spaceError("pwrite", Int32(-result), path, bytes: UInt64(range.count))
    }
  }

  /// What a call that makes a file longer or fuller failed of.
  static func spaceError(
    _ operation: String, _ errorNumber: Int32, _ path: String, bytes: UInt64
  ) -> PoolError {
    switch errorNumber {
    case ENOSPC, EDQUOT, EFBIG: .diskFull(path: path, neededBytes: bytes)
    default: .system(operation: operation, errorNumber: errorNumber)
    }
  }

  /// Makes the file longer and the new length durable (rule 20).
  public func extend(to bytes: UInt64) throws(PoolError) {
    precondition(bytes >= superblock.geometry.fileBytes)
    let length = attempt("ftruncate") { Int(ftruncate(descriptor, off_t(bytes))) }
    guard length == 0 else {
      throw Self.spaceError("ftruncate", Int32(-length), path, bytes: bytes)
    }
    #if VOLIP_LAB
      PersistenceLaboratory.observer?.didSetLength(Int(bytes))
    #endif
    if !isRemoved(.growthLengthSync) { try sync() }
  }

  public func sync() throws(PoolError) {
    try require("fsync") { Int(fsync(descriptor)) }
    #if VOLIP_LAB
      PersistenceLaboratory.observer?.didSyncLength()
    #endif
  }
}
