import TestSupport
import Testing

@testable import VolipHeap

@Suite struct GrowthTests {
  @Test func aGrownPoolKeepsAddressesAndContentsAndHasMoreMemory() throws {
    var generator = SeededGenerator.forTest()
    var bytes: UInt64 = 4 << 20
    let pool = try HeapPool(fileBytes: bytes, logBytesMax: 2 << 20)
    let base = pool.base
    var model = HeapModel()
    for round in 0..<15 {
      try fill(pool, &model, using: &generator)
      bytes += UInt64.random(in: 1...256, using: &generator) * 4096
      try pool.grow(toFileBytes: bytes)
      #expect(pool.base == base)
      try model.expectEqual(pool)
      if round % 4 == 0 {
        try pool.reopen()
        #expect(pool.base == base)
        try model.expectEqual(pool)
      }
    }
    #expect(throws: PoolError.self) { try pool.grow(toFileBytes: bytes + 1 << 20) }
    try fill(pool, &model, using: &generator)
    try pool.reopen()
    try model.expectEqual(pool)
    #expect(pool.heap.check().allocatedBytes > 4 << 20)
  }

  /// Allocates until the pool is full, then frees a few.
  private func fill(
    _ pool: HeapPool, _ model: inout HeapModel, using generator: inout SeededGenerator
  ) throws {
    var isFull = false
    while !isFull {
      try pool.section {
        for _ in 0..<20 where !isFull {
          do {
            try model.allocate(pool, using: &generator)
          } catch PoolError.poolFull {
            isFull = true
          }
        }
      }
    }
    try pool.section {
      for _ in 0..<10 { try model.free(pool, using: &generator) }
    }
  }

  @Test func aPoolDoesNotShrinkOrGrowBeyondItsBounds() throws {
    let pool = try HeapPool(fileBytes: 2 << 20)
    for bytes: UInt64 in [0, 1 << 20, 2 << 20, (2 << 20) + 4095, (1 << 43) + 4096, .max] {
      let error = #expect(throws: PoolError.self, "\(bytes)") {
        try pool.grow(toFileBytes: bytes)
      }
      guard case .invalidArgument = error else {
        Issue.record("\(bytes): \(String(describing: error))")
        continue
      }
    }
    try pool.section { _ = try pool.heap.allocate(byteCount: 100) }
    #expect(pool.heap.check().isConsistent)
  }

  @Test func growthByASinglePageLeavesTheHeapConsistent() throws {
    let pool = try HeapPool(fileBytes: 1 << 20)
    try pool.grow(toFileBytes: (1 << 20) + 4096)
    #expect(pool.heap.check().problems == [])
    try pool.reopen()
    #expect(pool.heap.check().problems == [])
    #expect(pool.heap.table.segments.count == 2)
  }
}
