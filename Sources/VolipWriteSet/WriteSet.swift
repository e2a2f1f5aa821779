// WriteSet: the pages of a section and the lines in them that changed.
//
// Invariants
// 1. pages[0..<pageCount] ascend; changedLines[i] belongs to pages[i].
// 2. retained[i] says whether the page stays writable after this section.

import CVolipPersistence

public final class WriteSet {
  public var pageCount: Int { counts.pages }
  /// Changed lines and the extents that name them, counted by `compare`.
  public var lineCount: Int { counts.lines }
  public var extentCount: Int { counts.extents }
  /// Not public: other modules would check exclusive access to a stored property at run time, nine
  /// times in a commit, whatever is said here.
  @exclusivity(unchecked) private var counts = (pages: 0, lines: 0, extents: 0)
  let pages: ReservedArray<UInt32>
  let changedLines: ReservedArray<UInt64>
  let retained: ReservedArray<Bool>

  public init(pageCapacity: Int) throws(PoolError) {
    pages = try ReservedArray(capacity: pageCapacity)
    changedLines = try ReservedArray(capacity: pageCapacity)
    retained = try ReservedArray(capacity: pageCapacity)
  }

  public func removeAll() {
    counts = (0, 0, 0)
  }

  @inline(__always)
  func append(page: Int) {
    pages[counts.pages] = UInt32(truncatingIfNeeded: page)
    counts.pages += 1
  }

  /// Adds pages, ascending and none of them there yet, that are not retained. Before `compare`.
  func insert(_ late: [Int]) {
    guard !late.isEmpty else { return }
    var (old, new) = (pageCount, pageCount + late.count)
    counts.pages = new
    for page in late.reversed() {
      while old > 0, pages[old - 1] > page {
        (old, new) = (old - 1, new - 1)
        (pages[new], retained[new]) = (pages[old], retained[old])
      }
      new -= 1
      (pages[new], retained[new]) = (UInt32(truncatingIfNeeded: page), false)
    }
  }

  @inline(__always)
  public func page(_ index: Int) -> Int { Int(pages[index]) }

  /// Whether the page at an index stays writable.
  @inline(__always)
  public func isRetained(_ index: Int) -> Bool { retained[index] }

  public func retainNone() {
    markRetained { _ in false }
  }

  /// Marks each page that `keep` says.
  public func markRetained(_ keep: (_ page: Int) -> Bool) {
    for index in 0..<pageCount { retained[index] = keep(page(index)) }
  }

  /// Whether any line of the page at an index changed.
  @inline(__always)
  public func hasChanges(_ index: Int) -> Bool { changedLines[index] != 0 }

  /// Compares every page with its image.
  public func compare(_ workingCopy: WorkingCopy, with image: ImageView) {
    compare(0..<pageCount, workingCopy, with: image)
    countLines()
  }

  /// Compares some of the pages, by their indexes. Threads may share the work, each with indexes of
  /// its own; `countLines` follows when all are done.
  public func compare(_ indexes: Range<Int>, _ workingCopy: WorkingCopy, with image: ImageView) {
    for index in indexes {
      let next = page(min(index + 1, indexes.upperBound - 1))
      changedLines[index] = workingCopy.difference(page: page(index), next: next, from: image)
    }
  }

  /// Takes all lines of some pages as changed: their image is lost.
  package func markWhole(_ lost: [Int]) {
    for index in 0..<pageCount where lost.contains(page(index)) { changedLines[index] = .max }
    countLines()
  }

  public func countLines() {
    counts.lines = lineCount(ofPages: 0..<pageCount)
    var extents = 0
    forEachExtent { _ in extents += 1 }
    counts.extents = extents
  }

  /// Changed lines of some of the pages, by their indexes.
  public func lineCount(ofPages indexes: Range<Int>) -> Int {
    var lines = 0
    for index in indexes { lines += changedLines[index].nonzeroBitCount }
    return lines
  }

  /// Takes the changed lines of the pages that `include` says out of the set, ascending.
  public func takeChanges(ofPages include: (_ page: Int) -> Bool) -> [LineExtent] {
    var taken: [LineExtent] = []
    for index in 0..<pageCount where changedLines[index] != 0 && include(page(index)) {
      let mask = changedLines[index]
      for line in 0..<64 where mask >> line & 1 != 0 {
        taken.append(LineExtent(firstLine: UInt64(page(index) * 64 + line), lineCount: 1))
      }
      changedLines[index] = 0
    }
    countLines()
    return taken
  }

  /// Calls `body` for each run of changed lines in ascending order.
  @inline(__always)
  public func forEachExtent(_ body: (LineExtent) -> Void) {
    forEachExtent(ofPages: 0..<pageCount, body)
  }

  /// The same for some of the pages, by their indexes.
  @inline(__always)
  public func forEachExtent(ofPages indexes: Range<Int>, _ body: (LineExtent) -> Void) {
    var open = LineExtent(firstLine: 0, lineCount: 0)
    for index in indexes {
      var mask = changedLines[index]
      let firstLine = UInt64(pages[index]) * 64
      while mask != 0 {
        let start = mask.trailingZeroBitCount
        let count = (~(mask >> start)).trailingZeroBitCount
        let first = firstLine + UInt64(start)
        if open.firstLine + UInt64(open.lineCount) == first, open.lineCount > 0,
          open.lineCount + count <= LineExtent.lineCountMax
        {
          open.lineCount += count
        } else {
          if open.lineCount > 0 { body(open) }
          open = LineExtent(firstLine: first, lineCount: count)
        }
        mask &= start + count == 64 ? 0 : ~0 << UInt64(start + count)
      }
    }
    if open.lineCount > 0 { body(open) }
  }

  /// Calls `body` for each run of pages to which `include` applies. A run may reach over up to
  /// `gapPagesMax` pages that are not in the write set, never over one that `include` rejects.
  @inline(__always)
  public func forEachRun<Failure: Error>(
    gapPagesMax: Int, where include: (Int) -> Bool, _ body: (Range<Int>) throws(Failure) -> Void
  ) throws(Failure) {
    var run: Range<Int>?
    for index in 0..<pageCount {
      let page = page(index)
      guard include(index) else {
        if let open = run { try body(open) }
        run = nil
        continue
      }
      if let open = run, page - open.upperBound <= gapPagesMax {
        run = open.lowerBound..<page + 1
      } else {
        if let open = run { try body(open) }
        run = page..<page + 1
      }
    }
    if let open = run { try body(open) }
  }
}
