// VolatilePointers: addresses of memory that ends with the process, in what collections store.
//
// The compiler keeps classes, closures and pointers out of collections, and a root's layout shows
// pointers in its elements; a word that was made from one, in a number or in a value behind a
// reference, neither sees. In an audit the announced words of a section are looked at before it
// becomes durable: one that points into any mapping but the pool's is an error.
//
// SAFETY: announced extents lie in the working copy, and blocks of the heap's report too.

import Glibc

extension Pool {
  /// Addresses below it are not looked at: too many numbers are as small.
  private static let addressMin: UInt64 = 1 << 32
  /// What a program can have.
  private static let addressMax: UInt64 = 1 << 47

  /// In an audit: finds a word that a section announced, and that points into volatile memory.
  ///
  /// - Throws: `.volatilePointer`.
  func requireNoVolatilePointers(in announced: AnnouncedWrites) throws(PoolError) {
    guard isAudited, engine.isInSection else { return }
    let own =
      UInt64(UInt(bitPattern: base))..<UInt64(UInt(bitPattern: base + engine.pageCount << 12))
    var candidates: [(offset: UInt64, value: UInt64)] = []
    announced.forEach { extent, bytes in
      let first = (extent.offset + 7) & ~7
      let end = extent.offset + UInt64(extent.byteCount)
      for offset in stride(from: first, to: max(end & ~7, first), by: 8) {
        let word = (bytes + Int(offset - extent.offset)).load(as: UInt64.self)
        if word >= Self.addressMin, word < Self.addressMax, !own.contains(word) {
          candidates.append((offset, word))
        }
      }
    }
    guard !candidates.isEmpty else { return }
    let mappings = Self.mappings()
    for (offset, value) in candidates where mappings.contains(where: { $0.contains(value) }) {
      let root = rootThatReaches(offset)
      throw .volatilePointer(
        value: value, offset: offset, root: root?.name ?? "",
        layout: root.map(layoutText) ?? "")
    }
  }

  /// The mapped ranges of this process.
  private static func mappings() -> [Range<UInt64>] {
    guard let file = fopen("/proc/self/maps", "re") else { return [] }
    defer { fclose(file) }
    var ranges: [Range<UInt64>] = []
    var line: UnsafeMutablePointer<CChar>?
    var capacity = 0
    defer { free(line) }
    while getline(&line, &capacity, file) > 0, let line {
      let ends = String(cString: line).prefix { $0 != " " }.split(separator: "-")
        .compactMap { UInt64($0, radix: 16) }
      if ends.count == 2, ends[0] < ends[1] { ranges.append(ends[0]..<ends[1]) }
    }
    return ranges
  }

  /// The root from which words lead to the block that has an offset.
  private func rootThatReaches(_ offset: UInt64) -> Root? {
    let blocks = checkHeap().blocks.sorted { $0.offset.bytes < $1.offset.bytes }
    func block(of offset: UInt64) -> Int? {
      var (low, high) = (0, blocks.count)
      while low < high {
        let middle = (low + high) / 2
        if blocks[middle].offset.bytes <= offset { low = middle + 1 } else { high = middle }
      }
      guard low > 0, offset < blocks[low - 1].offset.bytes + UInt64(blocks[low - 1].byteCount)
      else { return nil }
      return low - 1
    }
    guard let wanted = block(of: offset) else { return nil }
    let start = UInt64(UInt(bitPattern: base))
    for root in (try? roots()) ?? [] {
      guard let first = block(of: root.offset.bytes) else { continue }
      var (seen, left): (Set<Int>, [Int]) = ([first], [first])
      while let next = left.popLast() {
        if next == wanted { return root }
        let words = base + Int(blocks[next].offset.bytes)
        for byte in stride(from: 0, to: blocks[next].byteCount & ~7, by: 8) {
          let word = words.load(fromByteOffset: byte, as: UInt64.self)
          guard word >= start, let found = block(of: word - start), seen.insert(found).inserted
          else { continue }
          left.append(found)
        }
      }
    }
    return nil
  }
}
