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
// or close. The gate is the only lock; nothing is called under it that could wait for another
// thread. Application locks are taken before pstart and released after pend, or inside sections
// (rule 6).

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

  public init() {}
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
  /// One byte that reads 1 here and 0 in a forked child.
  private let parentMark: UnsafeMutablePointer<UInt8>

  let file: PoolFile
  var memory: DurableMemory
  let workingCopy: WorkingCopy
  let options: EngineOptions
  var image: ImageView
  var imageOffset: Int
  var tracker: any Tracker
  var writeSet: WriteSet
  var retention: Retention
  var blocks: ImageBlocks
  var redoLog: RedoLog
  var state = State.ready
  private var isDoomed = false
  private var watchedPages = 0
  private var statistics = SectionStatistics()

  /// Opens a pool file: locks it, recovers it, maps its working copy. No page may be written before
  /// `watch`.
  public init(path: String, options: EngineOptions) throws(PoolError) {
    self.options = options
    file = try PoolFile.open(path: path)
    memory = try DurableMemory.map(
      descriptor: file.descriptor, forced: options.persistencePath ?? PersistencePath.forced)
    workingCopy = try WorkingCopy.map(
      descriptor: file.descriptor, geometry: file.superblock.geometry)
    let parts = try Parts(file, memory, workingCopy, options)
    (image, imageOffset) = (parts.image, parts.imageOffset)
    (tracker, writeSet, retention) = (parts.tracker, parts.writeSet, parts.retention)
    (blocks, redoLog) = (parts.blocks, parts.redoLog)
    gate = .allocate(capacity: 1)
    pthread_mutex_init(gate, nil)
    parentMark = try Self.makeParentMark()
    threadExitIsWatched
    // Last: everything else that an open needs is there, so that one that fails changed nothing.
    statistics.replayed = try Recovery(file, memory).run().recordCount
    redoLog = RedoLog(file.superblock, memory: memory)
  }

  deinit {
    munmap(parentMark, DurableMemory.pageBytes)
    pthread_mutex_destroy(gate)
    gate.deallocate()
  }

  /// What depends on the size of the image and is made again when it grows.
  private struct Parts {
    let image: ImageView
    let imageOffset: Int
    let tracker: any Tracker
    let writeSet: WriteSet
    let retention: Retention
    let blocks: ImageBlocks
    let redoLog: RedoLog

    init(
      _ file: PoolFile, _ memory: DurableMemory, _ workingCopy: WorkingCopy,
      _ options: EngineOptions
    ) throws(PoolError) {
      let geometry = file.superblock.geometry
      imageOffset = Int(geometry.imageOffset)
      image = ImageView(base: memory.address(imageOffset))
      tracker = try chooseTracker(options.tracker, workingCopy)
      writeSet = try WriteSet(pageCapacity: workingCopy.pageCount)
      retention = try Retention(
        pageCapacity: workingCopy.pageCount,
        trapTicks: options.retention ? trapTicks(tracker.kind) : 0)
      blocks = try ImageBlocks(file)
      redoLog = RedoLog(file.superblock, memory: memory)
    }
  }

  /// After growth: everything that has an entry for each page.
  func rebuild() throws(PoolError) {
    let parts = try Parts(file, memory, workingCopy, options)
    (image, imageOffset) = (parts.image, parts.imageOffset)
    (tracker, writeSet, retention) = (parts.tracker, parts.writeSet, parts.retention)
    (blocks, redoLog) = (parts.blocks, parts.redoLog)
    try tracker.watch(upTo: watchedPages)
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
  public var trackerKind: TrackerKind { tracker.kind }
  public var persistencePath: PersistencePath { memory.path }
  public var path: String { file.path }

  /// Whether the calling thread has a section of this pool open. A forked child has none, though it
  /// inherits its thread's note of one.
  @inline(__always)
  public var isInSection: Bool {
    let section = cvw_thread_section()!
    return section.pointee.depth > 0 && section.pointee.owner == opaqueSelf
      && parentMark.pointee == 1
  }

  /// Before anything that ends a section: a child that got further would scan and arm the pages of
  /// its parent, whose descriptors it has.
  private func requireSection() throws(PoolError) {
    guard parentMark.pointee == 1 else { throw .forkedChild }
    guard isInSection else { throw .noSection }
  }

  private var opaqueSelf: UnsafeMutableRawPointer {
    Unmanaged.passUnretained(self).toOpaque()
  }

  public func currentStatistics() throws(PoolError) -> SectionStatistics {
    try withGate { () throws(PoolError) in
      var result = statistics
      result.persistence = memory.counters
      return result
    }
  }

  // MARK: Gate

  private func lock() throws(PoolError) {
    guard parentMark.pointee == 1 else { throw .forkedChild }
    pthread_mutex_lock(gate)
    switch state {
    case .ready: return
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
  private func withGate<Result>(
    _ body: () throws(PoolError) -> Result
  ) throws(PoolError) -> Result {
    if isInSection { return try body() }
    try lock()
    defer { unlock() }
    return try body()
  }

  func poison(_ error: PoolError, _ reason: String) -> PoolError {
    if state == .ready { state = .poisoned("\(reason): \(error)") }
    return error
  }

  // MARK: Sections

  /// pstart: opens a section, or enters the one that this thread has open (flat nesting).
  public func openSection() throws(PoolError) {
    guard parentMark.pointee == 1 else { throw .forkedChild }
    let section = cvw_thread_section()!
    if section.pointee.depth > 0 {
      guard section.pointee.owner == opaqueSelf else {
        throw .invalidArgument("a section of another pool is open on this thread")
      }
      section.pointee.depth += 1
      return
    }
    try lock()
    do throws(PoolError) {
      if options.strayWriteCheck, tracker.mayHaveStrayWrites() { try putStrayWritesBack() }
    } catch {
      unlock()
      throw error
    }
    cvw_thread_section_enroll()
    isDoomed = false
    tracker.sectionOpened()
    section.pointee.owner = opaqueSelf
    section.pointee.depth = 1
  }

  /// pend: commits with the outermost section.
  public func closeSection() throws(PoolError) {
    try requireSection()
    let section = cvw_thread_section()!
    guard section.pointee.depth == 1 else {
      section.pointee.depth -= 1
      return
    }
    defer { unlock() }
    defer { section.pointee.depth = 0 }
    if isDoomed {
      try endWithoutCommit()
      throw .sectionAborted
    }
    tracker.sectionClosed()
    defer { tracker.settle(writeSet) }
    try commit()
    count()
  }

  private func count() {
    statistics.committed += 1
    statistics.pages += writeSet.pageCount
    statistics.lines += writeSet.lineCount
  }

  /// pcommit: commits and goes on in a new section without opening the gate.
  public func commitSection() throws(PoolError) {
    try requireSection()
    let section = cvw_thread_section()!
    guard section.pointee.depth == 1 else { throw .nestedSection }
    guard !isDoomed else {
      try closeSection()
      return
    }
    tracker.sectionClosed()
    do throws(PoolError) {
      try commit()
    } catch {
      tracker.settle(writeSet)
      section.pointee.depth = 0
      unlock()
      throw error
    }
    count()
    tracker.settle(writeSet)
    tracker.sectionOpened()
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
    defer { unlock() }
    defer { section.pointee.depth = 0 }
    try endWithoutCommit()
  }

  private func endWithoutCommit() throws(PoolError) {
    tracker.sectionClosed()
    defer { tracker.settle(writeSet) }
    statistics.rolledBack += 1
    do throws(PoolError) {
      try tracker.takeWritten(into: writeSet)
    } catch {
      throw poison(error, "write set not collected")
    }
    try rollBack()
  }

  /// A thread that ends inside its section aborts it (rule 22).
  fileprivate func abandonSection() {
    let section = cvw_thread_section()!
    section.pointee.depth = 1
    try? abortSection()
  }

  /// Pages written since the last section: compared, put back, reported (rule 14). Retained pages
  /// are writable anyway and are left to the next section.
  private func putStrayWritesBack() throws(PoolError) {
    try tracker.takeWritten(into: writeSet)
    writeSet.markRetained { retention.isRetained(page: $0) }
    try writeSet.forEachRun(
      gapPagesMax: tracker.gapPagesMax, where: { !writeSet.isRetained($0) }, tracker.arm)
    var stray: PoolOffset?
    try writeSet.forEachRun(gapPagesMax: 0, where: { !writeSet.isRetained($0) }) {
      (pages) throws(PoolError) in
      for page in pages {
        let mask = workingCopy.difference(page: page, from: image)
        guard mask != 0 else { continue }
        let line = UInt64(page * 64 + mask.trailingZeroBitCount)
        stray = stray ?? PoolOffset(bytes: line * UInt64(DurableMemory.lineBytes))
        try workingCopy.drop(page..<page + 1)
        try tracker.arm(page..<page + 1)
      }
    }
    tracker.settle(writeSet)
    if let stray { throw .writeOutsideSection(offset: stray.bytes) }
  }

  // MARK: Between the heap and the tracker

  /// Lets pages below `limit` be written in sections.
  public func watch(upTo limit: Int) throws(PoolError) {
    guard limit > watchedPages else { return }
    guard limit <= pageCount else {
      throw .damagedHeap(offset: 0, reason: "more pages in use than the pool has")
    }
    try tracker.watch(upTo: limit)
    watchedPages = limit
  }

  /// Announces that a system call will write to `byteCount` bytes at `address`.
  public func willWrite(_ address: UnsafeRawPointer, byteCount: Int) throws(PoolError) {
    guard isInSection else { throw .noSection }
    let offset = address - UnsafeRawPointer(base)
    guard offset >= 0, byteCount >= 0, byteCount <= watchedPages * DurableMemory.pageBytes - offset
    else { throw .invalidArgument("a range outside allocated pool memory") }
    guard byteCount > 0 else { return }
    let last = (offset + byteCount - 1) / DurableMemory.pageBytes
    try tracker.willWrite(offset / DurableMemory.pageBytes..<last + 1)
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

  /// Checkpoints and makes the handle unusable. The mappings go with the last reference to it.
  public func close() throws(PoolError) {
    guard !isInSection else { throw .nestedSection }
    try withGate { () throws(PoolError) in
      try checkpoint()
      state = .closed
    }
  }
}

/// The tracker that was asked for, or the first that works here.
private func chooseTracker(
  _ kind: TrackerKind?, _ workingCopy: WorkingCopy
) throws(PoolError) -> any Tracker {
  if let kind { return try makeTracker(kind, workingCopy) }
  do throws(PoolError) {
    return try makeTracker(.pageMapScan, workingCopy)
  } catch {
    return try makeTracker(.writeProtect, workingCopy)
  }
}

private func abandon(_ owner: UnsafeMutableRawPointer?) {
  guard let owner else { return }
  // SAFETY: a section keeps its engine alive: pools outlive their sections.
  Unmanaged<PoolEngine>.fromOpaque(owner).takeUnretainedValue().abandonSection()
}

/// Registers the thread-exit hook once for the process.
private let threadExitIsWatched: Void = {
  let result = cvw_thread_section_on_exit(abandon)
  precondition(result == 0, "no thread-specific key left")
}()

func ticks() -> UInt64 { cvp_ticks() }
