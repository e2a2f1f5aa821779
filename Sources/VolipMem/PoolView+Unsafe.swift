// PoolView: a pool file looked at, and not opened.

/// A pool file as the next open would recover it, in memory of its own: the file stays as it is, no
/// lock is taken, and nothing is mapped at the pool's address.
///
/// What somebody who has the pool open changes meanwhile may or may not be seen: ask
/// ``requireUndisturbed()`` before believing what was found.
public final class PoolView {
  private let view: RecoveredView
  private let heap: HeapView?
  /// The first contradiction that stands before any look into the heap.
  private let heapProblem: HeapProblem?

  /// - Throws: what ``Pool/open(_:options:)`` would throw of the file, but for `.damagedHeap`,
  ///   which ``check()`` reports.
  public init(_ path: String) throws(PoolError) {
    view = try RecoveredView(path: path)
    let pageCount = Int(view.superblock.geometry.pageCount)
    do throws(PoolError) {
      let image = view.image
      heap = try PoolEngine.withoutCancellation { () throws(PoolError) in
        try HeapView(image: image, pageCount: pageCount)
      }
      // The first section of a pool makes its heap.
      let isNew = heap == nil && view.lastLsn == 0
      heapProblem =
        heap == nil && !isNew
        ? HeapProblem(offset: PoolOffset(bytes: 0), reason: "no heap header") : nil
    } catch {
      guard case .damagedHeap(let offset, let reason) = error else { throw error }
      heap = nil
      heapProblem = HeapProblem(offset: PoolOffset(bytes: offset), reason: reason)
    }
  }

  // MARK: The file

  /// The file's name as it was given.
  public var path: String { view.file.path }

  /// The superblock as it stands in the file: the newer of its whole copies.
  public var superblock: Superblock { view.superblock }

  /// Bytes of the file that have blocks of the file system.
  public func allocatedBytes() throws(PoolError) -> UInt64 { try view.file.allocatedBytes() }

  /// For each of the two superblock copies, what is wrong with it, or nil.
  public var copyProblems: [String?] {
    view.copies.map { copy in
      switch copy {
      case .success: nil
      case .failure(let refusal): "\(refusal)"
      }
    }
  }

  /// Records that recovery has to apply, oldest first.
  public var records: [RecordFacts] { view.records }

  /// Log sequence number of the last section that is there.
  public var lastLsn: UInt64 { view.lastLsn }

  /// Whether the pool was not closed: records are to be applied, or a superblock copy repaired.
  public var needsRecovery: Bool { view.needsRecovery }

  /// Whether another handle has the pool at a path open.
  public static func isInUse(_ path: String) throws(PoolError) -> Bool {
    try PoolFile.isInUse(path: path)
  }

  /// - Throws: `.inUse` when somebody had the pool open since the view was made.
  public func requireUndisturbed() throws(PoolError) { try view.requireUndisturbed() }

  // MARK: The heap

  /// Walks all heap metadata, every block, and the roots.
  public func check() throws(PoolError) -> HeapReport {
    if let heapProblem { return HeapReport(problems: [heapProblem]) }
    guard let heap else { return HeapReport(problems: []) }
    return try reading { () throws(PoolError) in heap.check() }
  }

  /// Looks at the header, the page tables' places and the roots alone.
  public func checkQuickly() throws(PoolError) -> HeapReport {
    if let heapProblem { return HeapReport(problems: [heapProblem]) }
    do throws(PoolError) {
      _ = try roots()
    } catch {
      guard case .damagedHeap(let offset, let reason) = error else { throw error }
      return HeapReport(problems: [HeapProblem(offset: PoolOffset(bytes: offset), reason: reason)])
    }
    return HeapReport(problems: [])
  }

  /// Names, layouts and places of all roots.
  ///
  /// - Throws: `.damagedHeap`.
  public func roots() throws(PoolError) -> [Root] {
    guard let heap = try wholeHeap() else { return [] }
    return try reading { () throws(PoolError) in try heap.roots() }
  }

  /// Pages of the heap: below its high-water mark, and all that it has.
  public var heapPages: (highWater: Int, limit: Int) {
    (heap?.highWater ?? 0, heap?.pageLimit ?? 0)
  }

  /// Pages of the pool, ascending, and whether they hold anything.
  ///
  /// - Throws: `.damagedHeap`.
  package func runs() throws(PoolError) -> [PageRun] {
    guard let heap = try wholeHeap() else { return [] }
    return try reading { () throws(PoolError) in try heap.runs() }
  }

  private func wholeHeap() throws(PoolError) -> HeapView? {
    guard let heapProblem else { return heap }
    throw .damagedHeap(offset: heapProblem.offset.bytes, reason: heapProblem.reason)
  }

  // MARK: Bytes

  /// Calls `body` with bytes of persistent memory.
  ///
  /// - Throws: `.unreadable` where a page of them cannot be read; `.invalidArgument` for a range
  ///   that the pool does not have.
  public func withBytes<Result>(
    _ range: Range<UInt64>, _ body: (UnsafeRawBufferPointer) -> Result
  ) throws(PoolError) -> Result {
    guard range.upperBound <= superblock.geometry.imageBytes else {
      throw .invalidArgument("bytes outside the pool")
    }
    // SAFETY: inside the image, which the view has mapped whole.
    let bytes = UnsafeRawBufferPointer(
      start: view.image + Int(range.lowerBound), count: range.count)
    return try reading { () throws(PoolError) in body(bytes) }
  }

  /// The first of some pages that cannot be read, or nil.
  package func unreadablePage(in pages: Range<Int>) -> Int? {
    // SAFETY: as above; nothing is loaded.
    let image = view.image
    if FailedPages.canRead(image + pages.lowerBound << 12, byteCount: pages.count << 12) {
      return nil
    }
    return pages.first { !FailedPages.canRead(image + $0 << 12, byteCount: 4096) }
  }

  private func reading<Result>(
    _ body: () throws(PoolError) -> Result
  ) throws(PoolError) -> Result {
    let result = try PoolEngine.withoutCancellation(body)
    try view.requireWhole()
    return result
  }
}
