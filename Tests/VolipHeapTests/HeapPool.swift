import Glibc
import TestSupport
import Testing

@testable import VolipHeap

/// A heap in a pool file of its own.
final class HeapPool {
  let directory = TemporaryDirectory()
  let path: String
  private var opened: Heap?

  var heap: Heap { opened! }
  var base: UnsafeMutableRawPointer { heap.engine.base }

  init(fileBytes: UInt64 = 8 << 20, logBytesMax: UInt64? = nil) throws {
    path = directory.file("heap.pool")
    var geometry = try PoolGeometry(fileBytes: fileBytes, logBytes: nil, logBytesMax: logBytesMax)
    var generator = SystemRandomNumberGenerator()
    geometry.baseAddress = try AddressMap.drawBase(
      imageBytes: geometry.imageBytes, using: &generator)
    try PoolFile.create(path: path, geometry: geometry).publish()
    try open()
  }

  private func open() throws {
    var options = EngineOptions()
    options.persistencePath = .cacheLines
    opened = try Heap(PoolEngine(PoolFile.open(path: path), options: options))
  }

  func reopen() throws {
    try heap.engine.close()
    opened = nil
    try open()
  }

  func grow(toFileBytes bytes: UInt64) throws {
    try heap.grow(toFileBytes: bytes)
  }

  func section<Result>(_ body: () throws -> Result) throws -> Result {
    try heap.engine.openSection()
    let result: Result
    do {
      result = try body()
    } catch {
      try heap.engine.abortSection()
      throw error
    }
    try heap.engine.closeSection()
    return result
  }

  /// A section whose writes are taken back.
  func abortedSection<Result>(_ body: () throws -> Result) throws -> Result {
    try heap.engine.openSection()
    defer { try? heap.engine.abortSection() }
    return try body()
  }

  func offset(_ address: UnsafeRawPointer) -> Int { address - UnsafeRawPointer(base) }
}

/// What the heap should hold: blocks by offset, each filled with one byte, as long as it was asked
/// for.
struct HeapModel {
  struct Block {
    var byteCount: Int
    var fill: UInt8
  }
  private(set) var blocks: [Int: Block] = [:]

  private static func isFilled(
    _ address: UnsafeRawPointer, _ byteCount: Int, with fill: UInt8
  ) -> Bool {
    guard byteCount > 0 else { return true }
    return address.load(as: UInt8.self) == fill
      && memcmp(address, address + 1, byteCount - 1) == 0
  }

  /// A few random operations.
  mutating func change(_ pool: HeapPool, using generator: inout SeededGenerator) throws {
    for _ in 0..<Int.random(in: 1...40, using: &generator) {
      switch Int.random(in: 0..<10, using: &generator) {
      case 0..<5: try allocate(pool, using: &generator)
      case 5..<8: try free(pool, using: &generator)
      default: try reallocate(pool, using: &generator)
      }
    }
  }

  mutating func allocate(_ pool: HeapPool, using generator: inout SeededGenerator) throws {
    let byteCount = randomSize(using: &generator)
    let alignment = 1 << Int.random(in: 0...12, using: &generator)
    let address = try pool.heap.allocate(byteCount: byteCount, alignment: alignment)
    #expect(UInt(bitPattern: address) % UInt(alignment) == 0)
    #expect(try pool.heap.usableBytes(address) >= byteCount)
    insert(
      pool, address, Block(byteCount: byteCount, fill: .random(in: 0...255, using: &generator)))
  }

  private mutating func insert(
    _ pool: HeapPool, _ address: UnsafeMutableRawPointer, _ block: Block
  ) {
    memset(address, Int32(block.fill), block.byteCount)
    #expect(blocks.updateValue(block, forKey: pool.offset(address)) == nil)
  }

  mutating func free(_ pool: HeapPool, using generator: inout SeededGenerator) throws {
    guard let (offset, block) = randomBlock(using: &generator) else { return }
    blocks[offset] = nil
    #expect(Self.isFilled(pool.base + offset, block.byteCount, with: block.fill))
    try pool.heap.deallocate(pool.base + offset)
  }

  mutating func reallocate(_ pool: HeapPool, using generator: inout SeededGenerator) throws {
    guard let (offset, old) = randomBlock(using: &generator) else { return }
    let byteCount = randomSize(using: &generator)
    let moved = try pool.heap.reallocate(pool.base + offset, byteCount: byteCount)
    blocks[offset] = nil
    #expect(Self.isFilled(moved, min(old.byteCount, byteCount), with: old.fill))
    #expect(try pool.heap.usableBytes(moved) >= byteCount)
    insert(pool, moved, Block(byteCount: byteCount, fill: old.fill &+ 1))
  }

  private func randomBlock(using generator: inout SeededGenerator) -> (Int, Block)? {
    // Sorted: a dictionary's own order differs from process to process, and a seed must replay.
    blocks.keys.sorted().randomElement(using: &generator).map { ($0, blocks[$0]!) }
  }

  private func randomSize(using generator: inout SeededGenerator) -> Int {
    switch Int.random(in: 0..<10, using: &generator) {
    case 0..<5: Int.random(in: 0...256, using: &generator)
    case 5..<8: Int.random(in: 0...4096, using: &generator)
    default: Int.random(in: 0...60_000, using: &generator)
    }
  }

  /// Whether the heap's check lists exactly these blocks, apart from each other, with these bytes.
  func expectEqual(_ pool: HeapPool) throws {
    let report = pool.heap.check()
    #expect(report.problems == [])
    #expect(report.blocks.map { Int($0.offset.bytes) } == blocks.keys.sorted())
    var end = 0
    for (offset, byteCount) in report.blocks {
      let start = Int(offset.bytes)
      #expect(start >= end)
      end = start + byteCount
      #expect(try pool.heap.usableBytes(pool.base + start) == byteCount)
      if let block = blocks[start] {
        #expect(block.byteCount <= byteCount)
        #expect(Self.isFilled(pool.base + start, block.byteCount, with: block.fill))
      }
    }
  }

  mutating func freeAll(_ pool: HeapPool) throws {
    for offset in blocks.keys.sorted() { try pool.heap.deallocate(pool.base + offset) }
    blocks = [:]
  }
}
