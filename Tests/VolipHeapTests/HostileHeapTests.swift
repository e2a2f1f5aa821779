import CVolipPersistence
import TestSupport
import Testing

@testable import VolipHeap

/// Metadata that a forger wrote, every check in it right: an error value, never a trap, and no
/// address outside the memory in use.
@Suite struct HostileHeapTests {
  private func expectDamage(
    _ comment: Comment, at offset: Range<Int>? = nil, _ body: () throws -> Void
  ) {
    do {
      try body()
      Issue.record("nothing was thrown: \(comment)")
    } catch PoolError.damagedHeap(let found, let reason) {
      #expect(!reason.isEmpty)
      if let offset { #expect(offset.contains(Int(found)), comment) }
    } catch {
      Issue.record("\(comment): \(error)")
    }
  }

  private func forgeSlab(_ pool: HeapPool, page: Int, sizeClass: Int) throws {
    let shape = SizeClass.shapes[sizeClass]
    pool.heap.table.set(
      page, PageEntry(kind: .slab, sizeClass: UInt8(sizeClass), length: shape.pages))
    let check = cvp_mix(UInt64(page) << 8 | UInt64(sizeClass)) & 0xFFFF_FFFF
    let slab = pool.base + (page << 12)
    slab.storeBytes(
      of: check | UInt64(sizeClass) << 32 | UInt64(shape.blocks) << 48, as: UInt64.self)
    slab.storeBytes(of: UInt64.max, toByteOffset: 8, as: UInt64.self)
    pool.base.storeBytes(
      of: UInt32(page), toByteOffset: HeapHeader.slabHeadsByte + sizeClass * 4, as: UInt32.self)
  }

  @Test func aSlabThatReachesBeyondTheMemoryInUse() throws {
    let pool = try HeapPool(fileBytes: 2 << 20)
    let sizeClass = SizeClass.index(4096)
    for fillsPool in [false, true] {
      try pool.abortedSection {
        let free = pool.heap.header.pageLimit - pool.heap.header.highWater
        let pages = fillsPool ? free : 10
        let large = pool.offset(try pool.heap.allocate(byteCount: pages << 12)) >> 12
        try forgeSlab(pool, page: large + pages - 1, sizeClass: sizeClass)
        expectDamage("allocate") {
          for _ in 0..<SizeClass.shapes[sizeClass].blocks {
            _ = try pool.heap.allocate(byteCount: 4096)
          }
        }
        expectDamage("free") {
          try pool.heap.deallocate(pool.base + ((large + pages - 1) << 12) + 64)
        }
        #expect(!pool.heap.check().isConsistent)
      }
    }
  }

  @Test func aLargeBlockLongerThanThePool() throws {
    let pool = try HeapPool(fileBytes: 2 << 20)
    for length in [0, 1 << 20, Int(UInt32.max)] {
      try pool.abortedSection {
        let block = try pool.heap.allocate(byteCount: 10_000)
        let page = pool.offset(block) >> 12
        pool.heap.table.set(page, PageEntry(kind: .large, length: length))
        let entry = Int(pool.heap.table.offset(ofEntry: page))
        let place = entry..<entry + 16
        expectDamage("usable", at: place) { _ = try pool.heap.usableBytes(block) }
        expectDamage("reallocate", at: place) {
          _ = try pool.heap.reallocate(block, byteCount: 1 << 20)
        }
        expectDamage("free", at: place) { try pool.heap.deallocate(block) }
        #expect(!pool.heap.check().isConsistent)
      }
    }
  }

  /// Its entries would be the header's fields, and each change of a page a change of those.
  @Test(arguments: [0, 1, 10, 300, UInt32.max])
  func aPageTableThatStandsWhereNoneCan(tablePage: UInt32) throws {
    let pool = try HeapPool()
    try pool.section {
      pool.base.storeBytes(
        of: tablePage, toByteOffset: HeapHeader.pageTablesByte + 8, as: UInt32.self)
    }
    guard tablePage != 1 else { return try pool.reopen() }
    expectDamage("open", at: 64..<80) { try pool.reopen() }
  }

  @Test func listsThatGoRoundInCircles() throws {
    let pool = try HeapPool()
    try pool.abortedSection {
      let holes = try (0..<3).map { _ in
        let hole = try pool.heap.allocate(byteCount: 2 << 12, alignment: 4096)
        _ = try pool.heap.allocate(byteCount: 4096, alignment: 4096)
        return pool.offset(hole)
      }
      for hole in holes { try pool.heap.deallocate(pool.base + hole) }
      let pages = holes.map { $0 >> 12 }
      for (page, next) in zip(pages, pages.dropFirst() + pages.prefix(1)) {
        pool.heap.table.set(
          page, PageEntry(kind: .free, length: 2, next: next, previous: page))
      }
      #expect(!pool.heap.check().isConsistent)
      // Too long for any of them: the look into the list ends, and the memory comes from elsewhere.
      _ = try pool.heap.allocate(byteCount: 3 << 12, alignment: 4096)
    }
  }

  @Test func rootPagesThatGoRoundInCircles() throws {
    let pool = try HeapPool()
    try pool.abortedSection {
      for index in 0..<40 {
        _ = try pool.heap.addRoot("\(index)", fingerprint: 1, byteCount: 8, alignment: 16)
      }
      let pages = try pool.heap.rootPages()
      let last = pool.base + (pages[1] << 12)
      last.storeBytes(of: UInt64(pages[0]), toByteOffset: 8, as: UInt64.self)
      let sum = (0..<3).reduce(UInt64(pages[1])) {
        cvp_mix($0 ^ last.load(fromByteOffset: $1 * 8, as: UInt64.self))
      }
      last.storeBytes(of: sum, toByteOffset: 24, as: UInt64.self)
      expectDamage("roots") { _ = try pool.heap.roots() }
      expectDamage("remove") { try pool.heap.removeRoot("no such") }
      #expect(!pool.heap.check().isConsistent)
    }
  }

  /// Repaired while it is decoded, such a name would get longer than its entry.
  @Test func aRootNameThatIsNoUTF8() throws {
    let pool = try HeapPool()
    try pool.abortedSection {
      _ = try pool.heap.addRoot("a", fingerprint: 1, byteCount: 8, alignment: 16)
      let offset = (try pool.heap.rootPages()[0] << 12) + Heap.rootBytes
      let entry = pool.base + offset
      entry.initializeMemory(as: UInt8.self, repeating: 0xFF, count: 64)
      entry.storeBytes(of: 63, as: UInt8.self)
      let sum = (0..<11).reduce(UInt64(offset)) {
        cvp_mix($0 ^ entry.load(fromByteOffset: $1 * 8, as: UInt64.self))
      }
      entry.storeBytes(of: sum, toByteOffset: 88, as: UInt64.self)
      expectDamage("roots", at: offset..<offset + 128) { _ = try pool.heap.roots() }
      #expect(!pool.heap.check().isConsistent)
    }
  }
}
