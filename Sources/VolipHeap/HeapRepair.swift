// HeapRepair: makes anew what the heap holds twice, from the one of the two that is believed.
//
//   believed                              made anew
//   the first page of each run            all other entries of the run
//   a slab's bitmap                       its count of free blocks, bits beyond its last block
//   which runs are free or partly free    all lists
//
// What is held once, or damaged in what is believed, is not repaired: the error says where.
//
// Stores go to whatever memory the heap is viewed in: a private copy, to see what would happen, or
// the image itself of a pool that nobody uses and that was backed up.

extension HeapView {
  /// Repairs the heap and its arenas.
  ///
  /// - Throws: `.damagedHeap` at the first thing that cannot be repaired.
  package func repair() throws(PoolError) {
    for part in [heap] + arenas {
      try part.restoreRuns()
      try part.restoreLists()
    }
  }
}

extension Heap {
  fileprivate func restoreRuns() throws(PoolError) {
    try forEachRun { (page, entry) throws(PoolError) in
      switch entry.kind {
      case .slab: try restoreSlab(page, entry)
      case .free: restoreInside(page, entry, tail: .freeTail)
      case .large, .metadata, .arena: restoreInside(page, entry, tail: .largeTail)
      case .interior, .freeTail, .slabInterior, .largeTail:
        throw damage(page, "\(entry.kind) where a run should begin")
      }
    }
  }

  private func restoreInside(_ page: Int, _ entry: PageEntry, tail: PageKind) {
    let last = page + entry.length - 1
    for inside in page + 1..<max(last, page + 1) { restore(inside, PageEntry(kind: .interior)) }
    if last > page { restore(last, PageEntry(kind: tail, length: entry.length)) }
  }

  /// Stores nothing where that stands already: the table of a large run is a hole of the file.
  private func restore(_ page: Int, _ entry: PageEntry) {
    if (try? table[page]) != entry { table.set(page, entry) }
  }

  private func restoreSlab(_ page: Int, _ entry: PageEntry) throws(PoolError) {
    let sizeClass = Int(entry.sizeClass)
    guard sizeClass < SizeClass.count, entry.length == shapes[sizeClass].pages else {
      throw damage(page, "pages of a slab")
    }
    let offset = page << 12
    let stored = memory.load(offset, as: UInt64.self)
    guard stored & Self.slabHeaderMask == Self.slabHeader(page, sizeClass) else {
      throw .damagedHeap(offset: UInt64(offset), reason: "slab header")
    }
    for distance in 1..<max(entry.length, 1) {
      table.set(page + distance, PageEntry(kind: .slabInterior, length: distance))
    }
    var freeBlocks = 0
    for word in 0..<4 {
      let blocks = min(max(shapes[sizeClass].blocks - word * 64, 0), 64)
      let mask: UInt64 = blocks == 64 ? .max : (1 << UInt64(blocks)) - 1
      let bits = memory.load(offset + SizeClass.bitmapByte + word * 8, as: UInt64.self) & mask
      memory.store(bits, offset + SizeClass.bitmapByte + word * 8)
      freeBlocks += bits.nonzeroBitCount
    }
    memory.store(Self.slabHeader(page, sizeClass) | UInt64(freeBlocks) << 48, offset)
  }

  /// After `restoreRuns`: every run is one.
  fileprivate func restoreLists() throws(PoolError) {
    for power in 0..<HeapHeader.runBinCount {
      memory.store(UInt32(0), HeapHeader.runBinsByte + power * 4)
    }
    for sizeClass in 0..<SizeClass.count {
      memory.store(UInt32(0), HeapHeader.slabHeadsByte + sizeClass * 4)
    }
    try forEachRun { (page, entry) throws(PoolError) in
      var entry = entry
      (entry.next, entry.previous) = (0, 0)
      switch entry.kind {
      case .free:
        let power = Int.bitWidth - 1 - entry.length.leadingZeroBitCount
        try PageList(table: table, headByte: HeapHeader.runBinsByte + power * 4).push(page, entry)
      case .slab:
        let sizeClass = Int(entry.sizeClass)
        let isFull = memory.load(page << 12, as: UInt64.self) >> 48 == 0
        guard !isFull else { return table.set(page, entry) }
        let headByte = HeapHeader.slabHeadsByte + sizeClass * 4
        try PageList(table: table, headByte: headByte).push(page, entry)
      default: return
      }
    }
  }
}
