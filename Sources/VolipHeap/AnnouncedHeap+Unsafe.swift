// AnnouncedHeap: the memory of the collections, whose every write is announced.
//
// It consists of arenas: runs of pages of the pool's own heap, each a heap of its own, with its own
// header and page table in its first pages. So no page has both kinds of memory, and an allocation
// writes announced memory only.
//
//   pool's heap   [ header | page table | ... | arena 0        | ... | arena 1              | ... ]
//   arena                                      [ header | page table | slabs, runs ]
//
// Invariants
// 1. Arenas lie above what was the high-water mark: no tracker has anything to say about them.
// 2. An arena is never given back. The list of them is in the pool's heap header.
// 3. While concurrent sections are open, each arena is one lane's at most, and nobody else writes
//    its metadata (rule 9): see LaneHeap+Unsafe.swift.
//
// SAFETY: the quick arena is one of those that the heap has, and none of a section that was rolled
// back; addresses are only compared and turned into offsets.
//
// Threads: as for Heap; a lane's belongs to the thread that has the lane.

import Synchronization

public final class AnnouncedHeap: @unchecked Sendable {
  public let engine: PoolEngine
  let pool: Heap
  /// Where it announces what it writes.
  let announced: AnnouncedWrites
  @exclusivity(unchecked) var arenas: [Heap] = []
  /// The arena that had room last.
  @exclusivity(unchecked) var current: Unmanaged<Heap>?
  /// Of the announced writes, when `arenas` was read.
  @exclusivity(unchecked) private var restoreCount: Int
  /// Of a lane's: the heap with all arenas, and what the lane has to say.
  let lane: LaneArenas?
  /// One for each lane.
  @exclusivity(unchecked) private(set) var lanes: [AnnouncedHeap] = []
  /// Whether lanes have freed blocks that are not theirs, for the next section that may.
  let hasDeferred = Atomic(false)
  private let padding = LinePadding()

  /// 1 MiB; each arena is twice as large as the one before, up to 1 GiB.
  static let arenaPagesMin = 256
  static let arenaPagesMax = 1 << 18
  /// Fewer are not worth the metadata.
  static let arenaPagesLeast = 40

  /// Finds the arenas that the pool has.
  public init(_ pool: Heap) throws(PoolError) {
    self.pool = pool
    engine = pool.engine
    announced = engine.announced
    lane = nil
    restoreCount = announced.restoreCount
    for pages in try pool.arenaRuns() {
      try engine.addAnnounced(pages)
      arenas.append(try Heap(arena: pages, of: engine, announced, isNew: false))
    }
    current = arenas.last.map { Unmanaged.passUnretained($0) }
    for index in 0..<engine.laneCount { lanes.append(AnnouncedHeap(lane: index, of: self)) }
    let isDeferring = arenas.contains { $0.header.deferredCount > 0 }
    hasDeferred.store(isDeferring, ordering: .relaxed)
  }

  /// The heap of a lane, without any arena yet.
  private init(lane index: Int, of base: AnnouncedHeap) {
    (pool, engine) = (base.pool, base.engine)
    announced = base.engine.announced(ofLane: index)
    restoreCount = announced.restoreCount
    lane = LaneArenas(base)
  }

  /// What the fast path may use.
  @inline(__always)
  var quickArena: Unmanaged<Heap>? {
    restoreCount == announced.restoreCount ? current : nil
  }

  /// After a rollback: arenas that the section made are gone.
  func forgetArenasRolledBack() {
    guard restoreCount != announced.restoreCount, !isRemoved(.rolledBackArenas) else { return }
    restoreCount = announced.restoreCount
    guard lane == nil else { return }
    hasDeferred.store(true, ordering: .relaxed)  // perhaps
    let count = pool.header.arenaCount
    if arenas.count > count { arenas.removeLast(arenas.count - count) }
    current = arenas.last.map { Unmanaged.passUnretained($0) }
  }

  // MARK: Blocks

  /// The arena that an address is in.
  ///
  /// - Throws: `.notAllocated`, or `.invalidArgument` for an address outside the pool.
  func arena(of address: UnsafeRawPointer) throws(PoolError) -> Heap {
    forgetArenasRolledBack()
    return try home(of: address, in: arenas[...])
  }

  func home(of address: UnsafeRawPointer, in arenas: ArraySlice<Heap>) throws(PoolError) -> Heap {
    for arena in arenas where arena.memory.offset(address) != nil { return arena }
    guard let offset = pool.memory.offset(address) else {
      throw .invalidArgument("an address outside the pool")
    }
    throw .notAllocated(offset: UInt64(offset))
  }

  /// An arena in which `body` finds room.
  func withRoom<Result>(
    byteCount: Int, _ body: (Heap) throws(PoolError) -> Result
  ) throws(PoolError) -> Result {
    guard engine.isInSection else { throw .noSection }
    guard byteCount >= 0, byteCount <= pool.memory.byteCount else {
      throw .invalidArgument("\(byteCount) bytes")
    }
    forgetArenasRolledBack()
    for arena in arenas.reversed() where byteCount < arena.memory.byteCount {
      do throws(PoolError) {
        let result = try body(arena)
        current = Unmanaged.passUnretained(arena)
        return result
      } catch {
        guard case .poolFull = error else { throw error }
      }
    }
    if let lane { throw lane.noteMissing(byteCount) }
    let arena = try addArena(byteCount: byteCount)
    let result = try body(arena)
    current = Unmanaged.passUnretained(arena)
    return result
  }

  /// A new arena with room for a block of `byteCount` bytes, as large as the pool allows.
  ///
  /// - Parameter divisor: how many may want one: all of them get half of what the pool has left.
  func addArena(byteCount: Int, divisor: Int = 1) throws(PoolError) -> Heap {
    try engine.trackOpenSection()
    let count = try pool.arenaCount()
    let block = (byteCount + 4095) >> 12
    let needed = block + Heap.pagesFirst(block + 8) + 8
    let left = pool.table.pageLimit - pool.header.highWater
    guard count < HeapHeader.arenasMax, max(needed, Self.arenaPagesLeast) <= left else {
      throw .poolFull(
        requestedBytes: UInt64(byteCount), availableBytes: UInt64(max(left - 9, 0)) << 12)
    }
    let wanted = min(Self.arenaPagesMin << min(count, 20), Self.arenaPagesMax, left / 2 / divisor)
    let length = max(wanted, needed, Self.arenaPagesLeast)
    let first = try pool.extendHighWater(length)
    pool.markRun(first, length: length, .arena)
    pool.header.appendArena(first: first, count: length)
    try engine.addAnnounced(first..<first + length)
    let arena = try Heap(arena: first..<first + length, of: engine, announced, isNew: true)
    arenas.append(arena)
    return arena
  }

  // MARK: Whole

  /// Adds what is wrong with the arenas, and their blocks, to a report of the pool's heap.
  public func check(into report: inout HeapReport) {
    forgetArenasRolledBack()
    guard arenas.count == pool.header.arenaCount else {
      let offset = UInt64(HeapHeader.arenasByte)
      report.add(HeapReport(problem: "arenas differ from those in use"), at: offset)
      return
    }
    for arena in arenas { report.add(arena.check(), at: UInt64(arena.arenaPage!) << 12) }
    report.remove(DeferredFrees.all(in: arenas, pool.memory))
  }
}

extension Heap {
  func arenaCount() throws(PoolError) -> Int {
    let count = header.arenaCount
    guard count >= 0, count <= HeapHeader.arenasMax else {
      throw .damagedHeap(offset: UInt64(HeapHeader.arenasByte), reason: "arena count")
    }
    return count
  }

  /// The pages of each arena.
  func arenaRuns() throws(PoolError) -> [Range<Int>] {
    var runs: [Range<Int>] = []
    for index in 0..<(try arenaCount()) {
      let (first, count) = header.arena(index)
      guard first > 0, count >= AnnouncedHeap.arenaPagesLeast, count <= header.highWater - first,
        try table[first] == PageEntry(kind: .arena, length: count)
      else {
        throw .damagedHeap(
          offset: UInt64(HeapHeader.arenasByte + 8 + index * 8), reason: "arena \(index)")
      }
      runs.append(first..<first + count)
    }
    return runs
  }
}

extension AnnouncedHeap {
  /// See `Heap.takeOrdinary`, of the arena that had room last.
  public func takeOrdinary(byteCount: Int) -> UnsafeMutableRawPointer? {
    quickArena?._withUnsafeGuaranteedRef { $0.takeOrdinary(byteCount: byteCount) }
  }

  /// See `Heap.giveOrdinary`.
  public func giveOrdinary(_ address: UnsafeRawPointer) -> Bool {
    quickArena?._withUnsafeGuaranteedRef { $0.giveOrdinary(address) } ?? false
  }

  /// Memory for `byteCount` bytes, aligned to `alignment` (a power of two up to 4,096), with any
  /// content, of which nothing is announced.
  ///
  /// - Throws: `.poolFull`, `.laneFull`, `.noSection`, `.damagedHeap`.
  public func allocate(
    byteCount: Int, alignment: Int = 16
  ) throws(PoolError) -> UnsafeMutableRawPointer {
    if alignment <= 16, let block = takeOrdinary(byteCount: byteCount) { return block }
    return try engine.withHeapLock { () throws(PoolError) in
      try withRoom(byteCount: byteCount) { (arena) throws(PoolError) in
        try arena.takeAddress(byteCount: byteCount, alignment: alignment)
      }
    }
  }

  /// Gives a block back.
  ///
  /// - Throws: `.notAllocated` for anything but the start of an allocated block.
  public func deallocate(_ address: UnsafeRawPointer) throws(PoolError) {
    if giveOrdinary(address) { return }
    try engine.withHeapLock { () throws(PoolError) in
      if let lane, !arenas.contains(where: { $0.memory.offset(address) != nil }) {
        return try deferFree(address, lane)
      }
      try give(address, to: try arena(of: address))
    }
  }

  func give(_ address: UnsafeRawPointer, to arena: Heap) throws(PoolError) {
    if arena.giveOrdinary(address) { return }
    do throws(PoolError) {
      try arena.giveAddress(address)
    } catch {
      guard case .notAllocated(let offset) = error else { throw error }
      throw .notAllocated(offset: offset + UInt64(arena.arenaPage!) << 12)
    }
  }

  /// Bytes that may be used at an allocated block's address.
  public func usableBytes(_ address: UnsafeRawPointer) throws(PoolError) -> Int {
    if let lane {
      if let own = arenas.first(where: { $0.memory.offset(address) != nil }) {
        return try own.usableBytesInPool(address)
      }
      return try lane.base.usableBytesBesideOthers(address)
    }
    return try engine.withHeapLock { () throws(PoolError) in
      try arena(of: address).usableBytesInPool(address)
    }
  }
}
