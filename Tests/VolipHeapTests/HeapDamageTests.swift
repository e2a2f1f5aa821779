import TestSupport
import Testing

@testable import VolipHeap

/// One byte of any metadata changed: the check says so, and where.
@Suite struct HeapDamageTests {
  /// A heap with something of every kind of metadata.
  private func makePool() throws -> HeapPool {
    let pool = try HeapPool()
    try pool.section {
      for index in 0..<40 {
        _ = try pool.heap.addRoot("root \(index)", fingerprint: 1, byteCount: 24, alignment: 16)
      }
      for byteCount in [16, 40, 300, 3584, 4096] {
        for _ in 0..<20 { _ = try pool.heap.allocate(byteCount: byteCount) }
      }
      // Free runs of several lengths between blocks that stay.
      for pages in [1, 2, 3, 4, 9] {
        let hole = try pool.heap.allocate(byteCount: pages * 4096, alignment: 4096)
        _ = try pool.heap.allocate(byteCount: 3 * 4096, alignment: 4096)
        try pool.heap.deallocate(hole)
      }
    }
    try #require(pool.heap.check().problems == [])
    return pool
  }

  /// Flips each bit of `bytes` in turn; each time a problem must be reported in one of `places`.
  private func expectReported(
    _ pool: HeapPool, _ bytes: Range<Int>, in places: [Range<Int>], _ name: String
  ) throws {
    for byte in bytes {
      for bit in 0..<8 {
        let problems = try pool.abortedSection {
          let old = pool.base.load(fromByteOffset: byte, as: UInt8.self)
          pool.base.storeBytes(of: old ^ 1 << UInt8(bit), toByteOffset: byte, as: UInt8.self)
          return pool.heap.check().problems
        }
        let isPlaced = problems.contains { problem in
          places.contains { $0.contains(Int(problem.offset.bytes)) }
        }
        #expect(isPlaced, "\(name), byte \(byte) bit \(bit): \(problems)")
        guard isPlaced else { return }
      }
    }
    #expect(pool.heap.check().problems == [])
  }

  @Test func everyBitOfTheHeaderLine() throws {
    let pool = try makePool()
    try expectReported(pool, 0..<64, in: [0..<64], "header")
  }

  @Test func everyBitOfThePageTableSegment() throws {
    let pool = try makePool()
    try expectReported(pool, 64..<80, in: [0..<80], "segment")
  }

  /// A list that lost its first run is seen at the run; one that names a wrong run at its head.
  @Test func everyBitOfTheListHeads() throws {
    let pool = try makePool()
    let table = 4096..<(1 + PageTable.tablePages(pool.heap.engine.pageCount)) * 4096
    let runs = HeapHeader.runBinsByte..<HeapHeader.slabHeadsByte
    try expectReported(pool, runs, in: [runs, table], "free run")
    let slabs = HeapHeader.slabHeadsByte..<HeapHeader.slabHeadsByte + SizeClass.count * 4
    try expectReported(pool, slabs, in: [slabs, table], "slab list")
  }

  @Test func everyBitOfAPageTableEntryOfEachKind() throws {
    let pool = try makePool()
    var seen: Set<PageKind> = []
    for page in 0..<pool.heap.header.highWater {
      guard seen.insert(try pool.heap.table[page].kind).inserted else { continue }
      let entry = Int(pool.heap.table.offset(ofEntry: page))
      try expectReported(
        pool, entry..<entry + 16, in: [entry..<entry + 16], "page \(page)")
    }
    #expect(seen.count == 8, "the pool lacks a kind of page: \(seen)")
  }

  @Test func everyBitOfASlabHeaderOfEachClass() throws {
    let pool = try makePool()
    var seen: Set<UInt8> = []
    for page in 0..<pool.heap.header.highWater {
      let entry = try pool.heap.table[page]
      guard entry.kind == .slab, seen.insert(entry.sizeClass).inserted else { continue }
      let offset = page << 12
      try expectReported(
        pool, offset..<offset + 40, in: [offset..<offset + 64], "class \(entry.sizeClass)")
    }
    #expect(seen.count >= 5)
  }

  @Test func everyBitOfRootPagesAndTheirEntries() throws {
    let pool = try makePool()
    let pages = try pool.heap.rootPages()
    #expect(pages.count == 2)
    for page in pages {
      let offset = page << 12
      try expectReported(pool, offset..<offset + 32, in: [offset..<offset + 32], "root page")
      let entry = offset + Heap.rootBytes
      try expectReported(pool, entry..<entry + 96, in: [entry..<entry + 96], "root entry")
    }
  }
}
