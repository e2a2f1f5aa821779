import TestSupport
import Testing

@testable import VolipHeap

/// The short way of an allocation and a free against the general one.
@Suite struct OrdinaryBlockTests {
  /// The same calls to two heaps, one of which never takes the short way: the same blocks, the same
  /// errors, and at the end the same bytes.
  @Test func theShortWayDoesWhatTheGeneralOneDoes() throws {
    let generator = SeededGenerator.forTest()
    let short = try outcome(of: generator, take: { try $0.heap.allocate(byteCount: $1) }) {
      (pool, offset) throws(PoolError) in try pool.heap.deallocate(pool.base + offset)
    }
    let general = try outcome(
      of: generator, take: { try $0.heap.takeAddress(byteCount: $1, alignment: 16) }
    ) { (pool, offset) throws(PoolError) in try pool.heap.giveAddress(pool.base + offset) }
    #expect(short.results == general.results)
    #expect(short.results.count > 1000 && short.results.contains { "\($0)".contains("not") })
    #expect(short.bytes == general.bytes)
  }

  /// What random allocations and frees return, and the heap's bytes after them.
  private func outcome(
    of generator: SeededGenerator, take: (HeapPool, Int) throws -> UnsafeMutableRawPointer,
    give: (HeapPool, Int) throws(PoolError) -> Void
  ) throws -> (results: [AnyHashable], bytes: [UInt8]) {
    var generator = generator
    let pool = try HeapPool()
    var results: [AnyHashable] = []
    var live: [Int] = []
    for _ in 0..<40 {
      try pool.section {
        for _ in 0..<Int.random(in: 1...200, using: &generator) {
          if live.isEmpty || Bool.random(using: &generator) {
            live.append(pool.offset(try take(pool, Int.random(in: 0...400, using: &generator))))
            results.append(live.last!)
          } else {
            // Now and then a byte beside a block; and a block that is gone is given again.
            let offset = live.randomElement(using: &generator)!
            let isBeside = Int.random(in: 0..<8, using: &generator) == 0
            do throws(PoolError) {
              try give(pool, offset + (isBeside ? 16 : 0))
              results.append("given")
            } catch {
              results.append("\(error)")
            }
            if Int.random(in: 0..<8, using: &generator) != 0 { live.removeAll { $0 == offset } }
          }
        }
      }
    }
    let used = pool.heap.header.highWater << 12
    return (results, Array(UnsafeRawBufferPointer(start: pool.base, count: used)))
  }

  /// A steady state of small blocks must not need the general path at all.
  @Test func anOrdinaryPairTakesTheShortWay() throws {
    let pool = try HeapPool()
    try pool.section {
      let first = try pool.heap.allocate(byteCount: 64)
      for byteCount in [49, 64] {
        let block = try #require(pool.heap.takeOrdinary(byteCount: byteCount))
        #expect(pool.heap.giveOrdinary(block))
        #expect(!pool.heap.giveOrdinary(block))
      }
      #expect(pool.heap.giveOrdinary(first))
    }
  }

  @Test func outsideASectionTheShortWayDoesNothing() throws {
    let pool = try HeapPool()
    let block = try pool.section { try pool.heap.allocate(byteCount: 64) }
    #expect(pool.heap.takeOrdinary(byteCount: 64) == nil)
    #expect(!pool.heap.giveOrdinary(block))
    #expect(throws: PoolError.noSection) { try pool.heap.allocate(byteCount: 64) }
    #expect(throws: PoolError.noSection) { try pool.heap.deallocate(block) }
  }

  /// Every bit of a slab's page table entry and of the checked part of its header: damage is never
  /// taken for a slab, and nothing is changed.
  @Test func aDamagedSlabIsLeftToTheGeneralPath() throws {
    let pool = try HeapPool()
    let block = try pool.section { try pool.heap.allocate(byteCount: 64) }
    let page = pool.offset(block) >> 12
    let entry = Int(pool.heap.table.offset(ofEntry: page))
    try pool.abortedSection {
      for byte in Array(entry..<entry + 16) + Array(page << 12..<page << 12 + 6) {
        for bit in 0..<8 {
          let old = pool.base.load(fromByteOffset: byte, as: UInt8.self)
          pool.base.storeBytes(of: old ^ 1 << UInt8(bit), toByteOffset: byte, as: UInt8.self)
          #expect(!pool.heap.giveOrdinary(block), "byte \(byte) bit \(bit)")
          if byte >= page << 12 { #expect(pool.heap.takeOrdinary(byteCount: 64) == nil) }
          pool.base.storeBytes(of: old, toByteOffset: byte, as: UInt8.self)
        }
      }
      #expect(pool.heap.giveOrdinary(block))
    }
  }
}
