// LogFollower: reads a log while another process writes it, and takes a copy of each record.
//
// Invariants
// 1. A record is believed as it stands in our own memory, not as it was in the log a moment ago.
// 2. What the writer did before `drain` was called is taken when it returns: where the log was used
//    again before its records were read, `drain` throws and nothing that was taken is used. Stamps
//    that a superblock calls applied have no gaps, so that one that was missed is noticed.
// 3. What is used ends at the last stamp that was found in a first look at all lanes. A second look
//    takes whatever those records saw: it was durable before they were drawn, perhaps in a lane
//    that had been looked at by then.

import CVolipPersistence

final class LogFollower {
  private let file: PoolFile
  private let memory: DurableMemory
  private var scans: [LogScan]
  private let firstApplied: UInt64
  /// Copies, by their stamps.
  private var taken: [UInt64: LogRecord] = [:]
  /// Of the last section that is used.
  private(set) var lastLsn: UInt64

  /// Superblocks that come one after the other while a log is looked at.
  private static let roundsMax = 100

  /// - Parameters:
  ///   - file: a view.
  ///   - memory: a shared view of it.
  init(_ file: PoolFile, _ memory: DurableMemory) {
    self.file = file
    self.memory = memory
    scans = LogScan.all(of: file, memory)
    firstApplied = file.superblock.appliedLsn
    lastLsn = firstApplied
  }

  deinit {
    for record in taken.values { UnsafeMutableRawPointer(mutating: record.start).deallocate() }
  }

  /// What was taken, oldest first.
  var records: [LogRecord] {
    taken.values.filter { $0.header.lsn <= lastLsn }.sorted { $0.header.lsn < $1.header.lsn }
  }

  /// The log was used again before its records were read, or the pool has other parts now.
  private var overtaken: PoolError { .inUse(path: file.path) }

  /// Takes every record that is in the log when it is called, and perhaps some more.
  ///
  /// - Throws: `.inUse` when the writer was faster.
  func drain() throws(PoolError) {
    for _ in 0..<Self.roundsMax {
      try look()
      let newest = taken.keys.max() ?? lastLsn
      try look()
      if try !followSuperblock() {
        lastLsn = max(newest, file.superblock.appliedLsn)
        return
      }
    }
    throw overtaken
  }

  /// Takes what follows in each lane. A log has no more than its size behind its tail.
  private func look() throws(PoolError) {
    for index in 0..<scans.count {
      while let record = scans[index].next {
        if taken[record.header.lsn] == nil {
          taken[record.header.lsn] = try take(record, of: scans[index])
        }
        scans[index].goBehind(record.header)
      }
    }
  }

  /// Copies a record, and looks at the copy as recovery looked at the record.
  private func take(_ record: LogRecord, of scan: LogScan) throws(PoolError) -> LogRecord {
    let copy = UnsafeMutableRawPointer.allocate(
      byteCount: record.header.recordBytes, alignment: DurableMemory.lineBytes)
    // SAFETY: the scan bounded the record by the end of its region, which is mapped.
    copy.copyMemory(from: record.start, byteCount: record.header.recordBytes)
    let decoded = RecordHeader.decode(
      from: copy, at: record.header.position, generation: record.header.generation)
    let taken = LogRecord(header: record.header, start: UnsafeRawPointer(copy))
    let imageLines = file.superblock.geometry.imageBytes / UInt64(DurableMemory.lineBytes)
    guard let (header, seal) = decoded, header == record.header,
      taken.extentsFit(imageLines: imageLines),
      seal == taken.expectedSeal(poolIdentity: scan.region.identity)
    else {
      copy.deallocate()
      throw overtaken
    }
    return taken
  }

  /// Reads the superblock again, after no next record was found.
  ///
  /// - Returns: whether records may be found now where none could be before.
  private func followSuperblock() throws(PoolError) -> Bool {
    let before = file.superblock
    try file.refresh()
    let now = file.superblock
    guard now != before else { return false }
    let applied = taken.keys.reduce(0) { $0 + ($1 <= now.appliedLsn ? 1 : 0) }
    guard hasSameParts(now.geometry, before.geometry), now.appliedLsn >= firstApplied,
      UInt64(applied) == now.appliedLsn - firstApplied
    else { throw overtaken }
    // The log goes on anywhere, as one or in lanes.
    scans = LogScan.all(of: file, memory)
    return true
  }

  /// The log may grow; growth of the image is another pool to copy.
  private func hasSameParts(_ one: PoolGeometry, _ other: PoolGeometry) -> Bool {
    var one = one
    one.logBytes = other.logBytes
    return one == other
  }
}
