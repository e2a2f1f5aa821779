// HeapCheck: walks every page and every block and reports what does not agree.
//
// Each fact is held twice: runs tile the pages and lists name the same runs; a slab's page table
// entry and its own header; its free count and its bitmap; each list forwards and backwards. A
// contradiction in any of them is a problem with an offset and a reason.

public struct HeapProblem: Equatable, Sendable, CustomStringConvertible {
  public let offset: PoolOffset
  public let reason: String

  package init(offset: PoolOffset, reason: String) {
    self.offset = offset
    self.reason = reason
  }

  public var description: String { "\(offset): \(reason)" }
}

public struct HeapReport: Sendable {
  /// Offsets of all allocated blocks, ascending, and their usable bytes.
  public fileprivate(set) var blocks: [(offset: PoolOffset, byteCount: Int)] = []
  public fileprivate(set) var freePages = 0
  public fileprivate(set) var usedPages = 0
  public fileprivate(set) var problems: [HeapProblem] = []

  init() {}

  /// Adds the report of a part of the same pool that begins at `offset`.
  mutating func add(_ part: HeapReport, at offset: UInt64) {
    blocks += part.blocks.map { (PoolOffset(bytes: $0.offset.bytes + offset), $0.byteCount) }
    freePages += part.freePages
    usedPages += part.usedPages
    problems += part.problems.map {
      HeapProblem(offset: PoolOffset(bytes: $0.offset.bytes + offset), reason: $0.reason)
    }
  }

  /// Takes out blocks that are free but for a formality.
  mutating func remove(_ deferred: Set<PoolOffset>) {
    if !deferred.isEmpty { blocks.removeAll { deferred.contains($0.offset) } }
  }

  /// A report of one problem and nothing else.
  public init(problem: String) {
    problems = [HeapProblem(offset: PoolOffset(bytes: 0), reason: problem)]
  }

  /// A report of problems and nothing else.
  package init(problems: [HeapProblem]) {
    self.problems = problems
  }

  /// A report with more problems.
  package init(_ report: HeapReport, adding problems: [HeapProblem]) {
    self = report
    self.problems += problems
  }

  public var isConsistent: Bool { problems.isEmpty }
  public var allocatedBytes: Int { blocks.reduce(0) { $0 + $1.byteCount } }

  /// Blocks that the program cannot reach, given all that it can.
  public func leaks(reachable: Set<PoolOffset>) -> [PoolOffset] {
    blocks.map(\.offset).filter { !reachable.contains($0) }
  }

  /// Places that the program reaches and that are no blocks.
  public func dangling(reachable: Set<PoolOffset>) -> [PoolOffset] {
    let known = Set(blocks.map(\.offset))
    return reachable.filter { !known.contains($0) }.sorted()
  }
}

extension Heap {
  /// Checks all metadata. Never traps, whatever the pool holds; stops at the first page whose run
  /// cannot be told.
  public func check() -> HeapReport {
    var walk = HeapWalk(heap: self)
    walk.run()
    return walk.report
  }
}

private struct HeapWalk {
  let heap: Heap
  var report = HeapReport()
  /// Heads of free runs and of slabs with a free block, as the pages say, for the lists to match.
  private var free: [Int: Int] = [:]
  private var partial: [Int: Int] = [:]

  init(heap: Heap) { self.heap = heap }

  private mutating func note(_ offset: UInt64, _ reason: String) {
    report.problems.append(HeapProblem(offset: PoolOffset(bytes: offset), reason: reason))
  }

  mutating func run() {
    do throws(PoolError) {
      try requireReadable(0..<1)
      if let reason = heap.header.contradiction(pageCount: heap.pageCount) {
        throw .damagedHeap(offset: 0, reason: reason)
      }
      guard try tableIsUpToDate() else {
        throw .damagedHeap(
          offset: UInt64(HeapHeader.pageTablesByte), reason: "page tables differ from those in use")
      }
      for index in 0..<heap.table.segments.count {
        let segment = heap.table.segments[index]
        guard segment.firstPage < heap.header.highWater else { continue }
        let described = min(segment.pageCount, heap.header.highWater - segment.firstPage)
        let tablePages = PageTable.tablePages(described)
        try requireReadable(segment.tablePage..<segment.tablePage + tablePages)
      }
      try walkPages()
      try walkLists()
      try walkRoots()
    } catch {
      if case .damagedHeap(let offset, let reason) = error {
        note(offset, reason)
      } else {
        note(0, "\(error)")
      }
    }
  }

  /// Before pages of metadata are read: one that failed would end the process.
  private func requireReadable(_ pages: Range<Int>) throws(PoolError) {
    if let page = heap.memory.unreadablePage(in: pages) {
      throw .damagedHeap(offset: UInt64(page) << 12, reason: "its page cannot be read")
    }
  }

  /// The heap's copy of the page table's segments against the pool.
  private func tableIsUpToDate() throws(PoolError) -> Bool {
    let store = PageTableSegments()
    let present = try PageTable(heap.header, in: store)
    return withExtendedLifetime(store) { present.segments.isEqual(to: heap.table.segments) }
  }

  private mutating func walkPages() throws(PoolError) {
    var page = 0
    let end = heap.header.highWater
    while page < end {
      let entry = try heap.table[page]
      guard entry.length > 0, entry.length <= end - page else {
        throw heap.damage(page, "run of \(entry.length) pages")
      }
      try walkRun(page, entry)
      page += entry.length
    }
  }

  private mutating func walkRun(_ page: Int, _ entry: PageEntry) throws(PoolError) {
    switch entry.kind {
    case .free:
      free[page] = entry.length
      report.freePages += entry.length
      try expectInside(page, entry, tail: .freeTail)
    case .large:
      report.usedPages += entry.length
      report.blocks.append((PageIndex(UInt32(page)).offset, entry.length << 12))
      try expectInside(page, entry, tail: .largeTail)
    case .arena:  // has a check of its own, which counts its pages
      try expectInside(page, entry, tail: .largeTail)
    case .metadata:
      try requireReadable(page..<page + entry.length)
      report.usedPages += entry.length
      try expectInside(page, entry, tail: .largeTail)
    case .slab:
      report.usedPages += entry.length
      try walkSlab(page, entry)
    default:
      throw heap.damage(page, "\(entry.kind) where a run should begin")
    }
  }

  private mutating func expectInside(
    _ page: Int, _ entry: PageEntry, tail: PageKind
  ) throws(PoolError) {
    for inside in page + 1..<max(page + entry.length, page + 1) {
      let isLast = inside == page + entry.length - 1
      let expected = PageEntry(
        kind: isLast ? tail : .interior, length: isLast ? entry.length : 0)
      if try heap.table[inside] != expected {
        note(heap.table.offset(ofEntry: inside), "page \(inside): wrong inside its run")
      }
    }
  }

  private mutating func walkSlab(_ page: Int, _ entry: PageEntry) throws(PoolError) {
    try requireReadable(page..<page + 1)
    let slab = try heap.slab(page, sizeClass: Int(entry.sizeClass))
    let shape = SizeClass.shapes[slab.sizeClass]
    guard entry.length == shape.pages else { throw heap.damage(page, "pages of a slab") }
    for distance in 1..<max(shape.pages, 1) {
      let expected = PageEntry(kind: .slabInterior, length: distance)
      if try heap.table[page + distance] != expected {
        note(heap.table.offset(ofEntry: page + distance), "wrong inside a slab")
      }
    }
    var freeBlocks = 0
    for index in 0..<SizeClass.blocksMax {
      let word = heap.memory.load(slab.offset + 8 + index / 64 * 8, as: UInt64.self)
      let isFree = word >> UInt64(index % 64) & 1 != 0
      if index >= shape.blocks {
        if isFree { note(UInt64(slab.offset + 8), "free bit \(index) beyond the last block") }
        continue
      }
      freeBlocks += isFree ? 1 : 0
      if !isFree {
        let offset = slab.offset + SizeClass.slabHeaderBytes + index * shape.blockBytes
        report.blocks.append((PoolOffset(bytes: UInt64(offset)), shape.blockBytes))
      }
    }
    if freeBlocks != slab.freeBlocks {
      note(UInt64(slab.offset + 6), "\(slab.freeBlocks) free blocks counted, \(freeBlocks) found")
    }
    if freeBlocks > 0 { partial[page] = slab.sizeClass }
  }

  private mutating func walkLists() throws(PoolError) {
    for power in 0..<HeapHeader.runBinCount {
      try walkList(HeapHeader.runBinsByte + power * 4) { walk, page in
        guard let length = walk.free.removeValue(forKey: page) else { return false }
        return length >> power == 1
      }
    }
    for sizeClass in 0..<SizeClass.count {
      try walkList(HeapHeader.slabHeadsByte + sizeClass * 4) { walk, page in
        walk.partial.removeValue(forKey: page) == sizeClass
      }
    }
    for page in free.keys { note(heap.table.offset(ofEntry: page), "free run in no list") }
    for page in partial.keys { note(heap.table.offset(ofEntry: page), "slab in no list") }
  }

  /// `claim` removes what the list names from what the pages said, so that no cycle goes on.
  private mutating func walkList(
    _ headByte: Int, _ claim: (inout HeapWalk, Int) -> Bool
  ) throws(PoolError) {
    var previous = 0
    var page = PageList(table: heap.table, headByte: headByte).first
    while page != 0 {
      guard page < heap.table.pageLimit, claim(&self, page) else {
        let link = previous == 0 ? UInt64(headByte) : heap.table.offset(ofEntry: previous)
        throw .damagedHeap(offset: link, reason: "names page \(page), which does not belong there")
      }
      let entry = try heap.table[page]
      if entry.previous != previous { note(heap.table.offset(ofEntry: page), "link backwards") }
      previous = page
      page = entry.next
    }
  }

  private mutating func walkRoots() throws(PoolError) {
    for root in try heap.roots() where !hasBlock(at: root.offset) {
      note(root.offset.bytes, "root \"\(root.name)\" is no allocated block")
    }
  }

  /// Blocks stand in the order of the walk.
  private func hasBlock(at offset: PoolOffset) -> Bool {
    var (low, high) = (0, report.blocks.count)
    while low < high {
      let middle = (low + high) / 2
      if report.blocks[middle].offset < offset { low = middle + 1 } else { high = middle }
    }
    return low < report.blocks.count && report.blocks[low].offset == offset
  }
}
