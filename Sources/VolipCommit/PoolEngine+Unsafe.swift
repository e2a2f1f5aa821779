// PoolEngine: an open pool without its heap: sections, gate, and the parts that commit needs.
//
//                 pstart                       pend, pabort
//   ready ------------------> section open -----------------> ready
//     |                          |  (any failure after the seal, or of a flush)
//     | close                    v
//   closed <----------------- poisoned
//
// Who may touch what: every stored property below `gate` that is not atomic or locked by itself is
// read and written only by the thread that holds the gate: an exclusive section's from pstart to
// pend, the last of a group in its pend, a thread inside checkpoint, grow or close; so they need no
// run-time check of exclusive access. While the log is divided into lanes, `file` and `parts` are
// used under the log lock too, by threads that have no gate but a lane, which the gate waits for
// before it changes them. Lock order: Lanes+Unsafe.swift; kinds of sections: Gate+Unsafe.swift.
// Application locks are taken before pstart and released after pend, or inside sections (rule 6).

import CVolipPersistence
import CVolipWriteSet
import Glibc
import Synchronization

public struct EngineOptions: Sendable {
  /// Which tracker; nil takes the first that works.
  public var tracker: TrackerKind?
  /// How stores become durable; nil asks libpmem, after `VOLIP_PERSISTENCE`.
  public var persistencePath: PersistencePath?
  /// Whether written pages may stay writable and be compared instead of trapped.
  public var retention = true
  /// Whether pstart looks for writes made since the last section. A retained page's are not seen:
  /// they belong to the next section.
  public var strayWriteCheck = true
  /// For how long `pend` of buffered sections returns without a fence.
  public var bufferedMilliseconds = 10
  /// Threads that share the comparing and copying of a commit of more than 512 pages, the one that
  /// commits among them; 1 to 64. They end with the handle: a process whose own threads have all
  /// ended lives on with them.
  public var commitThreads = 1
  /// Commits of no more pages are made by one thread: waking others costs more than they save.
  package var pagesAlone = 512
  /// Whether a thread of its own makes checkpoints when the log is half full, beside sections; else
  /// the section makes one that finds the log full. It ends with the handle, or with a `close` that
  /// fails.
  public var checkpointThread = false
  /// Lanes for concurrent sections, 2 to 14: as many threads have one at a time, others wait.
  public var laneCount = 8
  /// Seconds that a thread waits for other sections before it looks whether they wait too.
  public var deadlockSeconds = 2
  /// Whether the tracker watches announced memory too, and a section fails that changed a byte
  /// there without announcing it; concurrent sections wait for each other then. `VOLIP_AUDIT=1` in
  /// the environment switches it on. For tests: it costs what announcing saves.
  public var audit = getenv("VOLIP_AUDIT").map { $0.pointee == 0x31 } ?? false

  public init() {}
}

/// Which writes of a section become durable, and beside which other sections.
public enum SectionKind: Sendable {
  /// All of them: the tracker finds those that are not announced. No other section is open.
  case exclusive
  /// Announced ones alone. Nothing is trapped, and no page is looked at; a write to other memory of
  /// the pool is a write outside a section. No other section is open.
  case announced
  /// Announced ones alone, and later: `pend` returns before they are durable. They are when the
  /// next section of another kind has ended, or `sync`, or an abort, or the first `pend` after
  /// `EngineOptions.bufferedMilliseconds`; after a crash a prefix of the sections is there, in
  /// their order, whole ones only. No other section is open.
  case buffered
  /// Announced ones alone, beside other concurrent sections: each thread has a lane of the log and
  /// commits alone. Two sections that are open at once must not touch the same bytes: the
  /// application's locks see to that, taken before and released after the section.
  case concurrent
  /// All of them, beside other sections of the group. The first `pend` lets no more sections in,
  /// the last one commits all of them in one record, and then all have ended. Where one is aborted
  /// all are.
  case group
}

/// Counts of one handle since it was opened.
public struct SectionStatistics: Sendable {
  /// Sections that ended by `pend` or `pcommit`, with or without writes.
  public var committed = 0
  public var rolledBack = 0
  /// Pages compared, lines logged, over all commits.
  public var pages = 0
  public var lines = 0
  /// Log records replayed when the pool was opened.
  public var replayed = 0
  public var persistence = PersistenceCounters()
}

public final class PoolEngine: @unchecked Sendable {
  enum State: Equatable {
    case ready
    case poisoned(String)
    case closed
  }

  let gate: UnsafeMutablePointer<pthread_mutex_t>
  /// For the heap, in sections of a group.
  let heapLock: UnsafeMutablePointer<pthread_mutex_t>
  /// Signalled when the last section of a group has ended.
  let groupEnded: UnsafeMutablePointer<pthread_cond_t>
  /// A byte that reads 1 here and 0 in a forked child, and `isTracking`.
  @usableFromInline let parentMark: UnsafeMutablePointer<UInt8>

  let file: PoolFile
  let workingCopy: WorkingCopy
  let options: EngineOptions
  @exclusivity(unchecked) var parts: EngineParts
  @exclusivity(unchecked) var isDoomed = false
  /// In an audit: whether the open section would be a concurrent one without.
  @exclusivity(unchecked) var isOnlyAnnounced = false
  /// Whether the open section's record may wait for a later fence (Buffers.swift).
  @exclusivity(unchecked) var isBuffered = false
  /// When the first record since the last fence was stored, in milliseconds.
  @exclusivity(unchecked) var bufferedSince = 0
  /// Whether everything that is written belongs to an epoch (Epochs.swift).
  @exclusivity(unchecked) var isInEpochs = false
  @exclusivity(unchecked) private(set) var watchedPages = 0
  @exclusivity(unchecked) var statistics = SectionStatistics()
  /// The section of a group that is open, or closing.
  @exclusivity(unchecked) var group: SectionGroup?
  /// Those that share a large commit with the one that has the gate, if any were asked for.
  let commitThreads: CommitThreads?
  /// If one was asked for.
  let checkpointThread: CheckpointThread?
  /// The checkpoint that goes on beside sections (CheckpointBeside.swift).
  @exclusivity(unchecked) var beside: CheckpointBeside?
  /// The lanes of concurrent sections.
  let lanes: Lanes
  /// Who has the gate closed, as the kernel names threads; 0 for nobody that has a section.
  let gateThread = Atomic<Int32>(0)
  private let stateBox = Mutex(State.ready)
  /// Whether the handle is poisoned or closed.
  let isStopped = Atomic(false)
  /// What the open section announces, but in a lane.
  public let announced: AnnouncedWrites
  /// Runs of announced pages, and how many of them were there before the open section.
  @exclusivity(unchecked) var announcedPages: [Range<Int>] = []
  @exclusivity(unchecked) var announcedRunsBefore = 0

  /// Recovers a locked pool file and maps its working copy. No page may be written before `watch`.
  public init(_ file: PoolFile, options: EngineOptions) throws(PoolError) {
    let previous = cvw_cancellation_defer()
    defer { cvw_cancellation_restore(previous) }
    self.options = options
    self.file = file
    let memory = try DurableMemory.map(
      descriptor: file.descriptor, forced: options.persistencePath ?? PersistencePath.forced)
    workingCopy = try WorkingCopy.map(
      descriptor: file.descriptor, geometry: file.superblock.geometry)
    parts = try EngineParts(file, memory, workingCopy, options)
    announced = AnnouncedWrites(
      base: workingCopy.base, byteCount: workingCopy.pageCount * DurableMemory.pageBytes)
    lanes = try Lanes(
      count: min(max(options.laneCount, 2), LaneTable.countMax), file.superblock, memory,
      workingCopy)
    commitThreads = try CommitThreads.started(options.commitThreads)
    checkpointThread = options.checkpointThread ? CheckpointThread() : nil
    gate = .allocate(capacity: 1)
    pthread_mutex_init(gate, nil)
    heapLock = .allocate(capacity: 1)
    var recursive = pthread_mutexattr_t()
    pthread_mutexattr_init(&recursive)
    pthread_mutexattr_settype(&recursive, Int32(PTHREAD_MUTEX_RECURSIVE))
    pthread_mutex_init(heapLock, &recursive)
    groupEnded = .allocate(capacity: 1)
    pthread_cond_init(groupEnded, nil)
    parentMark = try Self.makeParentMark()
    threadExitIsWatched
    try checkpointThread?.start(self)
    // Last: everything else that an open needs is there, so that one that fails changed nothing.
    statistics.replayed = try Recovery(file, memory).run().recordCount
    parts.redoLog.restart(file.superblock, file.superblock.logRegion)
    publishTracker()
  }

  deinit {
    if parentMark.pointee == 1 {
      checkpointThread?.stop()
    } else {
      // A forked child has none of the mappings, and something else may stand there by now.
      _ = Unmanaged.passRetained(file)
      _ = Unmanaged.passRetained(parts)
      _ = Unmanaged.passRetained(workingCopy)
      _ = commitThreads.map(Unmanaged.passRetained)
      _ = checkpointThread.map(Unmanaged.passRetained)
    }
    announced.deallocate()
    munmap(parentMark, DurableMemory.pageBytes)
    pthread_mutex_destroy(gate)
    gate.deallocate()
    pthread_mutex_destroy(heapLock)
    heapLock.deallocate()
    pthread_cond_destroy(groupEnded)
    groupEnded.deallocate()
  }

  /// After growth: everything that has an entry for each page.
  func rebuild(_ memory: DurableMemory) throws(PoolError) {
    parts.tracker.stop()  // before the new one takes the same addresses
    parts = try EngineParts(file, memory, workingCopy, options)
    try parts.tracker.watch(upTo: watchedPages)
    announced.resize(byteCount: pageCount * DurableMemory.pageBytes)
    for lane in lanes.all {
      lane.attach(memory, file.superblock, byteCount: pageCount * DurableMemory.pageBytes)
    }
    for pages in workingCopy.announcedPages { try parts.tracker.release(pages) }
  }

  private static func makeParentMark() throws(PoolError) -> UnsafeMutablePointer<UInt8> {
    let page = mmap(
      nil, DurableMemory.pageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let page, page != MAP_FAILED,
      madvise(page, DurableMemory.pageBytes, MADV_WIPEONFORK) == 0
    else { throw .system(operation: "mmap", errorNumber: errno) }
    // SAFETY: a fresh page; no child of whatever clone sees the 1 (rule 19).
    let mark = page.bindMemory(to: UInt8.self, capacity: 1)
    mark.pointee = 1
    return mark
  }

  // MARK: Facts

  /// First byte of persistent memory.
  public var base: UnsafeMutableRawPointer { workingCopy.base }
  public var pageCount: Int { workingCopy.pageCount }
  public var superblock: Superblock { file.superblock }
  public var trackerKind: TrackerKind { parts.tracker.kind }
  public var persistencePath: PersistencePath { parts.memory.path }

  /// Whether the calling thread has a section of this pool open. A forked child has none, though it
  /// inherits its thread's note of one.
  @inlinable @inline(__always)
  public var isInSection: Bool {
    // Asked for by each allocation: the owner alone says it, and plain words compare in one step.
    UInt(bitPattern: cvw_thread_section()!.pointee.owner) == UInt(bitPattern: opaqueSelf)
      && parentMark.pointee == 1
  }

  /// Whether the tracker follows the open section. A byte beside the parent's mark: the heap asks
  /// in each allocation.
  @inlinable @inline(__always)
  public var isTracking: Bool { parentMark[1] != 0 }

  func setTracking(_ value: Bool) { parentMark[1] = value ? 1 : 0 }

  /// Whether other threads' sections may change the same memory: then the heap takes its lock.
  @inlinable @inline(__always)
  public var isShared: Bool { parentMark[2] != 0 }

  func setShared(_ value: Bool) { parentMark[2] = value ? 1 : 0 }

  @inlinable var opaqueSelf: UnsafeMutableRawPointer {
    Unmanaged.passUnretained(self).toOpaque()
  }

  public func currentStatistics() throws(PoolError) -> SectionStatistics {
    try withGate { () throws(PoolError) in
      var result = statistics
      result.persistence = parts.memory.counters
      for lane in lanes.all {
        result.committed += lane.committed.load(ordering: .relaxed)
        result.rolledBack += lane.rolledBack.load(ordering: .relaxed)
        result.persistence.fences += lane.counters.fences
        result.persistence.storedBytes += lane.counters.storedBytes
      }
      return result
    }
  }

  /// A change of it is seen by every thread's next section.
  var state: State {
    get { stateBox.withLock { $0 } }
    set {
      stateBox.withLock { $0 = newValue }
      isStopped.store(newValue != .ready, ordering: .releasing)
      if newValue != .ready { lanes.isClosed.store(true, ordering: .sequentiallyConsistent) }
    }
  }

  /// Why nothing can be done with the handle any more.
  var stopped: PoolError {
    if case .poisoned(let reason) = state { return .poisoned(reason: reason) }
    return .closed
  }

  // MARK: Stray writes

  /// Pages written since the last section: compared, put back, reported (rule 14). Retained pages
  /// are writable anyway and are left to the next section.
  func putStrayWritesBack() throws(PoolError) {
    let (tracker, writeSet) = (parts.tracker, parts.writeSet)
    let (retention, image) = (parts.retention, parts.image)
    try tracker.takeWritten(into: writeSet)
    writeSet.markRetained { retention.isRetained(page: $0) }
    do throws(PoolError) {
      try tracker.arm(writeSet)
    } catch {
      throw poison(error, "writes outside sections not found")  // some are armed now
    }
    var stray: PoolOffset?
    try writeSet.forEachRun(gapPagesMax: 0, where: { !writeSet.isRetained($0) }) {
      (pages) throws(PoolError) in
      for page in pages {
        let mask = workingCopy.difference(page: page, next: page, from: image)
        guard mask != 0 else { continue }
        let line = UInt64(page * 64 + mask.trailingZeroBitCount)
        stray = stray ?? PoolOffset(bytes: line * UInt64(DurableMemory.lineBytes))
        try workingCopy.drop(page..<page + 1)
      }
    }
    // Dropping takes the protection with it.
    if stray != nil || !workingCopy.failedPages.isEmpty { try tracker.arm(writeSet) }
    workingCopy.failedPages.removeAll()
    do throws(PoolError) {
      try parts.memory.requireWhole()
    } catch {
      throw poison(error, "the image could not be read")
    }
    tracker.settle(writeSet)
    if let stray { throw .writeOutsideSection(offset: stray.bytes) }
  }

  // MARK: Between the heap and the tracker

  /// Runs `body` as the only one in the heap: where sections of a group are open, under a lock.
  /// Leaf: nothing is waited for under it. Reentered by the same thread.
  @inline(__always)
  public func withHeapLock<Result>(
    _ body: () throws(PoolError) -> Result
  ) throws(PoolError) -> Result {
    guard isShared, !isRemoved(.heapLock) else { return try body() }
    pthread_mutex_lock(heapLock)
    defer { pthread_mutex_unlock(heapLock) }
    return try body()
  }

  /// Lanes of concurrent sections.
  public var laneCount: Int { lanes.all.count }

  /// What the section of a lane announces.
  public func announced(ofLane index: Int) -> AnnouncedWrites { lanes.all[index].announced }

  /// The first of some pages that cannot be read, or nil.
  package func unreadablePage(in pages: Range<Int>) -> Int? {
    workingCopy.unreadablePage(in: pages)
  }

  /// Pages that get blocks before their first access on tmpfs: 16 MiB.
  static let blocksAheadPagesMax = 4096

  /// Lets pages below `limit` be written in sections.
  public func watch(upTo limit: Int) throws(PoolError) {
    guard limit > watchedPages else { return }
    guard limit <= pageCount else {
      throw .damagedHeap(offset: 0, reason: "more pages in use than the pool has")
    }
    // Where a hole cannot even be read on a full disk, its pages get their blocks now, as far as
    // they are about to be used: a large block stays sparse.
    if file.holesNeedBlocks, limit - watchedPages <= Self.blocksAheadPagesMax {
      try parts.blocks.allocate(pages: watchedPages..<limit)
    }
    try parts.tracker.watch(upTo: limit)
    watchedPages = limit
  }

  /// Announces that a system call will write to `byteCount` bytes at `address`.
  public func willWrite(_ address: UnsafeRawPointer, byteCount: Int) throws(PoolError) {
    guard isInSection else { throw .noSection }
    let offset = address - UnsafeRawPointer(base)
    guard offset >= 0, byteCount >= 0, byteCount <= watchedPages * DurableMemory.pageBytes - offset
    else { throw .invalidArgument("a range outside allocated pool memory") }
    guard byteCount > 0 else { return }
    let first = offset / DurableMemory.pageBytes
    let last = (offset + byteCount - 1) / DurableMemory.pageBytes
    // Announced memory is writable, and not the tracker's.
    try withHeapLock { () throws(PoolError) in
      guard !workingCopy.announcedPages.contains(where: { $0.contains(first) && $0.contains(last) })
      else { return }
      try parts.tracker.willWrite(first..<last + 1)
    }
  }

  // MARK: Whole pool

  /// Makes the image durable up to the last section and empties the log.
  public func checkpointNow() throws(PoolError) {
    guard !isInSection else { throw .nestedSection }
    try withGate(checkpoint)
  }

  /// Makes the pool file `fileBytes` large.
  public func grow(toFileBytes fileBytes: UInt64) throws(PoolError) {
    guard !isInSection else { throw .nestedSection }
    try withGate { () throws(PoolError) in
      try closeLanes()
      try growImage(toFileBytes: fileBytes)
    }
  }

  /// Checkpoints, then gives mappings, addresses and lock back. Where the checkpoint fails that is
  /// done all the same: the log has what the image lacks. A poisoned handle writes no checkpoint
  /// (rule 13), but the next open, which tells what became of its sections, needs the lock.
  public func close() throws(PoolError) {
    guard !isInSection else { throw .nestedSection }
    try requireNoOtherSection()
    if parentMark.pointee == 1 { checkpointThread?.stop() }
    try withGate(evenPoisoned: true) { () throws(PoolError) in
      try waitForLanes()
      // After the wait: a lane may have poisoned the handle meanwhile (rule 13).
      let isReady = state == .ready
      defer {
        state = .closed
        commitThreads?.stop()
        parts.tracker.stop()
        workingCopy.unmap()
        parts.memory.unmap()
        file.unlock()
      }
      if isReady || isRemoved(.poisonedClose) {
        try checkpoint()
        if lanes.isActive { try leaveLanes() }
        try leaveBuffers()
      }
    }
  }

  /// Before persistent memory is read on behalf of a caller who may have closed the pool.
  @inline(__always)
  public func requireOpen() throws(PoolError) {
    if isStopped.load(ordering: .relaxed), state == .closed { throw .closed }
  }
}

private func abandon(_ owner: UnsafeMutableRawPointer?) {
  guard let owner, !isRemoved(.abortOnThreadExit) else { return }
  // SAFETY: a section holds its engine until it has ended.
  Unmanaged<PoolEngine>.fromOpaque(owner).takeUnretainedValue().abandonSection()
}

/// Registers the thread-exit hook once for the process.
private let threadExitIsWatched: Void = {
  let result = cvw_thread_section_on_exit(abandon)
  precondition(result == 0, "no thread-specific key left")
}()

func ticks() -> UInt64 { cvp_ticks() }
