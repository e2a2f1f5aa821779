// PoolRepair: what can be made whole again of a damaged pool that nobody uses.
//
//   superblock   a damaged copy from the other: what recovery does
//   log          ends at a damaged record: what came before it is applied, the rest is lost
//   heap         what is held twice (HeapRepair)
//
// First all of it is done in memory of our own. Only if that is consistent then, the file is backed
// up, and the same is done to it. A crash meanwhile leaves a pool that is repaired again, or the
// backup.

/// Repairs pools.
package enum PoolRepair {
  /// - Parameter backup: where the file is copied to first; nil changes nothing.
  /// - Returns: what was done, or would be; empty for a pool that is consistent and was closed.
  /// - Throws: the first damage that cannot be repaired; nothing has changed then.
  package static func run(_ path: String, backup: String?) throws(PoolError) -> [String] {
    guard try !PoolView.isInUse(path) else { throw .inUse(path: path) }
    let plan = try plan(path)
    guard let backup, !plan.isEmpty else { return plan }
    try PoolEngine.withoutCancellation { () throws(PoolError) in
      let file = try PoolFile.open(path: path)
      defer { file.unlock() }
      try file.backUp(to: backup)
      try repair(file)
    }
    return plan
  }

  private static func plan(_ path: String) throws(PoolError) -> [String] {
    var steps: [String] = []
    var logDamage: String?
    do throws(PoolError) {
      _ = try RecoveredView(path: path)
    } catch {
      guard case .damagedLog(_, let offset, let reason) = error else { throw error }
      logDamage =
        "the log ends at its damaged record, at byte \(offset) (\(reason)): what came "
        + "after it is lost"
    }
    let view = try RecoveredView(path: path, endsAtGap: true)
    if case .failure = view.copies[0] { steps.append("superblock copy 1 from copy 2") }
    if case .failure = view.copies[1] { steps.append("superblock copy 2 from copy 1") }
    if !view.records.isEmpty {
      steps.append("\(view.records.count) records of the log are applied")
    }
    if let logDamage { steps.append(logDamage) }
    let pageCount = Int(view.superblock.geometry.pageCount)
    try PoolEngine.withoutCancellation { () throws(PoolError) in
      guard let heap = try HeapView(image: view.image, pageCount: pageCount) else {
        guard view.lastLsn == 0 else { throw .damagedHeap(offset: 0, reason: "no heap header") }
        return
      }
      let before = heap.check().problems
      guard !before.isEmpty else { return }
      try heap.repair()
      if let left = heap.check().problems.first {
        throw .damagedHeap(offset: left.offset.bytes, reason: left.reason)
      }
      steps += before.map { "heap: \($0)" }
    }
    try view.requireWhole()
    try view.requireUndisturbed()
    return steps
  }

  private static func repair(_ file: PoolFile) throws(PoolError) {
    let memory = try DurableMemory.map(
      descriptor: file.descriptor, forced: PersistencePath.forced)
    defer { memory.unmap() }
    _ = try Recovery(file, memory, endsAtGap: true).run()
    let geometry = file.superblock.geometry
    // SAFETY: the superblock was checked, and the whole file that it describes is mapped.
    let image = memory.address(Int(geometry.imageOffset))
    guard let heap = try HeapView(image: image, pageCount: Int(geometry.pageCount)),
      !heap.check().isConsistent
    else { return }
    // What is repaired has blocks: it was read, and is no hole's.
    try heap.repair()
    let start = Int(geometry.imageOffset)
    memory.flush(start..<start + heap.highWater << 12)
    try memory.fence()
  }
}
