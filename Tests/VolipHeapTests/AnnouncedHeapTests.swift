import Glibc
import TestSupport
import Testing

@testable import VolipHeap

/// Announced memory: arenas inside the pool's own heap.
@Suite struct AnnouncedHeapTests {
  final class Arena {
    let pool: HeapPool
    var heap: AnnouncedHeap

    init(fileBytes: UInt64 = 16 << 20) throws {
      pool = try HeapPool(fileBytes: fileBytes)
      heap = try AnnouncedHeap(pool.heap)
    }

    func reopen() throws {
      try pool.reopen()
      heap = try AnnouncedHeap(pool.heap)
    }

    func check() -> HeapReport {
      var report = pool.heap.check()
      heap.check(into: &report)
      return report
    }

    func section<Result>(_ body: () throws -> Result) throws -> Result {
      try pool.heap.engine.openSection(.announced)
      let result: Result
      do {
        result = try body()
      } catch {
        try pool.heap.engine.abortSection()
        throw error
      }
      try pool.heap.engine.closeSection()
      return result
    }
  }

  /// Blocks of both kinds of memory, of all sizes, taken and given in sections that commit or not.
  @Test func blocksOfBothKindsNeverOverlapAndSurvive() throws {
    var generator = SeededGenerator.forTest()
    let arena = try Arena()
    var blocks: [UnsafeMutableRawPointer: (bytes: Int, fill: UInt8)] = [:]
    for round in 0..<120 {
      var next = blocks
      let isAbort = round % 6 == 5
      struct TakenBack: Error {}
      do {
        try arena.section {
          for _ in 0..<Int.random(in: 0...60, using: &generator) {
            if next.count > 150 || Int.random(in: 0..<3, using: &generator) == 0,
              let block = next.keys.randomElement(using: &generator)
            {
              next[block] = nil
              try arena.heap.deallocate(block)
            } else {
              let isLarge = Int.random(in: 0..<10, using: &generator) == 0
              let bytes = Int.random(in: 1...(isLarge ? 60_000 : 700), using: &generator)
              let block = try arena.heap.allocate(byteCount: bytes)
              let fill = UInt8.random(in: 1...255, using: &generator)
              #expect(next[block] == nil)
              #expect(try arena.heap.usableBytes(block) >= bytes)
              memset(block, Int32(fill), bytes)
              arena.pool.heap.engine.announced.announce(block, byteCount: bytes)
              next[block] = (bytes, fill)
            }
          }
          if isAbort { throw TakenBack() }
        }
        blocks = next
      } catch is TakenBack {}
      if round % 30 == 29 { try arena.reopen() }
      guard round % 10 == 9 else { continue }
      for (block, content) in blocks {
        let bytes = UnsafeRawBufferPointer(start: block, count: content.bytes)
        #expect(bytes.allSatisfy { $0 == content.fill })
      }
      let report = arena.check()
      #expect(report.isConsistent, "\(report.problems)")
      #expect(report.blocks.count == blocks.count)
    }
  }

  @Test func anAllocationInASectionOfAnnouncedWritesNeedsNoTracker() throws {
    let arena = try Arena()
    try arena.section { _ = try arena.heap.allocate(byteCount: 64) }
    let pages = try arena.pool.heap.engine.currentStatistics().pages
    try arena.section {
      for _ in 0..<100 { _ = try arena.heap.allocate(byteCount: 64) }
      #expect(!arena.pool.heap.engine.isTracking)
    }
    #expect(try arena.pool.heap.engine.currentStatistics().pages == pages)
  }

  @Test func arenasAreAddedUntilThePoolIsFull() throws {
    let arena = try Arena(fileBytes: 16 << 20)
    var blocks: [UnsafeMutableRawPointer] = []
    #expect {
      while true {
        try arena.section {
          for _ in 0..<16 { blocks.append(try arena.heap.allocate(byteCount: 10_000)) }
        }
      }
    } throws: {
      if case PoolError.poolFull = $0 { true } else { false }
    }
    #expect(blocks.count > 800)
    #expect(arena.check().isConsistent)
    try arena.reopen()
    #expect(arena.check().isConsistent)
    try arena.section { for block in blocks.prefix(500) { try arena.heap.deallocate(block) } }
    try arena.section { for _ in 0..<400 { _ = try arena.heap.allocate(byteCount: 10_000) } }
    #expect(arena.check().isConsistent)
  }

  /// The pages of an arena that an abort took back are page-tracked memory again.
  @Test func anArenaThatIsTakenBackIsTrackedMemoryAgain() throws {
    let arena = try Arena()
    for _ in 0..<3 {
      struct TakenBack: Error {}
      #expect(throws: TakenBack.self) {
        try arena.section {
          let block = try arena.heap.allocate(byteCount: 5000)
          memset(block, 1, 5000)
          arena.pool.heap.engine.announced.announce(block, byteCount: 5000)
          throw TakenBack()
        }
      }
    }
    let block = try arena.pool.section { try arena.pool.heap.allocate(byteCount: 500_000) }
    try arena.pool.section { _ = memset(block, 7, 500_000) }
    try arena.reopen()
    #expect(UnsafeRawBufferPointer(start: block, count: 500_000).allSatisfy { $0 == 7 })
    #expect(arena.check().isConsistent)
    let announced = try arena.section { try arena.heap.allocate(byteCount: 64) }
    try arena.section { try arena.heap.deallocate(announced) }
  }

  @Test func whatIsNoBlockIsATypedError() throws {
    let arena = try Arena()
    let block = try arena.section { try arena.heap.allocate(byteCount: 64) }
    let tracked = try arena.pool.section { try arena.pool.heap.allocate(byteCount: 64) }
    for address in [block + 8, tracked] {
      #expect {
        try arena.section { try arena.heap.deallocate(address) }
      } throws: {
        guard case PoolError.notAllocated(let offset) = $0 else { return false }
        return offset == UInt64(arena.pool.offset(address))
      }
    }
    #expect(throws: PoolError.noSection) { try arena.heap.allocate(byteCount: 64) }
  }

  @Test func anImpossibleListOfArenasIsDamage() throws {
    for (byte, value) in [(1024, UInt64(129)), (1032, 0), (1032, 1), (1032, 5 | 1 << 40)] {
      let arena = try Arena()
      try arena.section { _ = try arena.heap.allocate(byteCount: 64) }
      try arena.pool.section {
        (arena.pool.base + byte).storeBytes(of: value, as: UInt64.self)
      }
      #expect {
        try arena.reopen()
      } throws: {
        if case PoolError.damagedHeap = $0 { true } else { false }
      }
    }
  }
}
