// HeapView: the heap of a pool that is not open here: looked at, never changed.
//
// SAFETY: the image is a whole mapping of as many pages as are given, which the caller keeps.

/// Pages of a pool and what is in them.
package struct PageRun: Equatable {
  package let pages: Range<Int>
  /// Whether the pages hold nothing: in a free run, or above a high-water mark.
  package let isFree: Bool
}

package final class HeapView {
  let heap: Heap
  let arenas: [Heap]

  /// Nil where no heap was made yet: a pool whose creation was cut off.
  package init?(image: UnsafeMutableRawPointer, pageCount: Int) throws(PoolError) {
    let memory = HeapMemory(base: image, byteCount: pageCount << 12)
    guard memory.unreadablePage(in: 0..<1) == nil else {
      throw .damagedHeap(offset: 0, reason: "its page cannot be read")
    }
    let header = HeapHeader(memory: memory)
    guard header.isFormatted else {
      if !header.isBlank { throw .damagedHeap(offset: 0, reason: "no heap header") }
      return nil
    }
    heap = try Heap(viewing: memory, arenaPage: nil)
    var arenas: [Heap] = []
    for run in try heap.arenaRuns() {
      let part = HeapMemory(
        base: memory.address(run.lowerBound << 12), byteCount: run.count << 12)
      arenas.append(try Heap(viewing: part, arenaPage: run.lowerBound))
    }
    self.arenas = arenas
  }

  /// Pages below it were in use at some time.
  package var highWater: Int { heap.header.highWater }
  package var pageLimit: Int { heap.header.pageLimit }
  package var arenaCount: Int { arenas.count }

  /// Walks all metadata.
  package func check() -> HeapReport {
    var report = heap.check()
    for arena in arenas { report.add(arena.check(), at: UInt64(arena.arenaPage!) << 12) }
    report.remove(DeferredFrees.all(in: arenas, heap.memory))
    return report
  }

  package func roots() throws(PoolError) -> [Root] { try heap.roots() }

  /// All pages of the pool, ascending; neighbours of a kind are one run.
  package func runs() throws(PoolError) -> [PageRun] {
    var runs = PageRuns()
    var arenas = arenas[...]
    try heap.forEachRun { (page, entry) throws(PoolError) in
      guard entry.kind == .arena, let arena = arenas.first(where: { $0.arenaPage == page }) else {
        return runs.add(page..<page + entry.length, isFree: entry.kind == .free)
      }
      arenas.removeAll { $0.arenaPage == page }
      try arena.forEachRun { inside, entry in
        let first = page + inside
        runs.add(first..<first + entry.length, isFree: entry.kind == .free)
      }
      runs.add(page + arena.header.highWater..<page + entry.length, isFree: true)
    }
    runs.add(heap.header.highWater..<heap.memory.byteCount >> 12, isFree: true)
    return runs.list
  }

  private struct PageRuns {
    private(set) var list: [PageRun] = []

    mutating func add(_ pages: Range<Int>, isFree: Bool) {
      guard !pages.isEmpty else { return }
      if let last = list.last, last.isFree == isFree, last.pages.upperBound == pages.lowerBound {
        list.removeLast()
        list.append(PageRun(pages: last.pages.lowerBound..<pages.upperBound, isFree: isFree))
      } else {
        list.append(PageRun(pages: pages, isFree: isFree))
      }
    }
  }
}

extension Heap {
  /// Calls `body` for the first page of each run and its entry.
  func forEachRun(
    _ body: (Int, PageEntry) throws(PoolError) -> Void
  ) throws(PoolError) {
    var page = 0
    while page < header.highWater {
      let entry = try table[page]
      guard entry.length > 0, entry.length <= header.highWater - page else {
        throw damage(page, "run of \(entry.length) pages")
      }
      try body(page, entry)
      page += entry.length
    }
  }
}
