import TestSupport
import Testing

@testable import VolipHeap

@Suite struct HeapModelTests {
  /// Sections of random operations, some aborted, against a model; now and then a new handle.
  @Test func randomRoundsKeepEveryBlockAndItsBytes() throws {
    var generator = SeededGenerator.forTest()
    let pool = try HeapPool(fileBytes: 16 << 20)
    var model = HeapModel()
    for round in 0..<120 {
      if Int.random(in: 0..<4, using: &generator) == 0 {
        var scratch = model
        try pool.abortedSection { try scratch.change(pool, using: &generator) }
      } else {
        try pool.section { try model.change(pool, using: &generator) }
      }
      if round % 3 == 0 { try model.expectEqual(pool) }
      if round % 20 == 19 {
        try pool.reopen()
        try model.expectEqual(pool)
      }
    }
    try pool.section { try model.freeAll(pool) }
    try expectAllFree(pool)
  }

  /// Nothing allocated: every page below the high-water mark is metadata, in a free run that has no
  /// free neighbour, or in the one slab that a class keeps.
  private func expectAllFree(_ pool: HeapPool) throws {
    let report = pool.heap.check()
    #expect(report.problems == [] && report.blocks.isEmpty)
    var keptSlabs = [Int](repeating: 0, count: SizeClass.count)
    var wasFree = false
    var page = 0
    while page < pool.heap.header.highWater {
      let entry = try pool.heap.table[page]
      switch entry.kind {
      case .free: #expect(!wasFree, "two free runs beside each other at page \(page)")
      case .slab: keptSlabs[Int(entry.sizeClass)] += 1
      case .metadata: break
      default: Issue.record("page \(page) is \(entry.kind)")
      }
      wasFree = entry.kind == .free
      page += entry.length
    }
    #expect(keptSlabs.allSatisfy { $0 <= 1 }, "\(keptSlabs)")
  }

  @Test func largeRunsJoinInWhateverOrderTheyAreFreed() throws {
    var generator = SeededGenerator.forTest()
    let pool = try HeapPool()
    let metadataPages = 1 + PageTable.tablePages(pool.heap.engine.pageCount)
    for _ in 0..<20 {
      try pool.section {
        var blocks = try (0..<12).map { _ in
          try pool.heap.allocate(
            byteCount: Int.random(in: 4097...100_000, using: &generator))
        }
        blocks.shuffle(using: &generator)
        for block in blocks { try pool.heap.deallocate(block) }
      }
      try expectAllFree(pool)
      #expect(pool.heap.check().freePages == pool.heap.header.highWater - metadataPages)
    }
  }

  @Test func anAbortedSectionLeavesTheHeapByteForByte() throws {
    var generator = SeededGenerator.forTest()
    let pool = try HeapPool()
    var model = HeapModel()
    // In one section they may be more than a record of this small log.
    for _ in 0..<100 { try pool.section { try model.allocate(pool, using: &generator) } }
    try pool.section {
      _ = try pool.heap.addRoot("kept", fingerprint: 1, byteCount: 64, alignment: 16)
    }
    func bytes() -> [UInt8] {
      Array(UnsafeRawBufferPointer(start: pool.base, count: pool.heap.engine.pageCount << 12))
    }
    let before = bytes()
    for _ in 0..<10 {
      var scratch = model
      try pool.abortedSection {
        for _ in 0..<50 {
          try scratch.allocate(pool, using: &generator)
          try scratch.free(pool, using: &generator)
        }
        _ = try pool.heap.addRoot("gone", fingerprint: 1, byteCount: 64, alignment: 16)
        try pool.heap.removeRoot("kept")
      }
      #expect(bytes() == before)
    }
  }
}
