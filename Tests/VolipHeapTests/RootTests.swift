import TestSupport
import Testing

@testable import VolipHeap

@Suite struct RootTests {
  private func add(_ pool: HeapPool, _ name: String, byteCount: Int = 8) throws -> Root {
    try pool.heap.addRoot(name, fingerprint: 7, byteCount: byteCount, alignment: 16)
  }

  @Test func namesHaveOneTo63Bytes() throws {
    let pool = try HeapPool()
    try pool.section {
      for count in 1...63 { _ = try add(pool, String(repeating: "n", count: count)) }
      _ = try add(pool, String(repeating: "ä", count: 31))
      for name in ["", String(repeating: "n", count: 64), String(repeating: "ä", count: 32)] {
        #expect(throws: PoolError.invalidRootName(name)) { try add(pool, name) }
      }
    }
    try pool.reopen()
    for count in 1...63 {
      let name = String(repeating: "n", count: count)
      #expect(try pool.heap.root(name)?.name == name)
    }
    #expect(try pool.heap.root(String(repeating: "ä", count: 31)) != nil)
  }

  @Test func aHundredRootsComeAndGo() throws {
    var generator = SeededGenerator.forTest()
    let pool = try HeapPool()
    var expected: [String: Root] = [:]
    try pool.section {
      for index in 0..<100 {
        let name = "root \(index)"
        expected[name] = try add(pool, name, byteCount: index * 10)
      }
    }
    func expectRoots() throws {
      let roots = try pool.heap.roots()
      #expect(roots.count == expected.count)
      for root in roots { #expect(expected[root.name] == root) }
      #expect(pool.heap.check().problems == [])
    }
    try expectRoots()
    for name in expected.keys.sorted().shuffled(using: &generator) {
      try pool.section { try pool.heap.removeRoot(name) }
      expected[name] = nil
      if expected.count % 9 == 0 { try expectRoots() }
    }
    #expect(pool.heap.check().blocks.isEmpty)
    try pool.section { _ = try add(pool, "again") }
    #expect(try pool.heap.roots().map(\.name) == ["again"])
  }

  @Test func aNameIsTakenOnce() throws {
    let pool = try HeapPool()
    try pool.section { _ = try add(pool, "one") }
    #expect(throws: PoolError.rootLayoutMismatch(name: "one", expected: 9, found: 7)) {
      try pool.section {
        try pool.heap.addRoot("one", fingerprint: 9, byteCount: 8, alignment: 16)
      }
    }
    #expect(try pool.heap.roots().count == 1)
    #expect(throws: PoolError.invalidRootName("two")) {
      try pool.section { try pool.heap.removeRoot("two") }
    }
  }

  @Test func aRootBeginsZeroedThoughItsMemoryWasUsed() throws {
    let pool = try HeapPool()
    for byteCount in [1, 8, 100, 5000] {
      try pool.section {
        let used = try pool.heap.allocate(byteCount: byteCount)
        used.initializeMemory(as: UInt8.self, repeating: 0xAA, count: byteCount)
        try pool.heap.deallocate(used)
        let root = try add(pool, "r\(byteCount)", byteCount: byteCount)
        let bytes = UnsafeRawBufferPointer(
          start: pool.base + Int(root.offset.bytes), count: byteCount)
        #expect(bytes.allSatisfy { $0 == 0 })
      }
    }
  }

  /// A root that does not fit leaves no block without a name in a section that goes on.
  @Test func aRootThatDoesNotFitLeavesNoBlockBehind() throws {
    let pool = try HeapPool(fileBytes: 1 << 20)
    try pool.section {
      // A slab of its own keeps room for the value while no page is left for the name.
      _ = try pool.heap.allocate(byteCount: 16)
      while (try? pool.heap.allocate(byteCount: 4096, alignment: 4096)) != nil {}
      let before = pool.heap.check().blocks.count
      #expect(throws: PoolError.self) { try add(pool, "late") }
      #expect(pool.heap.check().blocks.count == before)
    }
  }
}
