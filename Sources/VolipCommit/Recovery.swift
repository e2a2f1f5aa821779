// Recovery: from a pool file after any crash to an image with every sealed record applied.
//
//   scan       every record from the tail on, in order, until there is no next one; of each lane
//   judge      a sealed record further on is damage: nothing is applied (rule 11)
//   secure     the records themselves and the superblock copies are made durable, one fence
//   replay     the same update as the commit's, then flush; records of lanes in lsn order (rule 7)
//   checkpoint one fence; both superblock copies, log empty and whole, generation raised (rule 3)
//
// A crash in here leaves the log as it was, and the next open does it all again.

import CVolipPersistence

package struct RecoverySummary: Equatable {
  package var recordCount = 0
}

package struct Recovery {
  let file: PoolFile
  let memory: DurableMemory
  private let superblock: Superblock
  private let geometry: PoolGeometry

  /// Whether a sealed record behind one that is missing is no damage: in a log that somebody is
  /// writing, or one that is repaired.
  private let endsAtGap: Bool

  package init(_ file: PoolFile, _ memory: DurableMemory, endsAtGap: Bool = false) {
    self.endsAtGap = endsAtGap
    self.file = file
    self.memory = memory
    superblock = file.superblock
    geometry = superblock.geometry
  }

  package func run() throws(PoolError) -> RecoverySummary {
    try FailedPages.noted(recover)
  }

  private func recover() throws(PoolError) -> RecoverySummary {
    var summary = RecoverySummary()
    var scans = LogScan.all(of: file, memory)
    for index in 0..<scans.count { scans[index].walk { _ in summary.recordCount += 1 } }
    try requireWholeLog()
    if !endsAtGap, !isRemoved(.laterRecordCheck) {
      for scan in scans { try scan.judgeBeyond() }
    }
    try requireWholeLog()
    pass(.recovery)
    try secure(scans)
    pass(.recoverySecured)
    if summary.recordCount > 0 { try replay(scans) }
    pass(.recovered)
    var next = superblock
    next.sequence += 1
    if !isRemoved(.generationRaise) { next.generation += 1 }
    for scan in scans { next.appliedLsn = max(next.appliedLsn, scan.lastLsn) }
    next.logTail = 0
    next.lanes = nil
    next.incompatibleFeatures &= ~Superblock.buffersFeature
    if !isRemoved(.recoverySuperblock) { try file.write(next, through: memory) }
    return summary
  }

  /// Calls `body` for each record that an open would apply, in order.
  func forEachLive(_ body: (LogRecord) -> Void) throws(PoolError) {
    var scans = LogScan.all(of: file, memory)
    for index in 0..<scans.count { scans[index].walk { _ in } }
    try forEachRecord(of: scans) { (record) throws(PoolError) in body(record) }
  }

  /// A page that cannot be read is damage, not the end of the log (rule 11).
  private func requireWholeLog() throws(PoolError) {
    guard memory.failedPages.isEmpty else {
      throw .damagedLog(
        path: file.path, fileOffset: UInt64(memory.failedPages.offsets[0]),
        reason: "its page cannot be read")
    }
  }

  /// What can be read need not be durable: a process may have been killed between its stores and
  /// its fence. Half of a record in the image and none of it on the disk would be a torn section
  /// after the next power cut; one superblock copy on its way and the other overwritten would be no
  /// superblock. So both are made durable before anything is touched.
  private func secure(_ scans: [LogScan]) throws(PoolError) {
    if !isRemoved(.secureSuperblock) { try file.storeSuperblockAgain(through: memory) }
    if !isRemoved(.secureRecords) {
      for scan in scans { scan.storeAgain() }
    }
    if !isRemoved(.secureFence) { try memory.fence() }
  }

  /// Applies the records that the scan found sealed. Nothing that it checked is checked again.
  private func replay(_ scans: [LogScan]) throws(PoolError) {
    let blocks = try ImageBlocks(file)
    try forEachRecord(of: scans) { (record) throws(PoolError) in try blocks.allocate(record) }
    try applyAndFlush(scans)
    if !memory.failedPages.isEmpty { try rebuildImage(scans) }
    if !isRemoved(.replayFence) { try memory.fence() }
  }

  private func applyAndFlush(_ scans: [LogScan]) throws(PoolError) {
    let imageOffset = Int(geometry.imageOffset)
    try forEachRecord(of: scans) { (record) throws(PoolError) in
      update(record, to: memory, imageOffset: imageOffset)
      updateAnnounced(record, to: memory, imageOffset: imageOffset)
      if !isRemoved(.replayFlush) { flush(record, in: memory, imageOffset: imageOffset) }
      pass(.replayed)
    }
  }

  /// Image pages that failed are whole again where the log has all of their lines.
  private func rebuildImage(_ scans: [LogScan]) throws(PoolError) {
    let failed = memory.failedPages
    let pageBytes = DurableMemory.pageBytes
    var missing: [Int: UInt64] = [:]
    for offset in failed.offsets { missing[offset] = .max }
    try forEachRecord(of: scans) { (record) throws(PoolError) in
      record.forEachExtent { extent, _ in
        for (offset, mask) in missing where offset >= Int(geometry.imageOffset) {
          let page = UInt64((offset - Int(geometry.imageOffset)) / pageBytes)
          missing[offset] = mask & ~extent.mask(inPage: page)
        }
      }
    }
    let lost = missing.filter { $0.value != 0 }.keys.min()
    if let offset = failed.isOverfull ? failed.offsets.first : lost {
      throw .unreadable(fileOffset: UInt64(offset))
    }
    // What was stored before a page failed is not in what stands in for it.
    try applyAndFlush(scans)
    let imageEnd = Int(geometry.imageOffset + geometry.imageBytes)
    try memory.rebuildFailed(in: Int(geometry.imageOffset)..<imageEnd)
  }
}
