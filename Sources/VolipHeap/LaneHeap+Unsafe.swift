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
  /// The pool has no room for another arena: what there is has to do.
  @exclusivity(unchecked) var isPoolFull = false
  /// Sections until the lane's room is looked at again.
  @exclusivity(unchecked) var sectionsUntilLook = 0

  init(_ base: AnnouncedHeap) { self.base = base }

  func noteMissing(_ byteCount: Int) -> PoolError {
    (missingBytes, sectionsUntilLook) = (max(byteCount, 1), 0)
    return .laneFull(requestedBytes: UInt64(byteCount))
  }
}

extension AnnouncedHeap {
  static let sectionsPerLook = 64
  /// Blocks in the lists of lanes after which one waits for the gate to give them back.
  static let deferredMax: UInt64 = 4096

  /// Opens a section and returns the heap for it: of its lane, with room for ordinary sections, or
  /// this one.
  ///
  /// - Throws: what `openSection` throws; `.poolFull` when there is no arena for the lane.
  @inline(__always)
  public func openSection(_ kind: SectionKind) throws(PoolError) -> AnnouncedHeap {
    try engine.openSection(kind)
    if let index = engine.laneIndex {
      let own = lanes[index]
      if own.lane!.sectionsUntilLook > 0 {
        own.lane!.sectionsUntilLook -= 1
        return own
      }
    }
    return try openSlowly(kind)
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
    if hasDeferred.load(ordering: .relaxed), !engine.isShared {
      do throws(PoolError) {
        try giveDeferred()
      } catch {
        try engine.abortSection()
        throw error
      }
    }
    return self
  }

  /// Whether a lane has enough for a while.
  private var hasRoom: Bool {
    guard let lane, !arenas.isEmpty, lane.missingBytes == 0 else { return false }
    if arenas[0].header.deferredCount > Self.deferredMax { return false }
    return lane.isPoolFull || arenas.contains { $0.hasRoomAhead }
  }

  // MARK: Owners

  /// With the gate closed: an arena for a lane, and freed blocks to where they belong.
  package func giveArena(toLane index: Int) throws(PoolError) {
    let own = lanes[index]
    try engine.openSection(.announced)
    var given: Heap?
    do throws(PoolError) {
      try giveDeferred()
      if !own.hasRoom { given = try arena(forLane: own) }
    } catch {
      try engine.abortSection()
      throw error
    }
    try engine.closeSection()
    own.lane!.missingBytes = 0
    guard let given, let page = given.arenaPage else { return }
    let pages = page..<page + given.pageCount
    own.arenas.append(try Heap(arena: pages, of: engine, own.announced, isNew: false))
    own.current = own.arenas.last.map { Unmanaged.passUnretained($0) }
  }

  private func arena(forLane own: AnnouncedHeap) throws(PoolError) -> Heap? {
    let wanted = own.lane!.missingBytes
    let taken = Set(lanes.flatMap { $0.arenas.map(\.arenaPage!) })
    let free = arenas.filter { !taken.contains($0.arenaPage!) }
    if wanted == 0, let found = free.first(where: { $0.hasRoomAhead }) { return found }
    do throws(PoolError) {
      return try addArena(byteCount: wanted)
    } catch {
      guard case .poolFull = error else { throw error }
      own.lane!.isPoolFull = true
      if let least = free.last { return least }
      if own.arenas.isEmpty { throw error }
      return nil
    }
  }

  // MARK: Blocks of others

  /// Frees a block of another arena when this section is durable.
  func deferFree(_ address: UnsafeRawPointer, _ lane: LaneArenas) throws(PoolError) {
    guard engine.isInSection else { throw .noSection }
    let home = try lane.base.arena(of: address)
    try requireAllocated(address, in: home)
    guard let list = arenas.first?.header, let offset = pool.memory.offset(address) else {
      throw .noSection
    }
    let block = UnsafeMutableRawPointer(mutating: address)
    block.storeBytes(of: list.deferredFirst.littleEndian, as: UInt64.self)
    announced.announce(block, byteCount: 8)
    list.setDeferred(first: UInt64(offset), count: list.deferredCount + 1)
    lane.base.hasDeferred.store(true, ordering: .relaxed)
  }

  /// The other lane may be changing the words beside those of this block: half of a change looks
  /// like damage, once.
  private func requireAllocated(_ address: UnsafeRawPointer, in home: Heap) throws(PoolError) {
    for attempt in 1...Self.looksMax {
      do throws(PoolError) {
        _ = try home.usableBytes(address)
        return
      } catch {
        if case .notAllocated(let offset) = error {
          throw .notAllocated(offset: offset + UInt64(home.arenaPage!) << 12)
        }
        guard attempt < Self.looksMax else { throw error }
        sched_yield()
      }
    }
  }

  /// More changes than a lane makes while others get the processor.
  private static let looksMax = 1000

  /// Gives blocks that lanes freed to where they belong. In a section that no other is beside.
  func giveDeferred() throws(PoolError) {
    for arena in arenas where arena.header.deferredCount > 0 {
      for offset in deferredBlocks(of: arena) {
        let address = UnsafeRawPointer(pool.memory.address(Int(offset.bytes)))
        do throws(PoolError) {
          try give(address, to: try self.arena(of: address))
        } catch {
          // Freed twice by the program.
          guard case .notAllocated = error else { throw error }
        }
      }
      arena.header.setDeferred(first: 0, count: 0)
    }
    hasDeferred.store(false, ordering: .relaxed)
  }

  func deferredBlocks() -> Set<PoolOffset> {
    Set(arenas.flatMap { deferredBlocks(of: $0) })
  }

  /// The list is a stranger's: it ends where something in it cannot be.
  private func deferredBlocks(of list: Heap) -> [PoolOffset] {
    var result: [PoolOffset] = []
    var known: Set<PoolOffset> = []
    var offset = list.header.deferredFirst
    let count = list.header.deferredCount
    while result.count < count, offset > 0, offset % 16 == 0,
      offset < UInt64(pool.memory.byteCount),
      let arena = arenas.first(where: {
        $0.memory.offset(UnsafeRawPointer(pool.memory.address(Int(offset)))) != nil
      }),
      (try? arena.usableBytes(UnsafeRawPointer(pool.memory.address(Int(offset))))) != nil,
      known.insert(PoolOffset(bytes: offset)).inserted
    {
      result.append(PoolOffset(bytes: offset))
      offset = pool.memory.load(Int(offset), as: UInt64.self)
    }
    return result
  }
}

extension Heap {
  /// Whether an eighth of an arena was never used, or a free run is large.
  var hasRoomAhead: Bool {
    let left = table.pageLimit - header.highWater
    if left >= max(table.pageLimit / 8, 16) { return true }
    return (4..<HeapHeader.runBinCount).contains {
      memory.load(HeapHeader.runBinsByte + $0 * 4, as: UInt32.self) != 0
    }
  }
}
