// OrdinaryBlocks: an allocation and a free that change one bit and one count, and nothing else.
//
// Nearly every call takes a block from a slab that stays in its list, or gives one back to such a
// slab. Here that is done in 78 and 122 instructions, counted step by step; on the way through the
// general path it was 540 for both, more for calls, copies and typed errors than for the work.
// (glibc needs 130.)
//
// Invariants
// 1. Whatever comes from the pool is checked as the general path checks it, before anything is
//    written. The page table says what is a slab; a slab's header alone is never believed.
// 2. Whatever is not ordinary is left to the general path with nothing changed: lists that change,
//    large blocks, all that is wrong. It looks again, and has the words for it.
//
// SAFETY, of all loads and stores here: the page is one that the page tables describe, and those
// describe no page beyond the working copy (PageTable.init); its entry, its slab header and the
// heap's header are inside the working copy then. Every field is naturally aligned, and a section
// of this thread is open.

extension Heap {
  @inline(__always)
  private func word(_ address: UnsafeMutableRawPointer) -> UInt64 {
    // SAFETY: see the head of this file.
    UInt64(littleEndian: address.load(as: UInt64.self))
  }

  @inline(__always)
  private func setWord(_ address: UnsafeMutableRawPointer, _ value: UInt64) {
    // SAFETY: see the head of this file.
    address.storeBytes(of: value.littleEndian, as: UInt64.self)
  }

  /// Count and bitmap at once: one extent for all that a section does to a slab.
  @inline(__always)
  private func announceHeader(_ slab: UnsafeMutableRawPointer) {
    memory.announced?.announce(slab, byteCount: SizeClass.bitmapByte &+ SizeClass.blocksMax / 8)
  }

  @inline(__always)
  private func firstPage(_ sizeClass: Int) -> UInt32 {
    let head = memory.base + (HeapHeader.slabHeadsByte &+ sizeClass &* 4)
    // SAFETY: see the head of this file; a class is below SizeClass.count.
    return UInt32(littleEndian: head.load(as: UInt32.self))
  }

  /// Whether a slab of a class may begin at a page: its pages are in use. The page is described.
  @inline(__always)
  private func hasRoom(_ shape: SizeClass.Shape, at page: Int) -> Bool {
    let highWater = word(memory.base + HeapHeader.highWaterByte)
    return UInt64(bitPattern: Int64(page &+ shape.pages)) <= highWater
  }

  /// A block of at least `byteCount` bytes, aligned to 16, or nil where that takes more than a bit
  /// and a count.
  @usableFromInline
  package func takeOrdinary(byteCount: Int) -> UnsafeMutableRawPointer? {
    guard UInt(bitPattern: byteCount &- 1) < UInt(SizeClass.smallBytesMax), isWritable
    else { return nil }
    let sizeClass = SizeClass.index(byteCount)
    let shape = shapes[sizeClass]
    let page = Int(firstPage(sizeClass))
    guard page > 0, page < table.pageLimit, hasRoom(shape, at: page) else { return nil }
    let slab = memory.base + page << 12
    let header = word(slab)
    let freeBlocks = Int(truncatingIfNeeded: header >> 48)
    // The last free block takes the slab out of its list.
    guard header & Self.slabHeaderMask == Self.slabHeader(page, sizeClass), freeBlocks > 1,
      freeBlocks <= shape.blocks
    else { return nil }
    var index = 0
    var bits = slab + SizeClass.bitmapByte
    var free = word(bits)
    while free == 0 {
      index &+= 64
      guard index < SizeClass.blocksMax else { return nil }
      bits += 8
      free = word(bits)
    }
    index &+= free.trailingZeroBitCount
    guard index < shape.blocks else { return nil }
    setWord(bits, free & (free &- 1))
    setWord(slab, header &- 1 << 48)
    announceHeader(slab)
    return slab + (SizeClass.slabHeaderBytes &+ index &* shape.blockBytes)
  }

  /// Gives an allocated block back and returns true, or false where that takes more than a bit and
  /// a count, and for anything that is no block.
  @usableFromInline
  package func giveOrdinary(_ address: UnsafeRawPointer) -> Bool {
    let offset = address - UnsafeRawPointer(memory.base)
    let page = offset >> 12
    guard isWritable, let entry = table.firstSegmentEntry(page),
      let sizeClass = table.slabClass(
        page, first: word(memory.base + entry), second: word(memory.base + entry + 8)),
      sizeClass < SizeClass.count
    else { return false }
    let shape = shapes[sizeClass]
    let slab = memory.base + page << 12
    let header = word(slab)
    let freeBlocks = Int(truncatingIfNeeded: header >> 48)
    // A full slab gets into its list; one that becomes empty stays if it is the first there.
    guard hasRoom(shape, at: page),
      header & Self.slabHeaderMask == Self.slabHeader(page, sizeClass), freeBlocks > 0,
      freeBlocks &+ 1 < shape.blocks
        || freeBlocks &+ 1 == shape.blocks && Int(firstPage(sizeClass)) == page
    else { return false }
    let inside = offset & 4095 &- SizeClass.slabHeaderBytes
    guard inside >= 0 else { return false }
    let index = shape.index(inside)
    guard index &* shape.blockBytes == inside, index < shape.blocks else { return false }
    let bits = slab + (SizeClass.bitmapByte &+ (index >> 6) &* 8)
    let old = word(bits)
    let bit: UInt64 = 1 &<< UInt64(truncatingIfNeeded: index)
    guard old & bit == 0 else { return false }
    setWord(bits, old | bit)
    setWord(slab, header &+ 1 << 48)
    announceHeader(slab)
    return true
  }
}
