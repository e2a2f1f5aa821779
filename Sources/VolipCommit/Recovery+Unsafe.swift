// Recovery: from a pool file after any crash to an image with every sealed record applied.
//
//   scan       every record from the tail on, in order, until there is no next one
//   judge      a sealed record further on is damage: nothing is applied (rule 11)
//   secure     the records themselves and the superblock copies are made durable, one fence
//   replay     the same update as the commit's, then flush
//   checkpoint one fence; both superblock copies, log empty, generation raised (rule 3)
//
// The file is a stranger's: each number is bounded before it is used (rule 21). A crash in here
// leaves the log as it was, and the next open does it all again.

import CVolipPersistence

package struct RecoverySummary: Equatable {
  package var recordCount = 0
}

package struct Recovery {
  let file: PoolFile
  let memory: DurableMemory
  private let superblock: Superblock
  private let geometry: PoolGeometry
  private let logEnd: UInt64

  /// Whether a sealed record behind one that is missing is no damage: in a log that somebody is
  /// writing, or one that is repaired.
  private let endsAtGap: Bool

  package init(_ file: PoolFile, _ memory: DurableMemory, endsAtGap: Bool = false) {
    self.endsAtGap = endsAtGap
    self.file = file
    self.memory = memory
    superblock = file.superblock
    geometry = superblock.geometry
    logEnd = superblock.logTail + superblock.geometry.logBytes
  }

  package func run() throws(PoolError) -> RecoverySummary {
    try FailedPages.noted(recover)
  }

  private func recover() throws(PoolError) -> RecoverySummary {
    var summary = RecoverySummary()
    let live = scan { _ in summary.recordCount += 1 }
    try requireWholeLog()
    if !endsAtGap, !isRemoved(.laterRecordCheck) {
      try judge(beyond: live.end, lastLsn: live.lastLsn)
    }
    try requireWholeLog()
    pass(.recovery)
    try secure(live)
    pass(.recoverySecured)
    if summary.recordCount > 0 { try replay(live) }
    pass(.recovered)
    var next = superblock
    next.sequence += 1
    if !isRemoved(.generationRaise) { next.generation += 1 }
    next.appliedLsn = live.lastLsn
    next.logTail = 0
    if !isRemoved(.recoverySuperblock) { try file.write(next, through: memory) }
    return summary
  }

  /// The sealed records from the tail on.
  struct LiveLog {
    var end: UInt64
    var lastLsn: UInt64
    /// Where the record before the next lap ended. The live log is no longer than the log, so that
    /// it has one place at most where it goes on at a lap.
    var gap: UInt64?
  }

  /// Walks the sealed records in order, as far as there are any.
  func scan(_ body: (LogRecord) -> Void) -> LiveLog {
    var live = LiveLog(end: superblock.logTail, lastLsn: superblock.appliedLsn)
    while let record = next(in: live) {
      body(record)
      if record.header.position != live.end { live.gap = live.end }
      live.end = record.header.end
      live.lastLsn = record.header.lsn
    }
    return live
  }

  /// The record that follows what was found so far: at its end, or at the start of the next lap.
  func next(in live: LiveLog) -> LogRecord? {
    sealedRecord(at: live.end, after: live) ?? sealedRecord(at: lap(after: live.end), after: live)
  }

  private func sealedRecord(at position: UInt64, after live: LiveLog) -> LogRecord? {
    guard let candidate = candidate(at: position),
      candidate.record.header.lsn == live.lastLsn + 1 || isRemoved(.lsnCheck),
      candidate.record.header.previousEnd == live.end || isRemoved(.previousEndCheck),
      isSealed(candidate)
    else { return nil }
    return candidate.record
  }

  private func lap(after position: UInt64) -> UInt64 {
    (position / geometry.logBytes + 1) * geometry.logBytes
  }

  private struct Candidate {
    let record: LogRecord
    /// What the record says its checksum is.
    let seal: UInt64
  }

  /// A header of this generation that belongs at this position and lies within the live log.
  private func candidate(at position: UInt64) -> Candidate? {
    guard position + UInt64(DurableMemory.lineBytes) <= logEnd else { return nil }
    let inLog = position % geometry.logBytes
    // SAFETY: inLog is less than logBytes, and the mapping was checked to hold the log.
    let start = UnsafeRawPointer(memory.address(Int(geometry.logOffset + inLog)))
    let decoded = RecordHeader.decode(
      from: start, at: position, generation: superblock.generation)
    guard let (header, seal) = decoded,
      header.generation == superblock.generation || isRemoved(.generationCheck),
      header.position == position || isRemoved(.positionCheck),
      UInt64(header.recordBytes) <= geometry.logBytes - inLog || isRemoved(.recordBounds),
      header.end <= logEnd || isRemoved(.recordBounds)
    else { return nil }
    return Candidate(record: LogRecord(header: header, start: start), seal: seal)
  }

  private func isSealed(_ candidate: Candidate) -> Bool {
    let imageLines = geometry.imageBytes / UInt64(DurableMemory.lineBytes)
    let seal = candidate.record.expectedSeal(poolIdentity: superblock.poolIdentity)
    return (candidate.record.extentsFit(imageLines: imageLines) || isRemoved(.extentBounds))
      && (candidate.seal == seal || isRemoved(.sealCheck))
  }

  /// Looks at every line of the live log behind the last record. What is sealed there was committed
  /// after a record that is gone.
  private func judge(beyond end: UInt64, lastLsn: UInt64) throws(PoolError) {
    // Every candidate's bytes are read once for its checksum; true ones do not overlap, so more
    // than this is a forgery.
    var budget = geometry.logBytes * 2
    var position = end
    // A log may be long and hardly written: holes of the file are not read. They are asked for
    // before the walk, because what the kernel reads ahead of it are holes no more.
    let log = geometry.logOffset..<geometry.logOffset + geometry.logBytes
    let parts = file.dataParts(in: log)
    while position < logEnd {
      let byte = geometry.logOffset + position % geometry.logBytes
      let next = parts.first { $0.upperBound > byte }
      if (next?.lowerBound ?? log.upperBound) > byte {
        position += (next?.lowerBound ?? log.upperBound) - byte
        continue
      }
      if let candidate = candidate(at: position), candidate.record.header.lsn > lastLsn {
        let header = candidate.record.header
        let length = UInt64(header.recordBytes)
        guard length <= budget, !isSealed(candidate) else {
          throw .damagedLog(
            path: file.path, fileOffset: geometry.logOffset + end % geometry.logBytes,
            reason: "no record \(lastLsn + 1) here, but record \(header.lsn) at byte "
              + "\(geometry.logOffset + position % geometry.logBytes)")
        }
        budget -= length
      }
      position += UInt64(DurableMemory.lineBytes)
    }
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
  private func secure(_ live: LiveLog) throws(PoolError) {
    if !isRemoved(.secureSuperblock) { try file.storeSuperblockAgain(through: memory) }
    let boundary = lap(after: superblock.logTail)
    for part in [superblock.logTail..<min(live.end, boundary), boundary..<max(live.end, boundary)]
    where !part.isEmpty && !isRemoved(.secureRecords) {
      let start = Int(geometry.logOffset + part.lowerBound % geometry.logBytes)
      memory.storeAgain(start..<start + part.count)
    }
    if !isRemoved(.secureFence) { try memory.fence() }
  }

  /// Applies the records that the scan found sealed. Nothing that it checked is checked again.
  private func replay(_ live: LiveLog) throws(PoolError) {
    let blocks = try ImageBlocks(file)
    try forEachRecord(of: live) { (record) throws(PoolError) in try blocks.allocate(record) }
    try applyAndFlush(live)
    if !memory.failedPages.isEmpty { try rebuildImage(live) }
    if !isRemoved(.replayFence) { try memory.fence() }
  }

  private func applyAndFlush(_ live: LiveLog) throws(PoolError) {
    let imageOffset = Int(geometry.imageOffset)
    try forEachRecord(of: live) { (record) throws(PoolError) in
      update(record, to: memory, imageOffset: imageOffset)
      updateAnnounced(record, to: memory, imageOffset: imageOffset)
      if !isRemoved(.replayFlush) { flush(record, in: memory, imageOffset: imageOffset) }
      pass(.replayed)
    }
  }

  private func forEachRecord(
    of live: LiveLog, _ body: (LogRecord) throws(PoolError) -> Void
  ) throws(PoolError) {
    var position = superblock.logTail
    while position < live.end {
      if position == live.gap { position = lap(after: position) }
      guard let record = candidate(at: position)?.record else {
        throw .damagedLog(
          path: file.path, fileOffset: geometry.logOffset + position % geometry.logBytes,
          reason: "the log changed while it was read")
      }
      try body(record)
      position = record.header.end
    }
  }

  /// Image pages that failed are whole again where the log has all of their lines.
  private func rebuildImage(_ live: LiveLog) throws(PoolError) {
    let failed = memory.failedPages
    let pageBytes = DurableMemory.pageBytes
    var missing: [Int: UInt64] = [:]
    for offset in failed.offsets { missing[offset] = .max }
    try forEachRecord(of: live) { (record) throws(PoolError) in
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
    try applyAndFlush(live)
    let imageEnd = Int(geometry.imageOffset + geometry.imageBytes)
    try memory.rebuildFailed(in: Int(geometry.imageOffset)..<imageEnd)
  }
}
