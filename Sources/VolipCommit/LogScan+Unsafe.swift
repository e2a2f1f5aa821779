// LogScan: what recovery finds in a region of the log: the sealed records from the tail on.
//
// The region is a stranger's: each number is bounded before it is used (rule 21).
//
// Invariants
// 1. A record counts if it begins where the one before ended, or at the next lap and says so; has
//    this generation; follows in lsn; and has its seal. The first that does not ends the walk.
// 2. A sealed record behind the first that is missing is damage, unless that one and all between
//    were stored without a fence in between: sections that were buffered when power went.
// 3. In the log as a whole lsns have no gaps. In a lane they ascend: the gaps are other lanes'.

import CVolipPersistence

struct LogScan {
  let file: PoolFile
  let memory: DurableMemory
  private let superblock: Superblock
  let region: LogRegion
  private let isLane: Bool
  private let limit: UInt64
  /// Where the last record ended, and its lsn.
  private(set) var end: UInt64
  private(set) var lastLsn: UInt64
  /// Where the record before the next lap ended. Live records are no longer than the region, so
  /// that it has one place at most where they go on at a lap.
  private var gap: UInt64?

  private init(_ file: PoolFile, _ memory: DurableMemory, _ region: LogRegion, isLane: Bool) {
    (self.file, self.memory, self.region, self.isLane) = (file, memory, region, isLane)
    superblock = file.superblock
    limit = region.tail + region.bytes
    end = region.tail
    lastLsn = superblock.appliedLsn
  }

  /// The log as a whole, or its lanes.
  static func all(of file: PoolFile, _ memory: DurableMemory) -> [LogScan] {
    let superblock = file.superblock
    guard let table = superblock.lanes else {
      return [LogScan(file, memory, superblock.logRegion, isLane: false)]
    }
    return (0..<table.count).map {
      LogScan(file, memory, superblock.laneRegion($0, of: table), isLane: true)
    }
  }

  var isEmpty: Bool { end == region.tail }

  /// Walks the sealed records in order, as far as there are any.
  mutating func walk(_ body: (LogRecord) -> Void) {
    while let record = next {
      body(record)
      goBehind(record.header)
    }
  }

  /// The record that follows what was found so far: at its end, or at the start of the next lap.
  var next: LogRecord? {
    sealedRecord(at: end) ?? sealedRecord(at: region.lap(after: end))
  }

  mutating func goBehind(_ header: RecordHeader) {
    if header.position != end { gap = end }
    end = header.end
    lastLsn = header.lsn
  }

  private func sealedRecord(at position: UInt64) -> LogRecord? {
    guard let candidate = candidate(at: position), follows(candidate.record.header.lsn),
      candidate.record.header.previousEnd == end || isRemoved(.previousEndCheck),
      isSealed(candidate)
    else { return nil }
    return candidate.record
  }

  private func follows(_ lsn: UInt64) -> Bool {
    if isLane { return lsn > lastLsn || isRemoved(.laneLsnCheck) }
    return lsn == lastLsn + 1 || isRemoved(.lsnCheck)
  }

  private struct Candidate {
    let record: LogRecord
    /// What the record says its checksum is.
    let seal: UInt64
  }

  /// A header of this generation that belongs at this position and lies within the live log.
  private func candidate(at position: UInt64) -> Candidate? {
    guard position + UInt64(DurableMemory.lineBytes) <= limit else { return nil }
    let inRegion = position % region.bytes
    // SAFETY: inRegion is less than the region's bytes; the mapping was checked to hold the log.
    let start = UnsafeRawPointer(memory.address(region.start(of: position)))
    let decoded = RecordHeader.decode(
      from: start, at: position, generation: superblock.generation)
    guard let (header, seal) = decoded,
      header.generation == superblock.generation || isRemoved(.generationCheck),
      header.position == position || isRemoved(.positionCheck),
      UInt64(header.recordBytes) <= region.bytes - inRegion || isRemoved(.recordBounds),
      header.end <= limit || isRemoved(.recordBounds)
    else { return nil }
    return Candidate(record: LogRecord(header: header, start: start), seal: seal)
  }

  private func isSealed(_ candidate: Candidate) -> Bool {
    let imageLines = superblock.geometry.imageBytes / UInt64(DurableMemory.lineBytes)
    let seal = candidate.record.expectedSeal(poolIdentity: region.identity)
    return (candidate.record.extentsFit(imageLines: imageLines) || isRemoved(.extentBounds))
      && (candidate.seal == seal || isRemoved(.sealCheck))
  }

  /// Looks at every line of the live log behind the last record. What is sealed there was committed
  /// after a record that is gone.
  func judgeBeyond() throws(PoolError) {
    // Every candidate's bytes are read once for its checksum; true ones do not overlap, so more
    // than this is a forgery.
    var budget = region.bytes * 2
    var position = end
    // A log may be long and hardly written: holes of the file are not read. They are asked for
    // before the walk, because what the kernel reads ahead of it are holes no more.
    let log = region.offset..<region.offset + region.bytes
    let parts = file.dataParts(in: log)
    while position < limit {
      let byte = UInt64(region.start(of: position))
      let next = parts.first { $0.upperBound > byte }
      if (next?.lowerBound ?? log.upperBound) > byte {
        position += (next?.lowerBound ?? log.upperBound) - byte
        continue
      }
      if let candidate = candidate(at: position), isLater(candidate.record.header) {
        let header = candidate.record.header
        let length = UInt64(header.recordBytes)
        guard length <= budget, !isSealed(candidate) else {
          throw .damagedLog(
            path: file.path, fileOffset: UInt64(region.start(of: end)),
            reason: "no record after \(lastLsn) here, but record \(header.lsn) at byte "
              + "\(region.start(of: position))")
        }
        budget -= length
      }
      position += UInt64(DurableMemory.lineBytes)
    }
  }

  /// Whether a record, if it is sealed, shows that the next one was durable.
  private func isLater(_ header: RecordHeader) -> Bool {
    guard header.lsn > lastLsn else { return false }
    let isBuffered = header.unfencedCount > 0 && !isRemoved(.openEpochJudgement)
    return !isBuffered || header.lsn > lastLsn + 1 + UInt64(header.unfencedCount)
  }

  /// Makes the records durable, with the next fence: they can be read, and may be on no disk.
  func storeAgain() {
    let boundary = region.lap(after: region.tail)
    for part in [region.tail..<min(end, boundary), boundary..<max(end, boundary)]
    where !part.isEmpty {
      let start = region.start(of: part.lowerBound)
      memory.storeAgain(start..<start + part.count)
    }
  }

  /// The record at a position of the walk, and nothing that the walk checked is checked again. Nil
  /// at its end.
  func record(at position: UInt64) throws(PoolError) -> LogRecord? {
    guard position < end else { return nil }
    let position = position == gap ? region.lap(after: position) : position
    guard let record = candidate(at: position)?.record else {
      throw .damagedLog(
        path: file.path, fileOffset: UInt64(region.start(of: position)),
        reason: "the log changed while it was read")
    }
    return record
  }
}

/// The records of all regions, each once, in the order of their lsns (rule 7).
func forEachRecord(
  of scans: [LogScan], _ body: (LogRecord) throws(PoolError) -> Void
) throws(PoolError) {
  var next: [LogRecord?] = []
  for scan in scans { next.append(try scan.record(at: scan.region.tail)) }
  while true {
    var first: Int?
    for index in 0..<next.count {
      guard let lsn = next[index]?.header.lsn else { continue }
      if first == nil || lsn < next[first!]!.header.lsn && !isRemoved(.laneOrder) { first = index }
    }
    guard let first, let record = next[first] else { return }
    try body(record)
    next[first] = try scans[first].record(at: record.header.end)
  }
}
