// PoolCompaction: blocks of the file system that a pool has and does not need.

/// Gives room back to the file system. No byte in use moves: addresses stay what they are.
package enum PoolCompaction {
  package struct Summary {
    /// Bytes of the file that had and have blocks.
    package let before: UInt64
    package let after: UInt64
    /// Pages by which the high-water mark is lower.
    package let loweredPages: Int
  }

  /// Punches holes where the heap has free pages; with `lowersHighWater` free pages at its end are
  /// as if they had never been used, before that.
  ///
  /// - Throws: ``PoolError``: `.inUse`; `.damagedHeap` of a pool that is not consistent.
  package static func run(
    _ path: String, lowersHighWater: Bool
  ) throws(PoolError) -> Summary {
    guard try !PoolView.isInUse(path) else { throw .inUse(path: path) }
    let first = try PoolView(path)
    let before = try first.allocatedBytes()
    try requireConsistent(first)
    let lowered = lowersHighWater ? try lowerHighWater(path) : 0
    // Its lock keeps others away; it has no mapping.
    let file = try PoolFile.open(path: path)
    defer { file.unlock() }
    let view = try PoolView(path)
    try requireConsistent(view)
    let image = view.superblock.geometry.imageOffset
    for run in try view.runs() where run.isFree {
      let bytes = UInt64(run.pages.lowerBound) << 12..<UInt64(run.pages.upperBound) << 12
      let isPossible = try file.punchHole(image + bytes.lowerBound..<image + bytes.upperBound)
      guard isPossible else {
        throw .invalidArgument("\(path) is on a file system that cannot give blocks back")
      }
    }
    try file.sync()
    return Summary(before: before, after: try view.allocatedBytes(), loweredPages: lowered)
  }

  private static func requireConsistent(_ view: PoolView) throws(PoolError) {
    guard !view.needsRecovery else { throw .needsRecovery(path: view.path) }
    if let problem = try view.check().problems.first {
      throw .damagedHeap(offset: problem.offset.bytes, reason: problem.reason)
    }
  }

  private static func lowerHighWater(_ path: String) throws(PoolError) -> Int {
    let pool = try Pool.open(path)
    let lowered: Int
    do throws(PoolError) {
      try pool.pstart()
      lowered = try pool.heap.lowerHighWater()
      try pool.pend()
    } catch {
      try? pool.pabort()
      throw error
    }
    try pool.close()
    return lowered
  }
}
