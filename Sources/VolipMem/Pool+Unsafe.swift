// Pool: the public face of a pool.

import Glibc
@_exported import VolipHeap

/// A pool of persistent memory, open in this process.
///
/// ```swift
/// let pool = try Pool.open("bank.pool")
/// try pool.section { section in
///   let bank = try pool.root("bank", in: &section) { Bank() }
///   bank.pointee.balance -= 100
/// }
/// ```
///
/// Between `pstart` and `pend` (or inside ``section(_:)``) any code may write to memory of the pool
/// with ordinary stores. After a crash at any instant all of a section's writes are there or none.
///
/// Threads: sections are exclusive, if they are of no other kind (`SectionKind`); `pstart` waits
/// for another thread's section to end. Reading needs no section, and sees the uncommitted writes
/// of one: use the application's own locks, taken before `pstart` and released after `pend`.
public final class Pool: @unchecked Sendable {
  @usableFromInline package let heap: Heap
  /// Announced memory, for the collections.
  @usableFromInline package let announcedHeap: AnnouncedHeap
  package let engine: PoolEngine
  let findsVolatilePointers: Bool
  /// First address of the pool's memory, the same in every process and for ever.
  public let base: UnsafeRawPointer
  /// The kind of tracker that finds the writes.
  public let tracker: TrackerKind
  /// How writes become durable.
  public let persistencePath: PersistencePath

  private init(_ engine: PoolEngine, _ options: Options) throws(PoolError) {
    findsVolatilePointers = options.findsVolatilePointers
    heap = try Heap(engine)
    announcedHeap = try AnnouncedHeap(heap)
    self.engine = engine
    base = UnsafeRawPointer(engine.base)
    tracker = engine.trackerKind
    persistencePath = engine.persistencePath
  }

  /// Aborts a section that this thread still has open, then closes.
  deinit {
    engine.abandonSection()
    do throws(PoolError) {
      try engine.close()
    } catch {
      // Sections that wait for ever have lanes of an engine that was not closed.
      if case .sectionsDeadlocked = error { _ = Unmanaged.passRetained(engine) }
    }
  }

  // MARK: Create, open, close

  /// How a pool is made and opened.
  public struct Options: Sendable {
    /// Tracker, persistence path, retention, check for stray writes.
    public var engine = EngineOptions()
    /// Whether a section fails that stores an address of the process's other memory in a
    /// collection. `VOLIP_POINTERS=1` in the environment switches it on. For tests: what lies
    /// between the fields of a struct may look like one.
    public var findsVolatilePointers = getenv("VOLIP_POINTERS").map { $0.pointee == 0x31 } ?? false
    /// First size of the log in bytes; 1/32 of the file, at most 32 MiB, when nil. For `create`.
    public var logBytes: UInt64?
    /// Bytes that the log may grow to; 1/8 of the file, at most 1 GiB, when nil. For `create`.
    public var logBytesMax: UInt64?

    public init() {}
  }

  /// Makes a pool file of `byteCount` bytes and opens it. The file is sparse: it takes blocks as
  /// memory is used.
  ///
  /// - Parameters:
  ///   - path: a name that does not exist yet.
  ///   - byteCount: 1 MiB to 8 TiB; more than the machine's memory is fine.
  /// - Throws: ``PoolError``; nothing is left behind.
  public static func create(
    _ path: String, byteCount: UInt64, options: Options = Options()
  ) throws(PoolError) -> Pool {
    let geometry = try PoolGeometry(
      fileBytes: byteCount, logBytes: options.logBytes, logBytesMax: options.logBytesMax)
    return try PoolEngine.create(path: path, geometry: geometry) { file throws(PoolError) in
      try Pool(PoolEngine(file, options: options.engine), options)
    }
  }

  /// Opens a pool, and recovers it after a crash: every section that was durable is there.
  ///
  /// - Throws: ``PoolError``. A pool that cannot be opened is left as it was; with `.damagedHeap`
  ///   alone the log has been applied by then, which changes no section's outcome.
  public static func open(
    _ path: String, options: Options = Options()
  ) throws(PoolError) -> Pool {
    try PoolEngine.withoutCancellation { () throws(PoolError) in
      try Pool(PoolEngine(PoolFile.open(path: path), options: options.engine), options)
    }
  }

  /// Makes everything durable in the image, unmaps the pool and gives it free for others. Pointers
  /// into it are invalid until it is open again. No other thread may be using the handle.
  ///
  /// - Throws: `.nestedSection` inside a section; what a checkpoint throws, and then the pool is
  ///   closed all the same: the log has what the image lacks. A poisoned handle is closed without a
  ///   checkpoint; the next open tells what became of its last section.
  public func close() throws(PoolError) {
    try engine.close()
  }

  var isAudited: Bool { engine.isAudited }

  // MARK: Sections

  /// Runs `body` as a failure-atomic section. A thrown error rolls it back and is thrown on.
  /// Sections nest flat: an inner one is part of the outermost, and if it throws, all is rolled
  /// back.
  ///
  /// - Throws: what `body` throws, or ``PoolError`` from `pstart` and `pend`.
  public func section<Result>(_ body: (inout Section) throws -> Result) throws -> Result {
    try section(.exclusive, body)
  }

  /// The same as a section of a kind.
  ///
  /// - Parameter kind: with `.announced`, what the collections write and what `body` announces is
  ///   durable, and nothing else: no page is looked at, which is several times faster for small
  ///   sections. Allocating other memory, or opening an exclusive section inside, makes it
  ///   exclusive.
  /// - Throws: what `body` throws, or ``PoolError`` from `pstart` and `pend`.
  public func section<Result>(
    _ kind: SectionKind, _ body: (inout Section) throws -> Result
  ) throws -> Result {
    let heap = try announcedHeap.openSection(kind)
    var section = Section(self, engine.announcedOfThisThread, heap)
    let result: Result
    do {
      result = try body(&section)
      try requireNoVolatilePointers(in: section.announced)
    } catch {
      // A body that ended the section itself, by pabort, leaves nothing to abort.
      if engine.isInSection { try pabort() }
      throw error
    }
    try pend()
    return result
  }

  /// Opens a section on this thread; waits while another thread has one.
  ///
  /// - Throws: `.writeOutsideSection` when memory was written since the last section (the bytes are
  ///   put back), `.forkedChild`, `.closed`, `.poisoned`.
  public func pstart() throws(PoolError) {
    _ = try announcedHeap.openSection(.exclusive)
  }

  /// Opens a section of a kind on this thread.
  public func pstart(_ kind: SectionKind) throws(PoolError) {
    _ = try announcedHeap.openSection(kind)
  }

  /// Ends the section: its writes are durable when this returns, a buffered one's later.
  ///
  /// - Throws: `.sectionTooLarge`, `.diskFull`, `.sectionAborted` (rolled back), `.outcomeUnknown`.
  public func pend() throws(PoolError) {
    try engine.closeSection()
  }

  /// Ends the section and takes its writes back.
  public func pabort() throws(PoolError) {
    try engine.abortSection()
  }

  /// Makes the section's writes durable and goes on in a new one.
  public func pcommit() throws(PoolError) {
    try engine.commitSection()
  }

  /// Makes durable what buffered sections wrote until now; after sections of other kinds there is
  /// nothing to do.
  ///
  /// - Throws: `.outcomeUnknown`, and the handle is poisoned: how many of them are there, the next
  ///   open tells.
  public func sync() throws(PoolError) {
    try engine.sync()
  }

  // MARK: Memory

  /// Uninitialized memory in the pool; needs an open section on this thread.
  ///
  /// - Parameters:
  ///   - byteCount: bytes; zero gets an address of its own.
  ///   - alignment: a power of two up to 4,096.
  /// - Throws: `.poolFull`, `.noSection`, `.damagedHeap`.
  @inlinable @inline(__always)
  public func allocate(
    byteCount: Int, alignment: Int = 16
  ) throws(PoolError) -> UnsafeMutableRawPointer {
    try heap.allocate(byteCount: byteCount, alignment: alignment)
  }

  /// Uninitialized memory for `count` values.
  public func allocate<T: BitwiseCopyable>(
    _ type: T.Type, count: Int = 1
  ) throws(PoolError) -> UnsafeMutablePointer<T> {
    let (byteCount, overflow) = MemoryLayout<T>.stride.multipliedReportingOverflow(by: count)
    guard !overflow else { throw .invalidArgument("\(count) values of \(T.self)") }
    let memory = try heap.allocate(
      byteCount: byteCount, alignment: max(MemoryLayout<T>.alignment, 16))
    // SAFETY: fresh memory of that size and alignment.
    return memory.bindMemory(to: T.self, capacity: count)
  }

  /// Frees a block; needs an open section on this thread.
  ///
  /// - Throws: `.notAllocated` for anything but the start of an allocated block.
  @inlinable @inline(__always)
  public func deallocate(_ address: UnsafeRawPointer) throws(PoolError) {
    try heap.deallocate(address)
  }

  /// A block of `byteCount` bytes, aligned to 16, that begins with the old block's bytes; the old
  /// one is freed.
  public func reallocate(
    _ address: UnsafeRawPointer, byteCount: Int
  ) throws(PoolError) -> UnsafeMutableRawPointer {
    try heap.reallocate(address, byteCount: byteCount)
  }

  /// Bytes that may be used at a block's address, at least those asked for.
  public func usableBytes(_ address: UnsafeRawPointer) throws(PoolError) -> Int {
    try engine.requireOpen()
    return try heap.usableBytes(address)
  }

  /// Announces that a system call will write to pool memory. Needed with the `write-protect`
  /// tracker alone, where the call would fail with EFAULT; harmless with others.
  public func willWrite(_ address: UnsafeRawPointer, byteCount: Int) throws(PoolError) {
    try engine.willWrite(address, byteCount: byteCount)
  }

  // MARK: Whole pool

  /// Counts since the pool was opened.
  public func statistics() throws(PoolError) -> SectionStatistics {
    try engine.currentStatistics()
  }

  /// Applies the log to the image for good, as happens by itself when the log is full.
  public func checkpoint() throws(PoolError) {
    try engine.checkpointNow()
  }

  /// Gives memory back to the system: private copies of pages that equal the pool file's. What is
  /// read or written next comes from the file again. Sections of other threads wait meanwhile.
  ///
  /// - Returns: pages of 4 KiB that were given back.
  /// - Throws: `.nestedSection` inside a section; what ``checkpoint()`` throws.
  @discardableResult
  public func trim() throws(PoolError) -> Int { try engine.trim() }

  /// Makes the pool file `byteCount` bytes large; addresses stay. At most 15 times in its life. No
  /// other thread may be allocating or looking for roots meanwhile; reading data is fine.
  ///
  /// - Throws: `.addressTaken` when the address range behind the pool is in use, `.diskFull`,
  ///   `.invalidArgument` when it would not grow.
  public func grow(byteCount: UInt64) throws(PoolError) {
    try heap.grow(toFileBytes: byteCount)
  }

  /// Walks all heap metadata, every block, and the roots. Takes no section: call it while nothing
  /// is written. Of a closed pool the report says so.
  public func checkHeap() -> HeapReport {
    do throws(PoolError) {
      try engine.requireOpen()
    } catch {
      return HeapReport(problem: "\(error)")
    }
    var report = heap.check()
    announcedHeap.check(into: &report)
    return report
  }
}

/// The token of an open section: whoever has it may change persistent memory.
///
/// It cannot be copied or kept: it lives as long as the body of ``Pool/section(_:)``.
public struct Section: ~Copyable {
  // SAFETY: whoever runs the body of a section holds the pool, and the pool its heap, which has
  // those of the lanes. Counting references would cost more than an allocation.
  private let heldPool: Unmanaged<Pool>
  @usableFromInline let announced: AnnouncedWrites
  /// Where it allocates announced memory, of its lane if it has one.
  @usableFromInline let heap: Unmanaged<AnnouncedHeap>

  init(_ pool: Pool, _ announced: AnnouncedWrites, _ heap: Unmanaged<AnnouncedHeap>) {
    heldPool = .passUnretained(pool)
    self.announced = announced
    self.heap = heap
  }

  /// The pool whose section it is.
  public var pool: Pool {
    requireOpen()
    return heldPool.takeUnretainedValue()
  }

  /// After `pend` or `pabort` in the middle of a body the token is nobody's: what it says would be
  /// said in another thread's section.
  @inlinable @inline(__always)
  func requireOpen() {
    precondition(announced.isOfThisThread, "the section has ended")
  }

  /// Announces a write to announced memory, before it or after it: these bytes, as they are at the
  /// section's end, are durable with it.
  ///
  /// - Parameter address: in memory that ``allocateAnnounced(byteCount:alignment:)`` gave.
  @inlinable @inline(__always)
  public mutating func announce(_ address: UnsafeRawPointer, byteCount: Int) {
    requireOpen()
    announced.announce(address, byteCount: byteCount)
  }

  /// Uninitialized announced memory: no write to it is found but those that are announced.
  ///
  /// - Throws: `.poolFull`, `.damagedHeap`.
  @inlinable @inline(__always)
  public mutating func allocateAnnounced(
    byteCount: Int, alignment: Int = 16
  ) throws(PoolError) -> UnsafeMutableRawPointer {
    requireOpen()
    if alignment <= 16,
      let block = heap._withUnsafeGuaranteedRef({ $0.takeOrdinary(byteCount: byteCount) })
    {
      return block
    }
    return try heap.takeUnretainedValue().allocate(byteCount: byteCount, alignment: alignment)
  }

  /// Frees announced memory.
  ///
  /// - Throws: `.notAllocated` for anything but the start of such a block.
  @inlinable @inline(__always)
  public mutating func deallocateAnnounced(_ address: UnsafeRawPointer) throws(PoolError) {
    requireOpen()
    if heap._withUnsafeGuaranteedRef({ $0.giveOrdinary(address) }) { return }
    try heap.takeUnretainedValue().deallocate(address)
  }

  /// See ``Pool/willWrite(_:byteCount:)``.
  public func willWrite(_ range: UnsafeRawBufferPointer) throws(PoolError) {
    guard let address = range.baseAddress else { return }
    try pool.willWrite(address, byteCount: range.count)
  }
}
