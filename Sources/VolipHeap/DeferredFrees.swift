// DeferredFrees: the list of blocks of other arenas that a lane freed (LaneHeap+Unsafe.swift): not
// in use, and not to be had before an exclusive section gave them back.
//
// The list is a stranger's: it ends where something in it cannot be.

struct DeferredFrees {
  /// Whose header has the list.
  let owner: Heap
  let arenas: [Heap]
  /// Of the pool.
  let memory: HeapMemory

  init(_ owner: Heap, in arenas: [Heap], _ memory: HeapMemory) {
    (self.owner, self.arenas, self.memory) = (owner, arenas, memory)
  }

  /// The first blocks of the list, and where it goes on: 0 at its end.
  func blocks(countMax: Int = .max) -> (blocks: [PoolOffset], next: UInt64) {
    var result: [PoolOffset] = []
    var known: Set<UInt64> = []
    var offset = owner.header.deferredFirst
    let count = owner.header.deferredCount
    while UInt64(result.count) < count, isBlock(offset), known.insert(offset).inserted {
      if result.count == countMax { return (result, offset) }
      result.append(PoolOffset(bytes: offset))
      offset = memory.load(Int(offset), as: UInt64.self)
    }
    return (result, 0)
  }

  private func isBlock(_ offset: UInt64) -> Bool {
    guard offset > 0, offset % 16 == 0, offset < UInt64(memory.byteCount) else { return false }
    let page = Int(offset >> 12)
    guard memory.unreadablePage(in: page..<page + 1) == nil,
      let arena = arenas.first(where: { $0.pages!.contains(page) })
    else { return false }
    return (try? arena.usableBytes(Int(offset) - arena.arenaPage! << 12)) != nil
  }

  /// Those of all lists.
  static func all(in arenas: [Heap], _ memory: HeapMemory) -> Set<PoolOffset> {
    Set(arenas.flatMap { DeferredFrees($0, in: arenas, memory).blocks().blocks })
  }
}
