// PoolEngine: an open pool without its heap: sections, gate, and the parts that commit needs.
//
//                 pstart                       pend, pabort
//   ready ------------------> section open -----------------> ready
//     |                          |  (any failure after the seal, or of a flush)
//     | close                    v
//   closed <----------------- poisoned
//
// Who may touch what: every stored property below `gate` is read and written only by the thread
// that holds the gate: the section's thread from pstart to pend, a thread inside checkpoint, grow
// or close; so they need no run-time check of exclusive access. The gate is the only lock; nothing
// is called under it that could wait for another thread. Application locks are taken before pstart
// and released after pend, or inside sections (rule 6).

import CVolipPersistence
import CVolipWriteSet
import Glibc

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
  /// Whether the tracker watches announced memory too, and a section fails that changed a byte
  /// there without announcing it. `VOLIP_AUDIT=1` in the environment switches it on. For tests: it
  /// costs what announcing saves.
  public var audit = getenv("VOLIP_AUDIT").map { $0.pointee == 0x31 } ?? false

  public init() {}
}

/// Which writes of a section become durable.
public enum SectionKind: Sendable {
  /// All of them: the tracker finds those that are not announced.
  case exclusive
  /// Announced ones alone. Nothing is trapped, and no page is looked at; a write to other memory of
  /// the pool is a write outside a section.
  case announced
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

  private let gate: UnsafeMutablePointer<pthread_mutex_t>
  /// A byte that reads 1 here and 0 in a forked child, and `isTracking`.
  @usableFromInline let parentMark: UnsafeMutablePointer<UInt8>

  let file: PoolFile
  let workingCopy: WorkingCopy
  let options: EngineOptions
  @exclusivity(unchecked) var parts: EngineParts
  @exclusivity(unchecked) var state = State.ready
  @exclusivity(unchecked) private var isDoomed = false
  /// Whether everything that is written belongs to an epoch (Epochs.swift).
  @exclusivity(unchecked) var isInEpochs = false
  @exclusivity(unchecked) private(set) var watchedPages = 0
  @exclusivity(unchecked) private var statistics = SectionStatistics()
  /// What the open section announces.
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
    gate = .allocate(capacity: 1)
    pthread_mutex_init(gate, nil)
    parentMark = try Self.makeParentMark()
    threadExitIsWatched
    // Last: everything else that an open needs is there, so that one that fails changed nothing.
    statistics.replayed = try Recovery(file, memory).run().recordCount
    parts.redoLog.restart(file.superblock)
    publishTracker()
  }

  deinit {
    if parentMark.pointee != 1 {
      // A forked child has none of the mappings, and something else may stand there by now.
      _ = Unmanaged.passRetained(file)
      _ = Unmanaged.passRetained(parts.memory)
      _ = Unmanaged.passRetained(workingCopy)
    }
    announced.deallocate()
    munmap(parentMark, DurableMemory.pageBytes)
    pthread_mutex_destroy(gate)
    gate.deallocate()
  }

  /// After growth: everything that has an entry for each page.
  func rebuild(_ memory: DurableMemory) throws(PoolError) {
    parts.tracker.stop()  // before the new one takes the same addresses
    parts = try EngineParts(file, memory, workingCopy, options)
    try parts.tracker.watch(upTo: watchedPages)
    announced.resize(byteCount: pageCount * DurableMemory.pageBytes)
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

  /// Before anything that ends a section: a child that got further would scan and arm the pages of
  /// its parent, whose descriptors it has.
  private func requireSection() throws(PoolError) {
    guard parentMark.pointee == 1 else { throw .forkedChild }
    guard isInSection else { throw .noSection }
  }

  @inlinable var opaqueSelf: UnsafeMutableRawPointer {
    Unmanaged.passUnretained(self).toOpaque()
  }

  public func currentStatistics() throws(PoolError) -> SectionStatistics {
    try withGate { () throws(PoolError) in
      var result = statistics
      result.persistence = parts.memory.counters
      return result
    }
  }

  // MARK: Gate

  private func lock(evenPoisoned: Bool = false) throws(PoolError) {
    guard parentMark.pointee == 1 else { throw .forkedChild }
    if !isRemoved(.gate) { pthread_mutex_lock(gate) }
    switch state {
    case .ready: return
    case .poisoned where evenPoisoned: return
    case .closed:
      pthread_mutex_unlock(gate)
      throw .closed
    case .poisoned(let reason):
      pthread_mutex_unlock(gate)
      throw .poisoned(reason: reason)
    }
  }

  private func unlock() {
    pthread_mutex_unlock(gate)
  }

  /// Runs `body` with the gate closed and no section open; inside a section of this thread the
  /// gate is closed already.
  func withGate<Result>(
    evenPoisoned: Bool = false, _ body: () throws(PoolError) -> Result
  ) throws(PoolError) -> Result {
    if isInSection { return try body() }
    // Two threads that each wait for the other's pool would wait for ever.
    guard cvw_thread_section()!.pointee.depth == 0 else { throw Self.otherPool }
    try lock(evenPoisoned: evenPoisoned)
    defer { unlock() }
    return try Self.withoutCancellation(body)
  }

  /// No thread may end between the arming of a section's pages and the end of its update, nor with
  /// a pool in hand that is half open: it would stay locked.
  public static func withoutCancellation<Result>(
    _ body: () throws(PoolError) -> Result
  ) throws(PoolError) -> Result {
    let previous = cvw_cancellation_defer()
    defer { cvw_cancellation_restore(previous) }
    return try FailedPages.noted(body)
  }

  private static let otherPool = PoolError.invalidArgument(
    "a section of another pool is open on this thread")

  func poison(_ error: PoolError, _ reason: String) -> PoolError {
    if state == .ready { state = .poisoned("\(reason): \(error)") }
    return error
  }

  // MARK: Sections

  /// pstart: opens a section, or enters the one that this thread has open (flat nesting).
  public func openSection(_ kind: SectionKind = .exclusive) throws(PoolError) {
    guard parentMark.pointee == 1 else { throw .forkedChild }
    let section = cvw_thread_section()!
    if section.pointee.depth > 0 {
      guard section.pointee.owner == opaqueSelf else { throw Self.otherPool }
      if kind == .exclusive { try beginTracking() }
      section.pointee.depth += 1
      return
    }
    try lock()
    do throws(PoolError) {
      guard !isInEpochs else { throw .invalidArgument("a section of a pool that is in epochs") }
      setTracking(false)
      if kind == .exclusive || options.audit { try beginTracking() }
    } catch {
      unlock()
      throw error
    }
    cvw_thread_section_enroll()
    isDoomed = false
    beginAnnouncing()
    section.pointee.owner = Unmanaged.passRetained(self).toOpaque()
    section.pointee.depth = 1
    pass(.sectionOpened)
  }

  private func beginAnnouncing() {
    announced.begin(number: parts.redoLog.lastLsn + 1)
    announcedRunsBefore = announcedPages.count
  }

  /// Lets the tracker follow the open section from here on.
  func beginTracking() throws(PoolError) {
    guard !isTracking else { return }
    let tracker = parts.tracker
    if options.strayWriteCheck, tracker.mayHaveStrayWrites(), !isRemoved(.strayWriteCheck) {
      try Self.withoutCancellation(putStrayWritesBack)
    }
    tracker.sectionOpened()
    setTracking(true)
  }

  /// The thread's section is over, and with it its hold on the pool.
  private func leaveSection() {
    let section = cvw_thread_section()!
    section.pointee.depth = 0
    section.pointee.owner = nil
    unlock()
    Unmanaged.passUnretained(self).release()
  }

  /// pend: commits with the outermost section.
  public func closeSection() throws(PoolError) {
    try requireSection()
    let section = cvw_thread_section()!
    guard section.pointee.depth == 1 else {
      section.pointee.depth -= 1
      return
    }
    defer { leaveSection() }
    try Self.withoutCancellation(endSection)
  }

  /// Commits the section's writes, or takes them back where a nested section was aborted.
  func endSection() throws(PoolError) {
    if isDoomed {
      try endWithoutCommit()
      throw .sectionAborted
    }
    let parts = parts
    if isTracking { parts.tracker.sectionClosed() }
    defer { if isTracking { parts.tracker.settle(parts.writeSet) } }
    try commit(parts)
    announced.removeAll()
    if options.audit { updateAnnouncedImage(parts) }
    count(parts.writeSet)
  }

  private func count(_ writeSet: WriteSet) {
    statistics.committed += 1
    statistics.pages += writeSet.pageCount
    statistics.lines += writeSet.lineCount
    publish(statistics)
  }

  /// pcommit: commits and goes on in a new section without opening the gate.
  public func commitSection() throws(PoolError) {
    try requireSection()
    guard cvw_thread_section()!.pointee.depth == 1 else { throw .nestedSection }
    do throws(PoolError) {
      try Self.withoutCancellation(endSection)
    } catch {
      leaveSection()
      throw error
    }
    if isTracking { parts.tracker.sectionOpened() }
    beginAnnouncing()
  }

  /// pabort: rolls back. In a nested section the outermost `pend` does it and reports
  /// `.sectionAborted`.
  public func abortSection() throws(PoolError) {
    try requireSection()
    let section = cvw_thread_section()!
    guard section.pointee.depth == 1 else {
      isDoomed = true
      section.pointee.depth -= 1
      return
    }
    defer { leaveSection() }
    try Self.withoutCancellation(endWithoutCommit)
  }

  private func endWithoutCommit() throws(PoolError) {
    let parts = parts
    if isTracking { parts.tracker.sectionClosed() }
    defer { if isTracking { parts.tracker.settle(parts.writeSet) } }
    statistics.rolledBack += 1
    do throws(PoolError) {
      if isTracking { try parts.tracker.takeWritten(into: parts.writeSet) }
    } catch {
      throw poison(error, "write set not collected")
    }
    if !isRemoved(.takeBack) { try takeBack(parts) }
  }

  /// Aborts the section of this thread, however deep, if it has one: a thread that ends inside its
  /// section (rule 22), a handle that goes.
  public func abandonSection() {
    guard isInSection else { return }
    cvw_thread_section()!.pointee.depth = 1
    try? abortSection()
  }

  /// Pages written since the last section: compared, put back, reported (rule 14). Retained pages
  /// are writable anyway and are left to the next section.
  private func putStrayWritesBack() throws(PoolError) {
    let (tracker, writeSet) = (parts.tracker, parts.writeSet)
    let (retention, image) = (parts.retention, parts.image)
    try tracker.takeWritten(into: writeSet)
    writeSet.markRetained { retention.isRetained(page: $0) }
    try tracker.arm(writeSet)
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

  /// The pool in whose section the calling thread is, or nil.
  public static var ofThisThread: PoolEngine? {
    let section = cvw_thread_section()!
    guard section.pointee.depth > 0, let owner = section.pointee.owner else { return nil }
    // SAFETY: a section holds its engine until it has ended.
    return Unmanaged<PoolEngine>.fromOpaque(owner).takeUnretainedValue()
  }

  // MARK: Between the heap and the tracker

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
    guard !workingCopy.announcedPages.contains(where: { $0.contains(first) && $0.contains(last) })
    else { return }
    try parts.tracker.willWrite(first..<last + 1)
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
    try withGate { () throws(PoolError) in try growImage(toFileBytes: fileBytes) }
  }

  /// Checkpoints, then gives mappings, addresses and lock back. Where the checkpoint fails that is
  /// done all the same: the log has what the image lacks. A poisoned handle writes no checkpoint
  /// (rule 13), but the next open, which tells what became of its sections, needs the lock.
  public func close() throws(PoolError) {
    guard !isInSection else { throw .nestedSection }
    try withGate(evenPoisoned: true) { () throws(PoolError) in
      let isReady = state == .ready
      defer {
        state = .closed
        parts.tracker.stop()
        workingCopy.unmap()
        parts.memory.unmap()
        file.unlock()
      }
      if isReady || isRemoved(.poisonedClose) { try checkpoint() }
    }
  }

  /// Before persistent memory is read on behalf of a caller who may have closed the pool.
  @inline(__always)
  public func requireOpen() throws(PoolError) {
    if state == .closed { throw .closed }
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
