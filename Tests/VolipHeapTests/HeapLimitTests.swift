import TestSupport
import Testing

@testable import VolipHeap

@Suite struct HeapLimitTests {
  @Test func freeingTwiceIsATypedError() throws {
    let pool = try HeapPool()
    for byteCount in [1, 100, 4096, 4097, 100_000] {
      try pool.section {
        // Two: the slab of a lone block would go with it.
        let block = try pool.heap.allocate(byteCount: byteCount)
        _ = try pool.heap.allocate(byteCount: byteCount)
        let offset = UInt64(pool.offset(block))
        try pool.heap.deallocate(block)
        #expect(throws: PoolError.notAllocated(offset: offset)) {
          try pool.heap.deallocate(block)
        }
        #expect(throws: PoolError.notAllocated(offset: offset)) {
          try pool.heap.usableBytes(block)
        }
        #expect(throws: PoolError.notAllocated(offset: offset)) {
          try pool.heap.reallocate(block, byteCount: 10)
        }
      }
      #expect(pool.heap.check().isConsistent)
    }
  }

  @Test func anAddressInsideABlockIsATypedError() throws {
    let pool = try HeapPool()
    for byteCount in [64, 1000, 4096, 20_000] {
      try pool.section {
        let block = try pool.heap.allocate(byteCount: byteCount)
        for distance in [1, 8, 16, byteCount / 2, byteCount - 1] {
          let inside = UInt64(pool.offset(block) + distance)
          #expect(throws: PoolError.notAllocated(offset: inside), "\(byteCount) + \(distance)") {
            try pool.heap.deallocate(block + distance)
          }
        }
      }
    }
  }

  @Test func addressesThatAreNoBlocksAreTypedErrors() throws {
    let pool = try HeapPool()
    let pageCount = pool.heap.engine.pageCount
    try pool.section {
      _ = try pool.heap.allocate(byteCount: 100)
      for offset in [0, 4096, 4096 + 8, pool.heap.header.highWater << 12, (pageCount << 12) - 1] {
        #expect(throws: PoolError.notAllocated(offset: UInt64(offset))) {
          try pool.heap.deallocate(pool.base + offset)
        }
      }
      var onStack = 0
      let foreign = withUnsafePointer(to: &onStack) { UnsafeRawPointer($0) }
      let base = UnsafeRawPointer(pool.base)
      for address in [foreign, base - 1, base + (pageCount << 12)] {
        let error = #expect(throws: PoolError.self) { try pool.heap.deallocate(address) }
        guard case .invalidArgument = error else {
          Issue.record("\(String(describing: error))")
          continue
        }
      }
    }
  }

  @Test func changesNeedASection() throws {
    let pool = try HeapPool()
    let block = try pool.section { try pool.heap.allocate(byteCount: 100) }
    #expect(throws: PoolError.noSection) { try pool.heap.allocate(byteCount: 1) }
    #expect(throws: PoolError.noSection) { try pool.heap.deallocate(block) }
    #expect(throws: PoolError.noSection) { try pool.heap.reallocate(block, byteCount: 1) }
    #expect(throws: PoolError.noSection) {
      try pool.heap.addRoot("a", fingerprint: 0, byteCount: 1, alignment: 1)
    }
    #expect(throws: PoolError.noSection) { try pool.heap.removeRoot("a") }
  }

  @Test func zeroBytesGetABlockOfTheirOwn() throws {
    let pool = try HeapPool()
    try pool.section {
      let first = try pool.heap.allocate(byteCount: 0)
      let second = try pool.heap.allocate(byteCount: 0)
      let aligned = try pool.heap.allocate(byteCount: 0, alignment: 4096)
      #expect(first != second)
      #expect(UInt(bitPattern: aligned) % 4096 == 0)
      for block in [first, second, aligned] { try pool.heap.deallocate(block) }
    }
    #expect(pool.heap.check().blocks.isEmpty)
  }

  @Test func sizesAndAlignmentsThatNoBlockHasAreRefused() throws {
    let pool = try HeapPool()
    let requests = [
      (-1, 16), (.min, 16), (.max, 16), (.max, 4096), (1, 0), (1, 3), (1, -16), (1, 8192),
      (1, .min), (1, .max),
    ]
    try pool.section {
      let block = try pool.heap.allocate(byteCount: 16)
      for (byteCount, alignment) in requests {
        let error = #expect(throws: PoolError.self) {
          try pool.heap.allocate(byteCount: byteCount, alignment: alignment)
        }
        guard case .invalidArgument = error else {
          Issue.record("\(byteCount) \(alignment): \(String(describing: error))")
          continue
        }
      }
      for byteCount in [-1, .min, .max] {
        #expect(throws: PoolError.self, "\(byteCount)") {
          try pool.heap.reallocate(block, byteCount: byteCount)
        }
      }
      #expect(pool.heap.check().blocks.count == 1)
    }
  }

  @Test(arguments: [16, 1000, 4096, 50_000])
  func aFullPoolSaysSoAndIsUsableAfterwards(byteCount: Int) throws {
    let pool = try HeapPool(fileBytes: 2 << 20)
    let before = pool.heap.check().blocks.count
    let error = #expect(throws: PoolError.self) {
      try pool.section {
        while true { _ = try pool.heap.allocate(byteCount: byteCount) }
      }
    }
    guard case .poolFull(let requested, let available) = error else {
      Issue.record("\(String(describing: error))")
      return
    }
    #expect(requested >= byteCount && available < requested)
    #expect(pool.heap.check().blocks.count == before)
    // What was refused in a section that goes on leaves nothing half done either.
    try pool.abortedSection {
      var blocks: [UnsafeMutableRawPointer] = []
      while let block = try? pool.heap.allocate(byteCount: byteCount) { blocks.append(block) }
      #expect(pool.heap.check().problems == [])
      for block in blocks { try pool.heap.deallocate(block) }
      #expect(pool.heap.check().problems == [])
      #expect(pool.heap.check().blocks.isEmpty)
    }
    try pool.section { _ = try pool.heap.allocate(byteCount: byteCount) }
  }

  @Test func aLongerFreeRunThanTheListPromisesIsFound() throws {
    let pool = try HeapPool(fileBytes: 2 << 20)
    try pool.section {
      let pages = pool.heap.header.pageLimit - pool.heap.header.highWater
      let all = try pool.heap.allocate(byteCount: pages << 12)
      #expect(throws: PoolError.self) { try pool.heap.allocate(byteCount: 4097) }
      try pool.heap.deallocate(all)
      #expect(try pool.heap.allocate(byteCount: pages << 12) == all)
    }
  }
}
