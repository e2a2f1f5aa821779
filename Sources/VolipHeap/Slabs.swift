// Slabs: small blocks. A slab is a run of 1 to 8 pages with blocks of one size; its header is in
// its own first line, so that an allocation writes to the page that its caller is about to write.
//
//   byte  size  field
//      0     4  check: a hash of first page and size class
//      4     2  size class
//      6     2  free blocks
//      8    32  a bit for each block, 1 when free
//     40    24  zero
//     64        blocks
//
// A slab with a free block is in the list of its class; a full one is in no list. Blocks are only
// taken from the first slab of a list.

import CVolipPersistence

extension Heap {
  /// All of a slab header's first word but the free blocks.
  static let slabHeaderMask: UInt64 = 0xFFFF_FFFF_FFFF

  /// The first word of a slab's header but for its upper 16 bits, the free blocks. Both numbers are
  /// those of a page and a class that exist. `package`: tests forge slabs.
  @inline(__always)
  package static func slabHeader(_ page: Int, _ sizeClass: Int) -> UInt64 {
    let page = UInt64(truncatingIfNeeded: page)
    let sizeClass = UInt64(truncatingIfNeeded: sizeClass)
    return ((page << 8 | sizeClass) &* 0x9E37_79B9_7F4A_7C15) >> 32 | sizeClass << 32
  }

  private func slabs(_ sizeClass: Int) -> PageList {
    PageList(table: table, headByte: HeapHeader.slabHeadsByte + sizeClass * 4)
  }

  /// What a slab's own header says, checked against its page table entry.
  struct Slab {
    let page: Int
    let sizeClass: Int
    let freeBlocks: Int
    var offset: Int { page << 12 }
  }

  @inline(__always)
  func slab(_ page: Int, sizeClass: Int) throws(PoolError) -> Slab {
    guard sizeClass < SizeClass.count, page > 0, page < table.pageLimit,
      shapes[sizeClass].pages <= header.highWater - page
    else {
      throw .damagedHeap(offset: UInt64(page) << 12, reason: "slab index")
    }
    let offset = page << 12
    let stored = memory.load(offset, as: UInt64.self)
    let freeBlocks = Int(stored >> 48)
    guard stored & Self.slabHeaderMask == Self.slabHeader(page, sizeClass),
      freeBlocks <= shapes[sizeClass].blocks
    else { throw .damagedHeap(offset: UInt64(offset), reason: "slab header") }
    return Slab(page: page, sizeClass: sizeClass, freeBlocks: freeBlocks)
  }

  @inline(__always)
  private func setFreeBlocks(_ slab: Slab, _ freeBlocks: Int) {
    // The whole word, as it is read: a load that is wider than the store before it would wait.
    memory.store(
      Self.slabHeader(slab.page, slab.sizeClass) | UInt64(freeBlocks) << 48, slab.offset)
  }

  /// Takes a block; returns its offset.
  @inline(__always)
  func takeBlock(_ sizeClass: Int) throws(PoolError) -> Int {
    let list = slabs(sizeClass)
    var first = list.first
    if first == 0 {
      first = try makeSlab(sizeClass)
    }
    let slab = try slab(first, sizeClass: sizeClass)
    guard let block = takeBit(slab), slab.freeBlocks > 0 else {
      throw .damagedHeap(offset: UInt64(slab.offset), reason: "slab in the list has no free block")
    }
    pass(.allocation)
    setFreeBlocks(slab, slab.freeBlocks - 1)
    if slab.freeBlocks == 1 {
      let entry = try table[first]
      try list.remove(first, entry)
      table.set(
        first,
        PageEntry(kind: .slab, sizeClass: UInt8(sizeClass), length: entry.length))
    }
    return slab.offset + SizeClass.slabHeaderBytes
      + block * shapes[sizeClass].blockBytes
  }

  /// Clears the lowest free bit that names a block.
  @inline(__always)
  private func takeBit(_ slab: Slab) -> Int? {
    for word in 0..<4 {
      let bits = memory.load(slab.offset + 8 + word * 8, as: UInt64.self)
      guard bits != 0 else { continue }
      let block = word * 64 + bits.trailingZeroBitCount
      guard block < shapes[slab.sizeClass].blocks else { return nil }
      memory.store(bits & (bits - 1), slab.offset + 8 + word * 8)
      return block
    }
    return nil
  }

  @inline(never)
  private func makeSlab(_ sizeClass: Int) throws(PoolError) -> Int {
    let shape = shapes[sizeClass]
    let page = try takeRun(shape.pages)
    for distance in 1..<max(shape.pages, 1) {
      table.set(page + distance, PageEntry(kind: .slabInterior, length: distance))
    }
    try slabs(sizeClass).push(
      page, PageEntry(kind: .slab, sizeClass: UInt8(sizeClass), length: shape.pages))
    let offset = page << 12
    memory.store(Self.slabHeader(page, sizeClass) | UInt64(shape.blocks) << 48, offset)
    for word in 0..<4 {
      let blocks = min(max(shape.blocks - word * 64, 0), 64)
      let bits: UInt64 = blocks == 64 ? .max : (1 << UInt64(blocks)) - 1
      memory.store(bits, offset + 8 + word * 8)
    }
    for byte in stride(from: 40, to: SizeClass.slabHeaderBytes, by: 8) {
      memory.store(UInt64(0), offset + byte)
    }
    return page
  }

  /// Where a block is in its slab, or nil when no allocated block begins at `offset`.
  @inline(__always)
  func block(at offset: Int, in slab: Slab) -> (wordOffset: Int, bit: UInt64)? {
    let shape = shapes[slab.sizeClass]
    let inside = offset - slab.offset - SizeClass.slabHeaderBytes
    guard inside >= 0 else { return nil }
    let index = shape.index(inside)
    guard index * shape.blockBytes == inside, index < shape.blocks else { return nil }
    let wordOffset = slab.offset + 8 + index / 64 * 8
    let bit = UInt64(1) << UInt64(index % 64)
    guard memory.load(wordOffset, as: UInt64.self) & bit == 0 else { return nil }
    return (wordOffset, bit)
  }

  /// Gives a block back.
  @inline(__always)
  func giveBlock(_ offset: Int, _ slab: Slab) throws(PoolError) {
    guard let (wordOffset, bit) = block(at: offset, in: slab) else {
      throw .notAllocated(offset: UInt64(offset))
    }
    let shape = shapes[slab.sizeClass]
    guard slab.freeBlocks < shape.blocks else {
      throw .damagedHeap(offset: UInt64(slab.offset), reason: "free block count")
    }
    memory.store(memory.load(wordOffset, as: UInt64.self) | bit, wordOffset)
    setFreeBlocks(slab, slab.freeBlocks + 1)
    let list = slabs(slab.sizeClass)
    if slab.freeBlocks == 0 {
      try giveDisplacedSlab(list.first, slab.sizeClass)
      try list.push(
        slab.page,
        PageEntry(kind: .slab, sizeClass: UInt8(slab.sizeClass), length: shape.pages))
    } else if slab.freeBlocks + 1 == shape.blocks, list.first != slab.page {
      try giveSlab(slab, shape)
    }
  }

  /// An empty slab goes back to the page runs, unless it is the first of its list: a block that is
  /// taken and given again and again would make and unmake it each time. When another slab takes
  /// that place it goes too, so that a class keeps one empty slab at most.
  private func giveDisplacedSlab(_ page: Int, _ sizeClass: Int) throws(PoolError) {
    guard page != 0 else { return }
    let first = try slab(page, sizeClass: sizeClass)
    let shape = shapes[sizeClass]
    if first.freeBlocks == shape.blocks { try giveSlab(first, shape) }
  }

  private func giveSlab(_ slab: Slab, _ shape: SizeClass.Shape) throws(PoolError) {
    try slabs(slab.sizeClass).remove(slab.page, try table[slab.page])
    for page in slab.page..<slab.page + shape.pages {
      table.set(page, PageEntry(kind: .interior))
    }
    try giveRun(slab.page, length: shape.pages)
  }
}
