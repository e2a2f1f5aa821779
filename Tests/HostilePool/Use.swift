import Glibc
import VolipMem

private struct TakeBack: Error {}

/// Everything that reads metadata, in a section that is taken back. Returns whether all was well.
///
/// - Parameter variety: which of the sizes and places are tried; each is by some number.
package func use(_ pool: Pool, variety: Int) -> Bool {
  let isConsistent = pool.checkHeap().isConsistent
  var isWell = true
  do {
    try pool.section { section in
      isWell = try useRoots(pool, &section) && useBlocks(pool, variety)
      _ = pool.checkHeap()
      throw TakeBack()
    }
  } catch {
    isWell = isWell && error is TakeBack
  }
  return isConsistent && isWell
}

/// Each size class has blocks of at most so many bytes, from 16 to 4,096; and whole pages.
private let sizes =
  (1...8).map { $0 * 16 }
  + (7..<12).flatMap { power in (5...8).map { $0 << (power - 2) } } + [5000, 20_000]

private func useBlocks(_ pool: Pool, _ variety: Int) -> Bool {
  var isWell = true
  var blocks: [UnsafeMutableRawPointer] = []
  for index in stride(from: variety % 4, to: sizes.count, by: 4) {
    let byteCount = sizes[index]
    for _ in 0..<2 {
      guard let block = try? pool.allocate(byteCount: byteCount) else {
        isWell = false
        continue
      }
      memset(block, 0xA5, byteCount)
      blocks.append(block)
    }
  }
  for (index, block) in pool.checkHeap().blocks.prefix(6).enumerated() {
    let address = UnsafeMutableRawPointer(mutating: pool.base + Int(block.offset.bytes))
    blocks.removeAll { $0 == address }
    let byteCount = [300, 6000, 100_000][index % 3]
    if let moved = try? pool.reallocate(address, byteCount: byteCount) { blocks.append(moved) }
  }
  // Every place where a block may seem to begin, whatever the check said.
  for page in stride(from: 1 + variety % 3, to: 200, by: 3) {
    for offset in [page << 12, (page << 12) + 64] {
      let address = UnsafeMutableRawPointer(mutating: pool.base + offset)
      guard let usable = try? pool.usableBytes(address), page % 4 == 0 else { continue }
      blocks.removeAll { $0 == address }
      if let moved = try? pool.reallocate(address, byteCount: usable / 2) { blocks.append(moved) }
    }
  }
  for block in blocks where (try? pool.deallocate(block)) == nil { isWell = false }
  return isWell
}

private func useRoots(_ pool: Pool, _ section: inout Section) throws -> Bool {
  for root in try pool.roots() {
    _ = (pool.base + Int(root.offset.bytes)).loadUnaligned(as: UInt8.self)
    try pool.removeRoot(root.name, in: &section)
  }
  return try pool.root("new", in: &section) { 1 }.pointee == 1
}
