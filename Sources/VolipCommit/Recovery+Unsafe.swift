// Recovery: from a pool file after any crash to an image with every sealed record applied.
//
//   scan       every record from the tail on, in order, until there is no next one
//   judge      a sealed record further on is damage: nothing is applied (rule 11)
//   replay     the same update as the commit's, then flush
//   checkpoint one fence; both superblock copies, log empty, generation raised (rule 3)
//
// The file is a stranger's: each number is bounded before it is used (rule 21). A crash in here
// leaves the log as it was, and the next open does it all again.

import CVolipPersistence

struct RecoverySummary: Equatable {
  var recordCount = 0
  var replayedBytes: UInt64 = 0
}

struct Recovery {
  let file: PoolFile
  let memory: DurableMemory
  private let superblock: Superblock
  private let geometry: PoolGeometry
  private let logEnd: UInt64

  init(_ file: PoolFile, _ memory: DurableMemory) {
    self.file = file
    self.memory = memory
    superblock = file.superblock
    geometry = superblock.geometry
    logEnd = superblock.logTail + superblock.geometry.logBytes
  }

  func run() throws(PoolError) -> RecoverySummary {
    var summary = RecoverySummary()
    let (end, lastLsn) = scan { record in
      summary.recordCount += 1
      summary.replayedBytes += UInt64(record.header.recordBytes)
    }
    try judge(beyond: end, lastLsn: lastLsn)
    try replay()
    var next = superblock
    next.sequence += 1
    next.generation += 1
    next.appliedLsn = lastLsn
    next.logTail = 0
    try file.write(next, through: memory)
    return summary
  }

  /// Walks the sealed records in order. Returns where the next one would be and the last lsn.
  private func scan(_ body: (LogRecord) -> Void) -> (end: UInt64, lastLsn: UInt64) {
    var end = superblock.logTail
    var lsn = superblock.appliedLsn
    while let record = next(after: end, lsn: lsn) {
      body(record)
      end = record.header.end
      lsn = record.header.lsn
    }
    return (end, lsn)
  }

  /// The record that follows one that ended at `end`: there, or at the start of the next lap.
  private func next(after end: UInt64, lsn: UInt64) -> LogRecord? {
    for position in [end, (end / geometry.logBytes + 1) * geometry.logBytes] {
      if let record = candidate(at: position), record.header.lsn == lsn + 1,
        record.header.previousEnd == end, isSealed(record)
      {
        return record
      }
    }
    return nil
  }

  /// A header of this generation that belongs at this position and lies within the live log.
  private func candidate(at position: UInt64) -> LogRecord? {
    guard position + UInt64(DurableMemory.lineBytes) <= logEnd else { return nil }
    let inLog = position % geometry.logBytes
    // SAFETY: inLog is less than logBytes, and the mapping was checked to hold the log.
    let start = UnsafeRawPointer(memory.address(Int(geometry.logOffset + inLog)))
    guard let (header, _) = RecordHeader.decode(from: start),
      header.generation == superblock.generation, header.position == position,
      UInt64(header.recordBytes) <= geometry.logBytes - inLog, header.end <= logEnd
    else { return nil }
    return LogRecord(header: header, start: start)
  }

  private func isSealed(_ record: LogRecord) -> Bool {
    record.extentsFit(imageLines: geometry.imageBytes / UInt64(DurableMemory.lineBytes))
      && RecordHeader.decode(from: record.start)?.seal
        == record.expectedSeal(poolIdentity: superblock.poolIdentity)
  }

  /// Looks at every line of the live log behind the last record. What is sealed there was committed
  /// after a record that is gone.
  private func judge(beyond end: UInt64, lastLsn: UInt64) throws(PoolError) {
    // Every candidate's bytes are read once for its checksum; true ones do not overlap, so more
    // than this is a forgery.
    var budget = geometry.logBytes * 2
    var position = end
    while position < logEnd {
      if let record = candidate(at: position), record.header.lsn > lastLsn {
        let length = UInt64(record.header.recordBytes)
        guard length <= budget, !isSealed(record) else {
          throw .damagedLog(
            path: file.path, fileOffset: geometry.logOffset + end % geometry.logBytes,
            reason: "no record \(lastLsn + 1) here, but record \(record.header.lsn) at byte "
              + "\(geometry.logOffset + position % geometry.logBytes)")
        }
        budget -= length
      }
      position += UInt64(DurableMemory.lineBytes)
    }
  }

  private func replay() throws(PoolError) {
    let imageOffset = Int(geometry.imageOffset)
    let blocks = try ImageBlocks(file)
    var failure: PoolError?
    _ = scan { record in
      guard failure == nil else { return }
      do throws(PoolError) {
        try blocks.allocate(record)
        update(record, to: memory, imageOffset: imageOffset)
        flush(record, in: memory, imageOffset: imageOffset)
      } catch {
        failure = error
      }
    }
    if let failure { throw failure }
    try memory.fence()
  }
}
