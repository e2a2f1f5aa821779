// Roots: blocks with names, from which a program finds everything else.
//
// A chain of root pages of 4 KiB:
//
//   byte  size  field
//      0     8  magic "VOLIROOT"
//      8     8  next root page, 0 for none
//     16     8  roots in this page, 0 to 31
//     24     8  checksum of the words before it
//     32    96  zero
//    128   128  each root: bytes of the name (1), name (63), fingerprint (8), offset of the block
//               (8), its bytes (8), checksum of all that (8), zero (32)

import CVolipPersistence

public struct Root: Equatable, Sendable {
  public let name: String
  /// A hash of the layout of the value's type.
  public let fingerprint: UInt64
  public let offset: PoolOffset
  public let byteCount: Int
}

extension Heap {
  static let rootPageMagic: UInt64 = 0x544F_4F52_494C_4F56
  static let rootsPerPage = 31
  static let rootBytes = 128
  static let rootNameBytesMax = 63

  /// The roots, in no order.
  ///
  /// - Throws: `.damagedHeap`.
  public func roots() throws(PoolError) -> [Root] {
    func all() throws(PoolError) -> [Root] {
      var result: [Root] = []
      for page in try rootPages() {
        for index in 0..<(try rootCount(page)) { result.append(try root(page, index)) }
      }
      return result
    }
    // Another section of the group may be adding one. A heap that is only looked at is nobody's.
    guard let engineIfOpen else { return try all() }
    return try engineIfOpen.withHeapLock(all)
  }

  public func root(_ name: String) throws(PoolError) -> Root? {
    try roots().first { $0.name == name }
  }

  /// Allocates a root's block, zeroed, and enters its name.
  ///
  /// - Throws: `.invalidRootName`, `.rootLayoutMismatch` when the name is taken, `.poolFull`.
  public func addRoot(
    _ name: String, fingerprint: UInt64, byteCount: Int, alignment: Int
  ) throws(PoolError) -> Root {
    try requireWritable()
    return try engine.withHeapLock { () throws(PoolError) in
      try enterRoot(name, fingerprint: fingerprint, byteCount: byteCount, alignment: alignment)
    }
  }

  private func enterRoot(
    _ name: String, fingerprint: UInt64, byteCount: Int, alignment: Int
  ) throws(PoolError) -> Root {
    guard (1...Self.rootNameBytesMax).contains(name.utf8.count) else {
      throw .invalidRootName(name)
    }
    if let old = try root(name) {
      throw .rootLayoutMismatch(name: name, expected: fingerprint, found: old.fingerprint)
    }
    // The page first: an empty one is no harm when the block does not fit, a block without a name
    // would be lost.
    let page = try rootPageWithRoom()
    let offset = try take(byteCount: max(byteCount, 1), alignment: alignment)
    for byte in stride(from: 0, to: try usableBytes(offset), by: 8) {
      memory.store(UInt64(0), offset + byte)
    }
    let root = Root(
      name: name, fingerprint: fingerprint, offset: PoolOffset(bytes: UInt64(offset)),
      byteCount: byteCount)
    let count = try rootCount(page)
    write(root, page, count)
    setRootPage(page, next: try nextRootPage(page), count: count + 1)
    return root
  }

  /// Takes a name away and frees its block; what the block points to is the caller's. The last
  /// root takes its place.
  public func removeRoot(_ name: String) throws(PoolError) {
    try requireWritable()
    try engine.withHeapLock { () throws(PoolError) in try takeRoot(name) }
  }

  private func takeRoot(_ name: String) throws(PoolError) {
    let pages = try rootPages()
    for page in pages {
      for index in 0..<(try rootCount(page)) {
        let found = try root(page, index)
        guard found.name == name else { continue }
        guard let lastPage = try pages.lastRootPage(in: self) else { return }
        let lastIndex = try rootCount(lastPage) - 1
        write(try root(lastPage, lastIndex), page, index)
        setRootPage(lastPage, next: try nextRootPage(lastPage), count: lastIndex)
        try give(Int(found.offset.bytes))
        return
      }
    }
    throw .invalidRootName(name)
  }

  // MARK: Pages

  /// The chain, first page first; a cycle or a foreign page is damage.
  func rootPages() throws(PoolError) -> [Int] {
    var pages: [Int] = []
    var seen: Set<Int> = []
    var page = header.rootPage
    while page != 0 {
      guard seen.insert(page).inserted, page < header.highWater,
        try table[page].kind == .metadata,
        memory.load(page << 12, as: UInt64.self) == Self.rootPageMagic,
        memory.load((page << 12) + 24, as: UInt64.self) == rootPageChecksum(page),
        try rootCount(page) <= Self.rootsPerPage
      else { throw .damagedHeap(offset: UInt64(page) << 12, reason: "root page") }
      pages.append(page)
      page = try nextRootPage(page)
    }
    return pages
  }

  private func nextRootPage(_ page: Int) throws(PoolError) -> Int {
    let next = memory.load((page << 12) + 8, as: UInt64.self)
    guard next < UInt64(table.pageLimit) else { throw damage(page, "next root page") }
    return Int(next)
  }

  fileprivate func rootCount(_ page: Int) throws(PoolError) -> Int {
    let count = memory.load((page << 12) + 16, as: UInt64.self)
    guard count <= UInt64(Self.rootsPerPage) else { throw damage(page, "root count") }
    return Int(count)
  }

  private func rootPageChecksum(_ page: Int) -> UInt64 {
    (0..<3).reduce(UInt64(page)) {
      cvp_mix($0 ^ memory.load((page << 12) + $1 * 8, as: UInt64.self))
    }
  }

  private func setRootPage(_ page: Int, next: Int, count: Int) {
    memory.store(Self.rootPageMagic, page << 12)
    memory.store(UInt64(next), (page << 12) + 8)
    memory.store(UInt64(count), (page << 12) + 16)
    memory.store(rootPageChecksum(page), (page << 12) + 24)
  }

  private func rootPageWithRoom() throws(PoolError) -> Int {
    let pages = try rootPages()
    for page in pages where try rootCount(page) < Self.rootsPerPage { return page }
    let page = try takeRun(1)
    markRun(page, length: 1, .metadata)
    setRootPage(page, next: header.rootPage, count: 0)
    header.setRootPage(page)
    return page
  }

  // MARK: Entries

  private func rootOffset(_ page: Int, _ index: Int) -> Int {
    (page << 12) + (1 + index) * Self.rootBytes
  }

  private func rootChecksum(_ offset: Int) -> UInt64 {
    stride(from: 0, to: 88, by: 8).reduce(UInt64(offset)) {
      cvp_mix($0 ^ memory.load(offset + $1, as: UInt64.self))
    }
  }

  private func root(_ page: Int, _ index: Int) throws(PoolError) -> Root {
    let offset = rootOffset(page, index)
    let nameBytes = Int(memory.load(offset, as: UInt8.self))
    let block = memory.load(offset + 72, as: UInt64.self)
    let byteCount = memory.load(offset + 80, as: UInt64.self)
    guard memory.load(offset + 88, as: UInt64.self) == rootChecksum(offset),
      (1...Self.rootNameBytesMax).contains(nameBytes),
      block < UInt64(memory.byteCount), byteCount <= UInt64(memory.byteCount) - block,
      block % 16 == 0
    else { throw .damagedHeap(offset: UInt64(offset), reason: "root entry") }
    let bytes = (0..<nameBytes).map { memory.load(offset + 1 + $0, as: UInt8.self) }
    guard let name = String(validating: bytes, as: UTF8.self) else {
      throw .damagedHeap(offset: UInt64(offset), reason: "root name is not UTF-8")
    }
    return Root(
      name: name,
      fingerprint: memory.load(offset + 64, as: UInt64.self), offset: PoolOffset(bytes: block),
      byteCount: Int(byteCount))
  }

  private func write(_ root: Root, _ page: Int, _ index: Int) {
    let offset = rootOffset(page, index)
    for byte in stride(from: 0, to: Self.rootBytes, by: 8) {
      memory.store(UInt64(0), offset + byte)
    }
    memory.store(UInt8(root.name.utf8.count), offset)
    for (position, byte) in root.name.utf8.enumerated() {
      memory.store(byte, offset + 1 + position)
    }
    memory.store(root.fingerprint, offset + 64)
    memory.store(root.offset.bytes, offset + 72)
    memory.store(UInt64(root.byteCount), offset + 80)
    memory.store(rootChecksum(offset), offset + 88)
  }
}

extension [Int] {
  /// The root page whose last root is moved into a gap: any that has one.
  fileprivate func lastRootPage(in heap: Heap) throws(PoolError) -> Int? {
    for page in self where try heap.rootCount(page) > 0 { return page }
    return nil
  }
}
