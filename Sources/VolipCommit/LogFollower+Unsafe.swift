// LogFollower: reads a log while another process writes it, and takes a copy of each record.
//
// Invariants
// 1. A record is believed as it stands in our own memory, not as it was in the log a moment ago.
// 2. The records taken follow each other without a gap; where the log was used again before its
//    records were read, `drain` throws and nothing that was taken is used.
// 3. What the writer did before `drain` was called is taken when it returns: a record that was
//    sealed by then stood in the log until a superblock named a later one as applied, and the
//    superblock is read after the place where the record would be.

import CVolipPersistence

final class LogFollower {
  private let file: PoolFile
  private let memory: DurableMemory
  /// Of the superblock that was read last.
  private var recovery: Recovery
  private var superblock: Superblock
  private var live: Recovery.LiveLog
  /// Copies, oldest first.
  private(set) var records: [LogRecord] = []

  /// - Parameters:
  ///   - file: a view.
  ///   - memory: a shared view of it.
  init(_ file: PoolFile, _ memory: DurableMemory) {
    self.file = file
    self.memory = memory
    superblock = file.superblock
    recovery = Recovery(file, memory)
    live = Recovery.LiveLog(end: superblock.logTail, lastLsn: superblock.appliedLsn)
  }

  deinit {
    for record in records { UnsafeMutableRawPointer(mutating: record.start).deallocate() }
  }

  var lastLsn: UInt64 { live.lastLsn }

  /// The log was used again before its records were read, or the pool has other parts now.
  private var overtaken: PoolError { .inUse(path: file.path) }

  /// Takes every record that is in the log when it is called, and perhaps some more.
  ///
  /// - Throws: `.inUse` when the writer was faster.
  func drain() throws(PoolError) {
    // A log has no more than its size at a time; nobody is followed without end.
    var end = live.end + superblock.geometry.logBytes
    repeat {
      while live.end < end, let record = recovery.next(in: live) {
        let copy = try take(record)
        records.append(copy)
        if copy.header.position != live.end { live.gap = live.end }
        live.end = copy.header.end
        live.lastLsn = copy.header.lsn
      }
      if live.end >= end { return }
    } while try followSuperblock(&end)
  }

  /// Copies a record, and looks at the copy as recovery looked at the record.
  private func take(_ record: LogRecord) throws(PoolError) -> LogRecord {
    let copy = UnsafeMutableRawPointer.allocate(
      byteCount: record.header.recordBytes, alignment: DurableMemory.lineBytes)
    // SAFETY: recovery bounded the record by the end of the log, which is mapped.
    copy.copyMemory(from: record.start, byteCount: record.header.recordBytes)
    let decoded = RecordHeader.decode(
      from: copy, at: record.header.position, generation: record.header.generation)
    let taken = LogRecord(header: record.header, start: UnsafeRawPointer(copy))
    let imageLines = superblock.geometry.imageBytes / UInt64(DurableMemory.lineBytes)
    guard let (header, seal) = decoded, header == record.header,
      taken.extentsFit(imageLines: imageLines),
      seal == taken.expectedSeal(poolIdentity: superblock.poolIdentity)
    else {
      copy.deallocate()
      throw overtaken
    }
    return taken
  }

  /// Reads the superblock again, after no next record was found.
  ///
  /// - Returns: whether records may be found now where none could be before.
  private func followSuperblock(_ end: inout UInt64) throws(PoolError) -> Bool {
    let before = superblock
    try file.refresh()
    superblock = file.superblock
    guard hasSameParts(superblock.geometry, before.geometry), superblock.appliedLsn <= live.lastLsn
    else { throw overtaken }
    guard superblock != before else { return false }
    recovery = Recovery(file, memory)
    if superblock.appliedLsn == live.lastLsn {
      // Everything that was taken is in the image; the log may go on at another place.
      if superblock.logTail != live.end || superblock.generation != before.generation {
        live = Recovery.LiveLog(end: superblock.logTail, lastLsn: live.lastLsn)
        end = live.end + superblock.geometry.logBytes
      }
    } else if superblock.generation != before.generation
      || superblock.geometry.logBytes != before.geometry.logBytes
    {
      throw overtaken
    }
    return true
  }

  /// The log may grow; growth of the image is another pool to copy.
  private func hasSameParts(_ one: PoolGeometry, _ other: PoolGeometry) -> Bool {
    var one = one
    one.logBytes = other.logBytes
    return one == other
  }
}
