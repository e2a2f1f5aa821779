// LaneHeap: announced memory for concurrent sections.
//
// A lane takes blocks from arenas that are its own while the pool is open, so that two sections
// share no metadata (rule 9). A block of another arena it cannot give back there: it puts the block
// into a list of its own, within the same section, and the next exclusive section gives it back.
// Until then nobody gets it.
//
//   header of the lane's first arena:  first, count
//   each freed block:                  offset of the next one
//
// Arenas get their owners with the gate closed, before a section: inside of one the pool's own heap
// cannot be changed. A section that needs more than its lane has is told to come again.
//
// SAFETY: a block is looked for in its arena, and found allocated, before anything is stored to it.

import Glibc
import Synchronization

/// What a lane's heap has besides arenas.
final class LaneArenas: @unchecked Sendable {
  unowned let base: AnnouncedHeap
  /// Bytes that a section of this lane asked for in vain.
  @exclusivity(unchecked) var missingBytes = 0
  /// What the pool had no room for, when it was last asked, and what it had: what there is has to
  /// do. Nil while it had.
  @exclusivity(unchecked) var refused: (byteCount: Int, availableBytes: UInt64)?
  /// Sections until the lane's room is looked at again.
  @exclusivity(unchecked) var sectionsUntilLook = 0
  private let padding = LinePadding()

  init(_ base: AnnouncedHeap) { self.base = base }

  /// The next section asks the pool again, in any case: it may have grown.
  func noteMissing(_ byteCount: Int) -> PoolError {
    (missingBytes, sectionsUntilLook) = (max(byteCount, 1), 0)
    if let refused, byteCount >= refused.byteCount {
      return .poolFull(
        requestedBytes: UInt64(byteCount), availableBytes: refused.availableBytes)
    }
    return .laneFull(requestedBytes: UInt64(byteCount))
  }
}

extension AnnouncedHeap {
  static let sectionsPerLook = 64
  /// Blocks in the list of a lane after which it waits for the gate to give half of them back.
  static let deferredMax: UInt64 = 4096
  /// Blocks that are given back in one section: each costs its record 150 bytes at most (slab
  /// header, bitmap, list, page entries), and the smallest log has 64 KiB.
  static let deferredPerSection = 256

  /// Opens a section and returns the heap for it, which the pool holds: of its lane, with room for
  /// ordinary sections, or this one.
  ///
  /// - Throws: what `openSection` throws.
  @inline(__always)
  public func openSection(_ kind: SectionKind) throws(PoolError) -> Unmanaged<AnnouncedHeap> {
    try engine.openSection(kind)
    if let index = engine.laneIndex {
      let own = lanes[index]
      if own.lane!.sectionsUntilLook > 0 {
        own.lane!.sectionsUntilLook -= 1
        return .passUnretained(own)
      }
    }
    return .passUnretained(try openSlowly(kind))
  }

  @inline(never)
  private func openSlowly(_ kind: SectionKind) throws(PoolError) -> AnnouncedHeap {
    while let index = engine.laneIndex {
      let own = lanes[index]
      if own.hasRoom || engine.isNested {
        own.lane!.sectionsUntilLook = Self.sectionsPerLook
        return own
      }
      try engine.closeSection()
      try giveArena(toLane: index)
      try engine.openSection(kind)
    }
    if hasDeferred.load(ordering: .relaxed), !engine.isShared, !engine.isNested {
      do throws(PoolError) {
        try giveDeferred()
      } catch {
        try engine.abortSection()
        throw error
      }
    }
    return self
  }

  /// Whether a lane has enough for a while. Where the pool is full a section that allocates nothing
  /// opens all the same.
  private var hasRoom: Bool {
    guard let lane, lane.missingBytes == 0 else { return false }
    if deferredCount > Self.deferredMax { return false }
    return lane.refused != nil || arenas.contains { $0.hasRoomAhead }
  }

  private var deferredCount: UInt64 { arenas.first?.header.deferredCount ?? 0 }

  // MARK: Owners

  /// An arena for a lane, and freed blocks to where they belong. Others may have the lane by now,
  /// and do the same: owners change with the gate closed only, in a section that changes nothing
  /// and so cannot be taken back.
  package func giveArena(toLane index: Int) throws(PoolError) {
    let own = lanes[index]
    try giveMost(of: own)
    while try !alone({ () throws(PoolError) in try take(for: own) }) {
      do throws(PoolError) {
        let wanted = own.lane!.missingBytes
        try alone { () throws(PoolError) in
          forgetArenasRolledBack()
          _ = try addArena(byteCount: wanted, divisor: lanes.count)
        }
      } catch {
        guard case .poolFull(let wanted, let availableBytes) = error else { throw error }
        return try alone { () throws(PoolError) in
          if own.arenas.isEmpty, let rest = freeArenas.last { try append(rest, to: own) }
          own.lane!.refused = (Int(wanted), availableBytes)
          own.lane!.missingBytes = 0
        }
      }
      pass(.arenaMade)
    }
  }

  /// Runs `body` with the gate closed.
  private func alone<Result>(
    _ body: () throws(PoolError) -> Result
  ) throws(PoolError) -> Result {
    try engine.openSection(.announced)
    let result: Result
    do throws(PoolError) {
      result = try body()
    } catch {
      try engine.abortSection()
      throw error
    }
    try engine.closeSection()
    return result
  }

  /// Whether the lane has room now, of its own or of an arena that no lane has.
  private func take(for own: AnnouncedHeap) throws(PoolError) -> Bool {
    forgetArenasRolledBack()
    if own.hasRoom { return true }
    let wanted = own.lane!.missingBytes
    guard let arena = freeArenas.first(where: { $0.hasRoom(wanted) }) else { return false }
    try append(arena, to: own)
    (own.lane!.missingBytes, own.lane!.refused) = (0, nil)
    return true
  }

  /// Arenas that no lane has. With the gate closed.
  private var freeArenas: [Heap] {
    let taken = isRemoved(.laneOwner) ? [] : Set(lanes.flatMap { $0.arenas.map(\.arenaPage!) })
    return arenas.filter { !taken.contains($0.arenaPage!) }
  }

  private func append(_ arena: Heap, to own: AnnouncedHeap) throws(PoolError) {
    let view = try Heap(arena: arena.pages!, of: engine, own.announced, isNew: false)
    own.arenas.append(view)
    own.current = Unmanaged.passUnretained(view)
  }

  // MARK: Blocks of others

  /// Frees a block of another arena when this section is durable.
  func deferFree(_ address: UnsafeRawPointer, _ lane: LaneArenas) throws(PoolError) {
    guard engine.isInSection else { throw .noSection }
    _ = try lane.base.usableBytesBesideOthers(address)
    guard let list = arenas.first?.header else {
      throw lane.noteMissing(1)
    }
    guard let offset = pool.memory.offset(address) else { throw .notAllocated(offset: 0) }
    let block = UnsafeMutableRawPointer(mutating: address)
    block.storeBytes(of: list.deferredFirst.littleEndian, as: UInt64.self)
    announced.announce(block, byteCount: 8)
    list.setDeferred(first: UInt64(offset), count: list.deferredCount + 1)
    lane.base.hasDeferred.store(true, ordering: .relaxed)
  }

  /// Of a block of any arena, while lanes change theirs: the list of arenas is not touched, and of
  /// words that another lane is changing half of a change looks like damage, once.
  func usableBytesBesideOthers(_ address: UnsafeRawPointer) throws(PoolError) -> Int {
    let known = arenas.prefix(pool.header.arenaCount)
    var notAllocated = 0
    for attempt in 1...Self.looksMax {
      do throws(PoolError) {
        return try home(of: address, in: known).usableBytesInPool(address)
      } catch {
        switch error {
        case .damagedHeap: break
        // A change that was made whole between two reads of the same look.
        case .notAllocated where notAllocated < 20: notAllocated += 1
        default: throw error
        }
        guard attempt < Self.looksMax, !isRemoved(.laneLooks) else { throw error }
        if attempt < Self.looksMax / 10 { sched_yield() } else { usleep(1000) }
      }
    }
    fatalError("unreachable: the last attempt returns or throws")
  }

  /// A second and more: longer than a thread stands between two stores while others have its
  /// processor.
  private static let looksMax = 1000

  /// Until a lane's list is half empty.
  private func giveMost(of own: AnnouncedHeap) throws(PoolError) {
    guard own.deferredCount > Self.deferredMax else { return }
    repeat {
      try alone(giveDeferred)
    } while own.deferredCount > Self.deferredMax / 2
  }

  /// Gives blocks that lanes freed to where they belong, as many as a section may. In a section
  /// that no other is beside.
  func giveDeferred() throws(PoolError) {
    forgetArenasRolledBack()
    var left = isRemoved(.deferredMany) ? Int.max : Self.deferredPerSection
    for arena in arenas where arena.header.deferredCount > 0 && left > 0 {
      let list = DeferredFrees(arena, in: arenas, pool.memory)
      let (blocks, next) = list.blocks(countMax: left)
      left -= blocks.count
      for offset in blocks {
        let address = UnsafeRawPointer(pool.memory.address(Int(offset.bytes)))
        do throws(PoolError) {
          try give(address, to: try self.arena(of: address))
        } catch {
          // Freed twice by the program.
          guard case .notAllocated = error else { throw error }
        }
      }
      let count = next == 0 ? 0 : arena.header.deferredCount - UInt64(blocks.count)
      arena.header.setDeferred(first: next, count: count)
    }
    if left > 0 { hasDeferred.store(false, ordering: .relaxed) }
  }
}

extension Heap {
  /// Whether an eighth of an arena was never used, or a free run is large.
  var hasRoomAhead: Bool {
    let left = table.pageLimit - header.highWater
    return left >= max(table.pageLimit / 8, 1 << Self.powerAhead)
      || hasRun(ofPower: Self.powerAhead)
  }

  /// Whether a block of so many bytes has room for certain.
  func hasRoom(_ byteCount: Int) -> Bool {
    let pages = (byteCount + 4095) >> 12
    if pages <= 1 << Self.powerAhead { return hasRoomAhead }
    return table.pageLimit - header.highWater >= pages
      || hasRun(ofPower: Int.bitWidth - (pages - 1).leadingZeroBitCount)
  }

  /// 16 pages: any slab, and many blocks.
  private static let powerAhead = 4

  private func hasRun(ofPower power: Int) -> Bool {
    (power..<max(HeapHeader.runBinCount, power)).contains {
      memory.load(HeapHeader.runBinsByte + $0 * 4, as: UInt32.self) != 0
    }
  }

  /// Of an arena: where it is in the pool.
  var pages: Range<Int>? { arenaPage.map { $0..<$0 + pageCount } }

  /// As `usableBytes`, with errors that name places in the pool and not in the arena.
  func usableBytesInPool(_ address: UnsafeRawPointer) throws(PoolError) -> Int {
    do throws(PoolError) {
      return try usableBytes(address)
    } catch {
      guard case .notAllocated(let offset) = error, let arenaPage else { throw error }
      throw .notAllocated(offset: offset + UInt64(arenaPage) << 12)
    }
  }
}
