// RedoLog: the circular log. Where the next record goes, and its bytes.
//
//      0          tail % bytes            head % bytes            bytes
//      |   free   | live records, oldest  |        free           |
//                   first
//
// Positions count the bytes of log used in this generation and never go back; a record stands at
// its position modulo the size of the log and never reaches over the end of it. Where the rest is
// too short, the next record goes to the next multiple of the size; its header's `previousEnd`
// names the place it would have had, so that the gap is sealed with the record.
//
// Invariants
// 1. tail <= head <= tail + bytes; [tail, head) holds records of this generation only.
// 2. Positions between head and tail + bytes hold no sealed record of this generation at its own
//    position.
// 3. Space before tail is free only after both superblock copies name the tail (rule 2).

import CVolipPersistence

/// Under the gate, as the engine is: its properties need no run-time check of exclusive access.
final class RedoLog {
  private let memory: DurableMemory
  private let offset: Int
  private let poolIdentity: UInt64
  @exclusivity(unchecked) private(set) var bytes: UInt64 = 0
  @exclusivity(unchecked) private(set) var generation: UInt64 = 0
  @exclusivity(unchecked) private(set) var head: UInt64 = 0
  @exclusivity(unchecked) private(set) var tail: UInt64 = 0
  @exclusivity(unchecked) private(set) var lastLsn: UInt64 = 0
  @exclusivity(unchecked) private var livePositions: [UInt64] = []
  /// Header line and extents of the record in hand, aligned to lines; grows to the largest.
  @exclusivity(unchecked) private var staging: UnsafeMutableRawPointer
  @exclusivity(unchecked) private var stagingBytes: Int

  /// An empty log as `superblock` describes it.
  init(_ superblock: Superblock, memory: DurableMemory) {
    self.memory = memory
    offset = Int(superblock.geometry.logOffset)
    poolIdentity = superblock.poolIdentity
    stagingBytes = 1 << 16
    staging = .allocate(byteCount: stagingBytes, alignment: 64)
    restart(superblock)
  }

  /// Empty again, as `superblock` describes it by now.
  func restart(_ superblock: Superblock) {
    precondition(livePositions.isEmpty)
    bytes = superblock.geometry.logBytes
    generation = superblock.generation
    head = superblock.logTail
    tail = superblock.logTail
    lastLsn = superblock.appliedLsn
  }

  deinit {
    staging.deallocate()
  }

  var isEmpty: Bool { head == tail }

  /// Where a record of `recordBytes` would go, or nil while the live records leave no room.
  func reserve(recordBytes: Int) -> UInt64? {
    precondition(recordBytes > 0 && recordBytes % DurableMemory.lineBytes == 0)
    let length = UInt64(recordBytes)
    guard length <= bytes else { return nil }
    let isWithin = head % bytes + length <= bytes
    let position = isWithin ? head : (head / bytes + 1) * bytes
    let isFree = position + roundedUp(length) <= tail + bytes
    return isFree || isRemoved(.logRoom) ? position : nil
  }

  private func roundedUp(_ length: UInt64) -> UInt64 {
    let alignment = UInt64(memory.recordAlignment)
    return (length + alignment - 1) / alignment * alignment
  }

  /// The third step but for its fence: stores the sealed record of a write set at a position that
  /// `reserve` gave.
  ///
  /// - Throws: `.memoryFailed` or `.unreadable` where a page of either side failed: without its
  ///   header there is no record.
  func append(
    _ writeSet: WriteSet, _ workingCopy: WorkingCopy, at position: UInt64
  ) throws(PoolError) -> LogRecord {
    let extentLines = RecordHeader.extentLines(writeSet.extentCount)
    let firstExtent = stage(writeSet, extentLines: extentLines)
    let header = RecordHeader(
      alignmentShift: UInt16(memory.recordAlignment.trailingZeroBitCount), generation: generation,
      lsn: lastLsn + 1, position: position, previousEnd: head,
      extentCount: writeSet.extentCount, lineCount: writeSet.lineCount,
      firstExtent: firstExtent)
    header.encode(to: staging)

    let start = offset + Int(position % bytes)
    var seal = cvp_seal()
    cvp_seal_begin(
      &seal,
      RecordHeader.seed(poolIdentity: poolIdentity, generation: generation, lsn: header.lsn))
    cvp_seal_lines(&seal, staging, 1)
    memory.storeSealedLines(&seal, at: start + 64, from: staging + 64, count: extentLines)
    var target = start + (1 + extentLines) * DurableMemory.lineBytes
    writeSet.forEachExtent { extent in
      let lines = workingCopy.line(extent.firstLine)
      memory.storeSealedLines(&seal, at: target, from: lines, count: extent.lineCount)
      target += extent.lineCount * DurableMemory.lineBytes
    }
    precondition(target == start + header.recordBytes)
    try workingCopy.requireWhole()
    try memory.requireWhole()
    // SAFETY: the header's line in staging.
    if !isRemoved(.recordSeal) {
      staging.storeBytes(
        of: cvp_seal_value(&seal).littleEndian, toByteOffset: RecordHeader.checksumByte,
        as: UInt64.self)
    }
    memory.storeLine(at: start, from: staging)
    head = header.end
    lastLsn = header.lsn
    livePositions.append(position)
    return LogRecord(header: header, start: UnsafeRawPointer(memory.address(start)))
  }

  /// Puts the extents after the first into the lines behind the staged header. Returns the first.
  private func stage(_ writeSet: WriteSet, extentLines: Int) -> LineExtent {
    let needed = (1 + extentLines) * DurableMemory.lineBytes
    if needed > stagingBytes {
      staging.deallocate()
      stagingBytes = needed * 2
      staging = .allocate(byteCount: stagingBytes, alignment: 64)
    }
    var index = 0
    var first = LineExtent(firstLine: 0, lineCount: 0)
    // SAFETY: extentCount was counted by the same walk, so words stay within `needed` bytes.
    writeSet.forEachExtent { extent in
      if index == 0 {
        first = extent
      } else {
        staging.storeBytes(
          of: extent.word.littleEndian, toByteOffset: 56 + index * 8, as: UInt64.self)
      }
      index += 1
    }
    precondition(index == writeSet.extentCount)
    for filler in index..<max(index, 1 + extentLines * 8) {
      staging.storeBytes(of: UInt64(0), toByteOffset: 56 + filler * 8, as: UInt64.self)
    }
    return first
  }

  /// Calls `body` for each live record, oldest first. Their positions are remembered: a gap may
  /// hold bytes of an earlier lap that look like a header.
  func forEachLive(_ body: (LogRecord) -> Void) {
    for position in livePositions {
      let start = UnsafeRawPointer(memory.address(offset + Int(position % bytes)))
      guard let (header, _) = RecordHeader.decode(from: start), header.position == position else {
        precondition(!memory.failedPages.isEmpty, "a live record of the log was overwritten")
        return
      }
      body(LogRecord(header: header, start: start))
    }
  }

  /// Frees the space of all records. Both superblock copies name the head as the tail by now.
  func removeAll() {
    tail = head
    livePositions.removeAll(keepingCapacity: true)
  }
}
