// DurableMemory: the pool file's bytes, mapped shared, and the only place that flushes or fences.
//
// Invariants
// 1. What was stored is durable after flush of its range and one fence; non-temporal stores of
//    storeSealedLines need the fence alone.
// 2. One fence() is one drain (cache-line path) or one msync a run of pages (msync path).
// 3. After a failed fence nothing is known about the ranges of that fence.
//
// Threads: one at a time; the owner's lock (VolipCommit's gate) orders them. A thread that stores
// beside others has a view of its own.

import CLibpmem
import CVolipPersistence
import Glibc
import Synchronization

/// How stores become durable.
public enum PersistencePath: String, Sendable, CaseIterable {
  /// Cache-line flush and fence: memory that is persistent itself.
  case cacheLines = "cache-line"
  /// msync: any other file system.
  case msync

  /// The environment variable that forces a path, `VOLIP_PERSISTENCE=cache-line|msync`. The
  /// cache-line path on a file system that is not persistent memory survives the death of the
  /// process but not of the machine: for tmpfs and tests.
  public static let switchName = "VOLIP_PERSISTENCE"

  /// The path that the environment forces, if any.
  public static var forced: PersistencePath? {
    getenv(switchName).flatMap { PersistencePath(rawValue: String(cString: $0)) }
  }
}

/// The kernel tells of a page that it could not write once for each mapping of a file: to the next
/// msync, whoever calls it, whatever pages it asks for; the page counts as clean then. So one view
/// at a time calls it, and after a failure no view's fence is passed any more.
private final class SyncFailure: Sendable {
  private let errorNumber = Mutex<Int32>(0)

  func run(_ sync: () throws(PoolError) -> Void) throws(PoolError) {
    try errorNumber.withLock { (failed: inout Int32) throws(PoolError) in
      guard failed == 0 || isRemoved(.syncFailure) else {
        throw .system(operation: "msync", errorNumber: failed)
      }
      do throws(PoolError) {
        try sync()
      } catch {
        failed = Self.number(error)
        throw error
      }
    }
  }

  /// A failure that a test made.
  func note(_ error: PoolError) { errorNumber.withLock { $0 = Self.number(error) } }

  private static func number(_ error: PoolError) -> Int32 {
    guard case .system(_, let number) = error else { return EIO }
    return number
  }
}

/// Counts since the mapping was made.
public struct PersistenceCounters: Equatable, Sendable {
  /// Calls of `fence`.
  public var fences = 0
  /// Bytes given to `storeSealedLines`.
  public var storedBytes = 0

  public init() {}
}

public final class DurableMemory {
  /// First byte of the file in this process; not the pool's base address.
  public let base: UnsafeMutableRawPointer
  public let byteCount: Int
  public let path: PersistencePath
  @exclusivity(unchecked) public private(set) var counters = PersistenceCounters()
  @exclusivity(unchecked) private var isMapped = true
  /// Pages that could not be read or written since the last look. No fence is passed with one.
  package let failedPages: FailedPages
  /// Of all views of the mapping.
  private let syncFailure: SyncFailure
  /// The file's, not owned.
  private let descriptor: Int32
  /// Runs of bytes that the next fence makes durable; msync path only.
  @exclusivity(unchecked) private var unsynced: [Range<Int>] = []
  #if VOLIP_LAB
    private var observer: (any PersistenceObserver)?
  #endif

  /// Bytes of a cache line, the unit of comparison, logging and flushing.
  public static let lineBytes = Int(CVP_LINE_BYTES)
  /// Bytes of a page.
  public static let pageBytes = Int(CVP_PAGE_BYTES)

  /// Another thread's view of the same mapping, with counts and pending ranges of its own; its
  /// fence is for what was stored and flushed through it. The mapping must outlive it.
  public init(viewOf other: DurableMemory) {
    base = other.base
    byteCount = other.byteCount
    path = other.path
    descriptor = other.descriptor
    failedPages = other.failedPages
    syncFailure = other.syncFailure
    isMapped = false
    #if VOLIP_LAB
      observer = other.observer
    #endif
  }

  init(
    base: UnsafeMutableRawPointer, byteCount: Int, path: PersistencePath, descriptor: Int32
  ) throws(PoolError) {
    self.base = base
    self.byteCount = byteCount
    self.path = path
    self.descriptor = descriptor
    syncFailure = SyncFailure()
    failedPages = try FailedPages(CVP_MEDIA_FILE, base, byteCount: byteCount)
    #if VOLIP_LAB
      observer = PersistenceLaboratory.observer
      observer?.didMap(self)
    #endif
  }

  /// Maps the whole file behind `descriptor` with libpmem, not to be inherited by forked children
  /// (rule 19).
  ///
  /// - Parameter forced: a path to use whatever libpmem says about the memory.
  public static func map(
    descriptor: Int32, forced: PersistencePath?
  ) throws(PoolError) -> DurableMemory {
    var byteCount = 0
    var isPersistent: Int32 = 0
    let name = "/proc/self/fd/\(descriptor)"
    let mapped = attempt("pmem_map_file") {
      pmem_map_file(name, 0, 0, 0, &byteCount, &isPersistent).map { Int(bitPattern: $0) } ?? -1
    }
    guard mapped >= 0, let address = UnsafeMutableRawPointer(bitPattern: mapped) else {
      guard mapped == -Int(ENOMEM) else {
        throw .system(operation: "pmem_map_file", errorNumber: Int32(-mapped))
      }
      throw .addressSpaceExhausted(bytes: UInt64(max(lseek(descriptor, 0, SEEK_END), 0)))
    }
    do throws(PoolError) {
      try require("madvise") { Int(madvise(address, byteCount, MADV_DONTFORK)) }
      return try DurableMemory(
        base: address, byteCount: byteCount,
        path: forced ?? (isPersistent != 0 ? .cacheLines : .msync), descriptor: descriptor)
    } catch {
      pmem_unmap(address, byteCount)
      throw error
    }
  }

  /// Another mapping of the same file, with failures of its own. The file stays open meanwhile.
  public func mappedAgain() throws(PoolError) -> DurableMemory {
    let other = try Self.map(descriptor: descriptor, forced: path)
    #if VOLIP_LAB
      other.observer = observer
    #endif
    return other
  }

  /// Lets a test see what is stored here from now on; ignored where no laboratory is built.
  package func observe(_ observer: (any PersistenceObserver)?) {
    #if VOLIP_LAB
      self.observer = observer
    #endif
  }

  deinit {
    unmap()
  }

  /// Gives the mapping back before the last reference goes. Nothing may use it any more.
  public func unmap() {
    guard isMapped else { return }
    isMapped = false
    failedPages.stop()
    pmem_unmap(base, byteCount)
  }

  /// Bytes to which a record is aligned: a line, or where whole sectors are written a sector, so
  /// that a torn write never touches an older record. 4,096 is the largest sector in use.
  public var recordAlignment: Int {
    path == .cacheLines || isRemoved(.sectorAlignment) ? Self.lineBytes : 4096
  }

  /// The address of `offset` bytes into the file.
  @inline(__always)
  public func address(_ offset: Int) -> UnsafeMutableRawPointer {
    // SAFETY: callers pass offsets that they have checked against byteCount.
    base + offset
  }

  /// Stores lines past the cache and adds the bytes stored to `seal`; each line is loaded once
  /// (rule 4). Durable after the next fence.
  public func storeSealedLines(
    _ seal: inout cvp_seal, at offset: Int, from lines: UnsafeRawPointer, count: Int
  ) {
    // SAFETY: both ends are aligned to lines and inside their mappings: the log reserved the range.
    cvp_seal_and_store_lines(&seal, base + offset, lines, count)
    noteStored(offset..<offset + count * Self.lineBytes)
  }

  /// Stores one finished line past the cache. Durable after the next fence.
  public func storeLine(at offset: Int, from line: UnsafeRawPointer) {
    var unused = cvp_seal()
    storeSealedLines(&unused, at: offset, from: line, count: 1)
  }

  /// Stores lines with ordinary stores: durable only after `flush` and `fence` (rule 5).
  @inline(__always)
  public func updateLines(at offset: Int, from lines: UnsafeRawPointer, count: Int) {
    // SAFETY: the record's extents were checked against the image when it was written or validated.
    cvp_copy_lines(base + offset, lines, count)
    #if VOLIP_LAB
      observer?.didStore(offset..<offset + count * Self.lineBytes, isCached: true)
    #endif
  }

  /// The same for bytes, which stand at a word.
  @inline(__always)
  public func updateBytes(at offset: Int, from bytes: UnsafeRawPointer, count: Int) {
    // SAFETY: as above.
    if count == 8, offset % 8 == 0 {
      (base + offset).storeBytes(of: bytes.load(as: UInt64.self), as: UInt64.self)
    } else {
      (base + offset).copyMemory(from: bytes, byteCount: count)
    }
    #if VOLIP_LAB
      observer?.didStore(Self.lines(of: offset..<offset + count), isCached: true)
    #endif
  }

  /// The whole lines in which some bytes are.
  @inline(__always)
  public static func lines(of bytes: Range<Int>) -> Range<Int> {
    bytes.lowerBound & ~(lineBytes - 1)..<(bytes.upperBound + lineBytes - 1) & ~(lineBytes - 1)
  }

  /// Makes bytes durable that are only known to be readable: a killed process may have stored them
  /// and not fenced, or its msync may have failed, which leaves pages that count as clean. Durable
  /// after the next fence.
  public func storeAgain(_ range: Range<Int>) {
    precondition(range.lowerBound % Self.lineBytes == 0 && range.count % Self.lineBytes == 0)
    if path == .msync, !isRemoved(.storeAgain) {
      // SAFETY: lines of this mapping, which nobody else stores to.
      cvp_store_lines_again(base + range.lowerBound, range.count / Self.lineBytes)
      #if VOLIP_LAB
        observer?.didStore(range, isCached: true)
      #endif
    }
    flush(range)
  }

  private func noteStored(_ range: Range<Int>) {
    counters.storedBytes += range.count
    #if VOLIP_LAB
      observer?.didStore(range, isCached: path == .msync)
    #endif
    if path == .msync, !isRemoved(.unsyncedRecord) { addUnsynced(range) }
  }

  private func addUnsynced(_ range: Range<Int>) {
    #if VOLIP_LAB
      observer?.didFlush(range)
    #endif
    if let last = unsynced.last, last.upperBound == range.lowerBound {
      unsynced[unsynced.count - 1] = last.lowerBound..<range.upperBound
    } else {
      unsynced.append(range)
    }
  }

  /// Starts the write-back of a range that was stored with ordinary stores.
  @inline(__always)
  public func flush(_ range: Range<Int>) {
    if path == .cacheLines {
      guard !isRemoved(.flush) else { return }
      #if VOLIP_LAB
        observer?.didFlush(range)
      #endif
      pmem_flush(base + range.lowerBound, range.count)
    } else if !isRemoved(.unsyncedUpdate) {
      addUnsynced(range)
    }
  }

  /// Waits until everything flushed or stored past the cache is durable.
  ///
  /// - Throws: `.system` with msync's errno; the outcome for the pending ranges is then unknown.
  public func fence() throws(PoolError) {
    counters.fences += 1
    guard !isRemoved(path == .cacheLines ? .drain : .msync) else { return }
    #if VOLIP_LAB
      do throws(PoolError) {
        try observer?.willFence()
      } catch {
        unsynced.removeAll(keepingCapacity: true)
        syncFailure.note(error)
        throw error
      }
    #endif
    if path == .cacheLines {
      pmem_drain()
    } else {
      try syncFailure.run(syncPages)
    }
    #if VOLIP_LAB
      observer?.didFence()
    #endif
    try requireWhole()
  }

  /// Ends a view's part in a record that another thread fences (rule 5): what it stored past the
  /// cache is durable then, because no fence is for another thread's stores.
  public func drain() {
    guard path == .cacheLines, !isRemoved(.viewDrain) else { return }
    pmem_drain()
    #if VOLIP_LAB
      observer?.didFence()
    #endif
  }

  /// Takes over what a view stored and drained: the next fence here is for it.
  public func adopt(_ view: DurableMemory) {
    counters.storedBytes += view.counters.storedBytes
    for range in view.unsynced { addUnsynced(range) }
    view.unsynced.removeAll()
  }

  /// What was stored to a failed page is not in the file, and what was read from it is not data.
  package func requireWhole() throws(PoolError) {
    // None where another thread has rebuilt it between the two.
    guard !failedPages.isEmpty, let offset = failedPages.offsets.first else { return }
    throw .unreadable(fileOffset: UInt64(offset))
  }

  /// Rebuilds the failed pages of a range, and takes them from the list.
  package func rebuildFailed(in range: Range<Int>) throws(PoolError) {
    guard !failedPages.isEmpty else { return }
    let count = failedPages.count
    guard !failedPages.isOverfull else { return try requireWhole() }
    let pages = failedPages.offsets
    guard pages.allSatisfy(range.contains) else { return try requireWhole() }
    for page in pages { try rebuild(page: page) }
    failedPages.removeAll(ifStill: count)
  }

  /// Writes a failed page anew, with the content that its stand-in has by now, and maps it again.
  /// A disk gives a page that is written whole another place, persistent memory clears it.
  package func rebuild(page offset: Int) throws(PoolError) {
    let pageBytes = Self.pageBytes
    precondition(offset % pageBytes == 0 && offset <= byteCount - pageBytes)
    // SAFETY: a page of this mapping, in which zeros or what was stored since stand in.
    let page = base + offset
    do throws(PoolError) {
      // A file that became shorter has lost more than this page.
      let end = try require("lseek") { lseek(descriptor, 0, SEEK_END) }
      guard end >= offset + pageBytes else { throw .system(operation: "lseek", errorNumber: EIO) }
      let written = try require("pwrite") { pwrite(descriptor, page, pageBytes, off_t(offset)) }
      guard written == pageBytes else { throw .system(operation: "pwrite", errorNumber: EIO) }
      try require("fsync") { Int(fsync(descriptor)) }
      let mapped = attemptShim("mmap") {
        Int(cvp_media_map_again(page, descriptor, UInt64(offset)))
      }
      guard mapped == 0, FailedPages.canRead(page, byteCount: pageBytes) else {
        throw .system(operation: "mmap", errorNumber: Int32(-mapped))
      }
    } catch {
      throw .unreadable(fileOffset: UInt64(offset))
    }
  }

  private func syncPages() throws(PoolError) {
    let page = Self.pageBytes
    var runs = unsynced.map { range in
      range.lowerBound / page * page..<(range.upperBound + page - 1) / page * page
    }
    unsynced.removeAll(keepingCapacity: true)
    runs.sort { $0.lowerBound < $1.lowerBound }
    var index = 0
    while index < runs.count {
      var run = runs[index]
      index += 1
      while index < runs.count, runs[index].lowerBound <= run.upperBound {
        run = run.lowerBound..<max(run.upperBound, runs[index].upperBound)
        index += 1
      }
      try require("msync") {
        Int(pmem_msync(base + run.lowerBound, min(run.count, byteCount - run.lowerBound)))
      }
    }
  }
}
