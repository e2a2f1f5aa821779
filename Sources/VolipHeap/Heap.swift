// Heap: memory in a pool for the program: allocate, free, reallocate.
//
// All metadata is ordinary persistent memory, changed with ordinary stores inside the caller's
// section: the section makes it failure-atomic, and a rollback takes it back. There is no logging
// code here, and no state outside the pool but a copy of the page table's segments.
//
// Damaged metadata is an error value. After one the caller aborts its section.
//
// Threads: as for all writes to a pool, one at a time, inside a section. So the properties need no
// run-time check of exclusive access, which would cost as much as an allocation.

public final class Heap {
  /// Nil for a heap that is only looked at.
  let engineIfOpen: PoolEngine?
  public var engine: PoolEngine { engineIfOpen! }
  let shapes = SizeClassShapes.shared
  @exclusivity(unchecked) private(set) var memory: HeapMemory
  @exclusivity(unchecked) private(set) var header: HeapHeader
  @exclusivity(unchecked) private(set) var table: PageTable
  private let segments = PageTableSegments()
  private var watchedPages: Int
  /// First page of an arena of announced memory; nil for the pool's own heap, which is
  /// page-tracked.
  let arenaPage: Int?

  /// Pages are watched ahead of the high-water mark in steps, to save calls.
  static let watchStepPages = 256

  /// The heap of an open pool; made in a section of its own where there is none yet.
  public init(_ engine: PoolEngine) throws(PoolError) {
    engineIfOpen = engine
    arenaPage = nil
    memory = HeapMemory(base: engine.base, byteCount: engine.pageCount << 12)
    header = HeapHeader(memory: memory)
    if engine.unreadablePage(in: 0..<1) != nil {
      throw .damagedHeap(offset: 0, reason: "its page cannot be read")
    }
    if !header.isFormatted {
      // The first section of a pool formats its heap: later there is none without a header.
      guard engine.superblock.appliedLsn == 0, header.isBlank else {
        throw .damagedHeap(offset: 0, reason: "no heap header")
      }
      try Self.formatPool(engine, memory, segments)
    }
    if let reason = header.contradiction(pageCount: engine.pageCount) {
      throw .damagedHeap(offset: 0, reason: reason)
    }
    watchedPages = 0
    table = try PageTable(header, in: segments)
    try watch(upTo: header.highWater)
    do throws(PoolError) {
      try adoptGrowth()
    } catch {
      // At its old size the pool is whole; a later open finds room, perhaps.
      guard case .diskFull = error else { throw error }
    }
  }

  /// The heap of an arena: of announced memory, every store to which is announced. The open section
  /// formats a new one.
  init(
    arena pages: Range<Int>, of engine: PoolEngine, _ announced: AnnouncedWrites, isNew: Bool
  ) throws(PoolError) {
    engineIfOpen = engine
    arenaPage = pages.lowerBound
    let start = pages.lowerBound << 12
    memory = HeapMemory(
      base: HeapMemory(base: engine.base, byteCount: engine.pageCount << 12).address(start),
      byteCount: pages.count << 12, announced: announced)
    header = HeapHeader(memory: memory)
    if isNew {
      try engine.useAnnounced(pages.lowerBound..<pages.lowerBound + Self.pagesFirst(pages.count))
      try Self.format(memory, pageCount: pages.count, segments)
      header.setDeferred(first: 0, count: 0)
    }
    if let reason = header.contradiction(pageCount: pages.count) {
      throw .damagedHeap(offset: UInt64(start), reason: reason)
    }
    watchedPages = 0
    table = try PageTable(header, in: segments)
    try watch(upTo: header.highWater)
  }

  /// The heap of a pool that is not open here, to be looked at.
  init(viewing memory: HeapMemory, arenaPage: Int?) throws(PoolError) {
    engineIfOpen = nil
    self.arenaPage = arenaPage
    self.memory = memory
    header = HeapHeader(memory: memory)
    if let reason = header.contradiction(pageCount: memory.byteCount >> 12) {
      throw .damagedHeap(offset: UInt64(arenaPage ?? 0) << 12, reason: reason)
    }
    watchedPages = 0
    table = try PageTable(header, in: segments)
  }

  /// Pages that a heap of `pageCount` pages has in use when it is new.
  static func pagesFirst(_ pageCount: Int) -> Int { 1 + PageTable.tablePages(pageCount) }

  /// Pages that this heap is about.
  var pageCount: Int { memory.byteCount >> 12 }

  /// Whether the open section may change this heap, without another word.
  @inline(__always)
  var isWritable: Bool {
    engine.isInSection && !engine.isShared && (arenaPage != nil || engine.isTracking)
  }

  /// Page-tracked metadata in a section of announced writes: the tracker follows it from here on.
  func requireWritable() throws(PoolError) {
    guard !isWritable else { return }
    if arenaPage != nil, engine.isInSection { return }
    try engine.trackOpenSection()
  }

  /// Takes pages into use that the pool has grown by. A crash after the growth and before this is
  /// made up for when the pool is opened.
  private func adoptGrowth() throws(PoolError) {
    // Pages that no page table can describe any more are left alone: the rest of the pool is whole.
    guard table.pageLimit < engine.pageCount, canGrow else { return }
    // In the section, so that no other thread's section sees the table change.
    try inSection { () throws(PoolError) in
      memory = HeapMemory(base: engine.base, byteCount: engine.pageCount << 12)
      header = HeapHeader(memory: memory)
      try addPageTable()
    }
  }

  private var canGrow: Bool { header.pageTableCount < HeapHeader.pageTablesMax }

  /// Makes the pool file `fileBytes` large and takes the new pages into use. No other thread may be
  /// using the heap or the roots; data may be read.
  public func grow(toFileBytes fileBytes: UInt64) throws(PoolError) {
    // Before the file grows: there is no way back.
    guard canGrow else {
      throw .invalidArgument("a pool grows at most \(HeapHeader.pageTablesMax - 1) times")
    }
    try engine.grow(toFileBytes: fileBytes)
    try adoptGrowth()
  }

  private static func formatPool(
    _ engine: PoolEngine, _ memory: HeapMemory, _ segments: PageTableSegments
  ) throws(PoolError) {
    try engine.watch(upTo: pagesFirst(engine.pageCount))
    try engine.openSection()
    do throws(PoolError) {
      try format(memory, pageCount: engine.pageCount, segments)
    } catch {
      try engine.abortSection()
      throw error
    }
    try engine.closeSection()
  }

  private static func format(
    _ memory: HeapMemory, pageCount: Int, _ segments: PageTableSegments
  ) throws(PoolError) {
    let header = HeapHeader(memory: memory)
    let pages = pagesFirst(pageCount)
    header.setPageLimit(pageCount)
    header.setHighWater(pages)
    header.setPageTableCount(1)
    PageTable.write(
      memory, 0, PageTableSegment(firstPage: 0, pageCount: pageCount, tablePage: 1))
    header.format()
    let table = try PageTable(header, in: segments)
    table.setMetadata(0..<pages)
  }

  /// Describes the pages that the pool has grown by: their table is at their own beginning, below
  /// a high-water mark that moves over it; what was left before becomes a free run.
  private func addPageTable() throws(PoolError) {
    let first = table.pageLimit
    let index = header.pageTableCount
    let pageCount = engine.pageCount - first
    let tablePages = PageTable.tablePages(pageCount)
    let left = first - header.highWater
    try watch(upTo: first + tablePages)
    let segment = PageTableSegment(firstPage: first, pageCount: pageCount, tablePage: first)
    PageTable.write(memory, index, segment)
    header.setPageTableCount(index + 1)
    header.setPageLimit(first + pageCount)
    let oldHighWater = header.highWater
    header.setHighWater(first + tablePages)
    table = try PageTable(header, in: segments)
    table.setMetadata(first..<first + tablePages)
    if left > 0 { try giveRun(oldHighWater, length: left) }
  }

  /// Runs `body` in a section that may change the page table's segments. If it does not commit, for
  /// whatever reason, the heap goes by the pool again.
  private func inSection(_ body: () throws(PoolError) -> Void) throws(PoolError) {
    try engine.openSection()
    do throws(PoolError) {
      do throws(PoolError) {
        try body()
      } catch {
        try engine.abortSection()
        throw error
      }
      try engine.closeSection()
    } catch {
      table = try PageTable(header, in: segments)
      throw error
    }
  }

  func watch(upTo pages: Int) throws(PoolError) {
    guard pages > watchedPages else { return }
    let step = Self.watchStepPages
    let target = min((pages + step - 1) / step * step, pageCount)
    if let arenaPage {
      try engine.useAnnounced(arenaPage + watchedPages..<arenaPage + target)
    } else {
      try engine.watch(upTo: target)
    }
    watchedPages = target
  }

  // MARK: Blocks by offset

  func take(byteCount: Int, alignment: Int) throws(PoolError) -> Int {
    try requireWritable()
    guard byteCount >= 0, alignment > 0, alignment & (alignment - 1) == 0, alignment <= 4096,
      byteCount <= memory.byteCount
    else {
      throw .invalidArgument("\(byteCount) bytes aligned to \(alignment)")
    }
    // Blocks are at multiples of their size behind a line: a size that is a multiple of the
    // alignment is aligned, up to the line.
    let wanted = alignment <= 16 ? byteCount : (byteCount + alignment - 1) / alignment * alignment
    if wanted <= SizeClass.smallBytesMax, alignment <= 64 {
      let sizeClass = Self.alignedClass(max(wanted, 1), alignment)
      if let sizeClass { return try takeBlock(sizeClass) }
    }
    let pages = max((byteCount + 4095) >> 12, 1)
    let page = try takeRun(pages)
    markRun(page, length: pages, .large)
    return page << 12
  }

  @inline(__always)
  private static func alignedClass(_ byteCount: Int, _ alignment: Int) -> Int? {
    let first = SizeClass.index(byteCount)
    if alignment <= 16 { return first }
    return (first..<SizeClass.count).first { SizeClass.sizes[$0] % alignment == 0 }
  }

  /// What is allocated at an offset.
  enum Block {
    case small(Slab)
    case large(page: Int, PageEntry)
  }

  @inline(__always)
  func find(_ offset: Int) throws(PoolError) -> Block {
    let page = offset >> 12
    guard page > 0, page < header.highWater else { throw .notAllocated(offset: UInt64(offset)) }
    if let sizeClass = table.slabClass(page) { return .small(try slab(page, sizeClass: sizeClass)) }
    return try findBesideSlabs(offset, page)
  }

  @inline(never)
  private func findBesideSlabs(_ offset: Int, _ page: Int) throws(PoolError) -> Block {
    let entry = try table[page]
    switch entry.kind {
    case .slabInterior:
      guard entry.length < page else { throw damage(page, "distance to the slab") }
      let head = page - entry.length
      let headEntry = try table[head]
      guard headEntry.kind == .slab else { throw damage(page, "distance to the slab") }
      return .small(try slab(head, sizeClass: Int(headEntry.sizeClass)))
    case .large where offset == page << 12:
      guard entry.length > 0, entry.length <= header.highWater - page else {
        throw damage(page, "length of a large block")
      }
      return .large(page: page, entry)
    default:
      throw .notAllocated(offset: UInt64(offset))
    }
  }

  func give(_ offset: Int) throws(PoolError) {
    try requireWritable()
    switch try find(offset) {
    case .small(let slab): try giveBlock(offset, slab)
    case .large(let page, let entry): try freeLarge(page, entry)
    }
  }

  func usableBytes(_ offset: Int) throws(PoolError) -> Int {
    switch try find(offset) {
    case .small(let slab):
      guard block(at: offset, in: slab) != nil else {
        throw .notAllocated(offset: UInt64(offset))
      }
      return shapes[slab.sizeClass].blockBytes
    case .large(_, let entry):
      return entry.length << 12
    }
  }

  func reallocate(_ offset: Int, byteCount: Int) throws(PoolError) -> Int {
    guard byteCount >= 0 else { throw .invalidArgument("\(byteCount) bytes") }
    let usable = try usableBytes(offset)
    // In place while it fits and at least half of it is used.
    if byteCount <= usable, byteCount > usable / 2 || usable <= 16 { return offset }
    let moved = try take(byteCount: byteCount, alignment: 16)
    memory.copy(from: offset, to: moved, byteCount: min(usable, byteCount))
    try give(offset)
    return moved
  }
}
