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
// 3. The last `unfencedCount` live records are stored and not durable: sections that are buffered.
//    Nothing of them is in the image.
// 4. Space before tail is free only after both superblock copies name the tail (rule 2).

import CVolipPersistence

/// Under the gate, as the engine is: its properties need no run-time check of exclusive access. A
/// lane's belongs to the thread that has the lane; others see what the lane publishes (Lane.swift).
final class RedoLog {
  private let memory: DurableMemory
  @exclusivity(unchecked) private(set) var region: LogRegion
  @exclusivity(unchecked) private(set) var generation: UInt64 = 0
  @exclusivity(unchecked) private(set) var head: UInt64 = 0
  /// For a lane as its owner last saw it.
  @exclusivity(unchecked) var tail: UInt64 = 0
  @exclusivity(unchecked) private(set) var lastLsn: UInt64 = 0
  @exclusivity(unchecked) private(set) var livePositions: [UInt64] = []
  /// Live records that were stored since the last fence.
  @exclusivity(unchecked) private(set) var unfencedCount = 0
  /// Live records, oldest first, whose announced writes are in the image.
  @exclusivity(unchecked) private var updatedCount = 0
  /// Header, announced words and extents of the record in hand, aligned to lines; grows to the
  /// largest.
  @exclusivity(unchecked) private var staging: UnsafeMutableRawPointer
  @exclusivity(unchecked) private var stagingBytes: Int
  /// Announced words that are staged, and where they begin: as the compact form has them if the
  /// record has no lines.
  @exclusivity(unchecked) private var announcedWords = 0
  @exclusivity(unchecked) private var announcedByte = 0

  /// An empty log in a region, as `superblock` describes the pool.
  init(_ superblock: Superblock, _ region: LogRegion, memory: DurableMemory) {
    self.memory = memory
    self.region = region
    stagingBytes = 1 << 16
    staging = .allocate(byteCount: stagingBytes, alignment: 64)
    restart(superblock, region)
  }

  /// Empty again, as `superblock` describes it by now.
  func restart(_ superblock: Superblock, _ region: LogRegion) {
    precondition(livePositions.isEmpty)
    self.region = region
    generation = superblock.generation
    head = region.tail
    tail = region.tail
    lastLsn = superblock.appliedLsn
  }

  /// An empty log goes on elsewhere.
  func moveEmpty(to position: UInt64) {
    precondition(livePositions.isEmpty)
    (head, tail) = (position, position)
  }

  var bytes: UInt64 { region.bytes }

  deinit {
    staging.deallocate()
  }

  var isEmpty: Bool { head == tail }

  /// Where a record of `recordBytes` would go, or nil while the live records leave no room.
  func reserve(recordBytes: Int) -> UInt64? {
    precondition(recordBytes > 0 && recordBytes % DurableMemory.lineBytes == 0)
    let length = UInt64(recordBytes)
    guard length <= min(bytes, Self.recordBytesMax) else { return nil }
    let isWithin = head % bytes + length <= bytes
    let position = isWithin ? head : (head / bytes + 1) * bytes
    let isFree = position + roundedUp(length) <= tail + bytes
    return isFree || isRemoved(.logRoom) ? position : nil
  }

  private func roundedUp(_ length: UInt64) -> UInt64 {
    let alignment = UInt64(memory.recordAlignment)
    return (length + alignment - 1) / alignment * alignment
  }

  /// Stages the announced writes as they are in working memory now (rule 4: what is staged is what
  /// is sealed and stored), and finds a place for the record. Nil while there is none.
  func place(_ writeSet: WriteSet, _ announced: AnnouncedWrites) -> UInt64? {
    stageAnnounced(announced, at: writeSet.lineCount == 0 ? RecordHeader.compactBytes : 64)
    if writeSet.lineCount == 0,
      let position = reserve(
        recordBytes: RecordHeader.compactRecordBytes(announcedWords: announcedWords)),
      position == head
    {
      return position
    }
    return reserve(recordBytes: recordBytes(writeSet))
  }

  /// Bytes of the staged record in the general form, the larger one.
  func recordBytes(_ writeSet: WriteSet) -> Int {
    RecordHeader.recordBytes(
      extentCount: writeSet.extentCount, lineCount: writeSet.lineCount,
      announcedWords: announcedWords)
  }

  /// The third step but for its fence: stores the sealed record of a write set and of the announced
  /// writes at the position that `place` gave.
  ///
  /// - Throws: `.memoryFailed` or `.unreadable` where a page of either side failed: without its
  ///   header there is no record.
  func append(
    _ writeSet: WriteSet, _ workingCopy: WorkingCopy, at position: UInt64, lsn: UInt64,
    threads: CommitThreads? = nil
  ) throws(PoolError) -> LogRecord {
    precondition(lsn > lastLsn)
    let header = header(of: writeSet, at: position, lsn: lsn)
    let staged = header.recordBytes / 64 - writeSet.lineCount
    let start = region.start(of: position)
    var seal = cvp_seal()
    cvp_seal_begin(&seal, header.seed(poolIdentity: region.identity))
    cvp_seal_lines(&seal, staging, 1)
    memory.storeSealedLines(&seal, at: start + 64, from: staging + 64, count: staged - 1)
    let target = start + staged * DurableMemory.lineBytes
    if let threads {
      storeLines(of: writeSet, workingCopy, sealing: &seal, at: target, threads)
    } else {
      let indexes = 0..<writeSet.pageCount
      storeLines(ofPages: indexes, writeSet, workingCopy, sealing: &seal, at: target, memory)
    }
    precondition(Int(seal.line_count) * DurableMemory.lineBytes == header.recordBytes)
    try workingCopy.requireWhole()
    try memory.requireWhole()
    // SAFETY: the header's line in staging.
    if !isRemoved(.recordSeal) {
      staging.storeBytes(
        of: cvp_seal_value(&seal).littleEndian, toByteOffset: header.sealByte, as: UInt64.self)
    }
    memory.storeLine(at: start, from: staging)
    head = header.end
    lastLsn = header.lsn
    return LogRecord(header: header, start: UnsafeRawPointer(memory.address(start)))
  }

  /// Stores the changed lines of some pages of a write set, by their indexes.
  @inline(__always)
  private func storeLines(
    ofPages indexes: Range<Int>, _ writeSet: WriteSet, _ workingCopy: WorkingCopy,
    sealing seal: inout cvp_seal, at target: Int, _ memory: DurableMemory
  ) {
    var target = target
    writeSet.forEachExtent(ofPages: indexes) { extent in
      let lines = workingCopy.line(extent.firstLine)
      memory.storeSealedLines(&seal, at: target, from: lines, count: extent.lineCount)
      target += extent.lineCount * DurableMemory.lineBytes
    }
  }

  /// The same for all pages, by several threads: each chunk has a part of the seal, and each thread
  /// drains what it stored.
  private func storeLines(
    of writeSet: WriteSet, _ workingCopy: WorkingCopy, sealing seal: inout cvp_seal, at target: Int,
    _ threads: CommitThreads
  ) {
    let firstLine = Int(seal.line_count)
    let views = (0..<threads.count).map { _ in DurableMemory(viewOf: memory) }
    let partCount = threads.chunkCount(of: writeSet.pageCount)
    let parts = UnsafeMutablePointer<cvp_seal>.allocate(capacity: partCount)
    defer { parts.deallocate() }
    threads.forEachChunk(of: writeSet.pageCount) { chunk, indexes, thread in
      let linesBefore = writeSet.lineCount(ofPages: 0..<indexes.lowerBound)
      // SAFETY: a place for each chunk; no two have the same.
      let part = parts + chunk
      cvp_seal_begin_part(part, UInt64(firstLine + linesBefore))
      storeLines(
        ofPages: indexes, writeSet, workingCopy, sealing: &part.pointee,
        at: target + linesBefore * DurableMemory.lineBytes, views[thread])
      views[thread].drain()
    }
    for chunk in 0..<partCount { cvp_seal_add_part(&seal, parts + chunk) }
    for view in views { memory.adopt(view) }
  }

  /// Remembers a record until the checkpoint.
  func noteLive(_ record: LogRecord) {
    // Lines are in the image as soon as their section has ended.
    if record.header.announcedWords == 0, !isAheadOfImage { updatedCount += 1 }
    livePositions.append(record.header.position)
  }

  /// The record that was stored last is not durable before the next fence.
  func noteUnfenced() { unfencedCount += 1 }

  /// A fence has made all records durable.
  func noteFence() { unfencedCount = 0 }

  /// Stages header and extents before and behind the announced words.
  private func header(
    of writeSet: WriteSet, at position: UInt64, lsn: UInt64
  ) -> RecordHeader {
    let shift = UInt16(memory.recordAlignment.trailingZeroBitCount)
    var header: RecordHeader
    if position == head, writeSet.lineCount == 0 {
      header = RecordHeader(
        alignmentShift: shift, generation: generation, lsn: lsn, position: position,
        announcedWords: announcedWords)
    } else {
      moveAnnounced(to: 64)
      let firstExtent = stageExtents(writeSet)
      header = RecordHeader(
        alignmentShift: shift, generation: generation, lsn: lsn, position: position,
        previousEnd: head, extentCount: writeSet.extentCount, lineCount: writeSet.lineCount,
        firstExtent: firstExtent, announcedWords: announcedWords)
    }
    header.unfencedCount = unfencedCount
    header.encode(to: staging)
    return header
  }

  /// What a header can count.
  static let recordBytesMax = UInt64(RecordHeader.announcedWordsMax) * 8

  // MARK: Staging

  /// Makes room for `needed` staged bytes; what is staged stays.
  @inline(__always)
  private func extendStaging(to needed: Int) {
    if needed > stagingBytes { growStaging(to: needed) }
  }

  @inline(never)
  private func growStaging(to needed: Int) {
    let larger = UnsafeMutableRawPointer.allocate(byteCount: needed * 2, alignment: 64)
    larger.copyMemory(from: staging, byteCount: stagingBytes)
    staging.deallocate()
    (staging, stagingBytes) = (larger, needed * 2)
  }

  /// Puts the announced extents and their bytes to `start`, and zeros up to a whole line.
  private func stageAnnounced(_ announced: AnnouncedWrites, at start: Int) {
    var byte = start
    announced.forEach { extent, source in
      // A line for the zeros.
      extendStaging(to: byte + 16 + extent.byteCount + DurableMemory.lineBytes)
      // SAFETY: there is room; an announced extent lies in the working copy.
      let target = staging + byte
      target.storeBytes(of: extent.word.littleEndian, as: UInt64.self)
      if extent.byteCount == 8 {
        (target + 8).storeBytes(of: source.loadUnaligned(as: UInt64.self), as: UInt64.self)
      } else {
        let last = extent.words * 8
        (target + last).storeBytes(of: 0, as: UInt64.self)
        (target + 8).copyMemory(from: source, byteCount: extent.byteCount)
      }
      byte += 8 + extent.words * 8
    }
    announcedByte = start
    announcedWords = (byte - start) / 8
    // Of the record in hand only: the general form may begin with other bytes in this line.
    let end = (byte + 63) / 64 * 64
    (staging + byte).initializeMemory(as: UInt8.self, repeating: 0, count: end - byte)
  }

  /// Moves the announced words to where another form has them: where a record goes to the next lap,
  /// once in a round of the log.
  private func moveAnnounced(to start: Int) {
    guard announcedByte != start, announcedWords > 0 else { return }
    let end = start + announcedWords * 8
    extendStaging(to: end + DurableMemory.lineBytes)
    // SAFETY: both ranges are within staging.
    (staging + start).copyMemory(from: staging + announcedByte, byteCount: announcedWords * 8)
    let filled = (end + 63) / 64 * 64
    (staging + end).initializeMemory(as: UInt8.self, repeating: 0, count: filled - end)
    announcedByte = start
  }

  /// Puts the extents into the lines behind the header and the announced words, without these but
  /// for the first, which it returns.
  private func stageExtents(_ writeSet: WriteSet) -> LineExtent {
    let hasFirst = announcedWords == 0
    let start = (1 + RecordHeader.announcedLines(announcedWords)) * DurableMemory.lineBytes
    let lines = RecordHeader.extentLines(writeSet.extentCount, announcedWords: announcedWords)
    let end = start + lines * DurableMemory.lineBytes
    extendStaging(to: end)
    var byte = hasFirst ? start - 8 : start
    var first = LineExtent(firstLine: 0, lineCount: 0)
    // SAFETY: extentCount was counted by the same walk, so words stay below `end`.
    writeSet.forEachExtent { extent in
      if byte < start {
        first = extent
      } else {
        staging.storeBytes(of: extent.word.littleEndian, toByteOffset: byte, as: UInt64.self)
      }
      byte += 8
    }
    precondition(byte == start + (writeSet.extentCount - (hasFirst ? 1 : 0)) * 8)
    for filler in stride(from: byte, to: end, by: 8) {
      staging.storeBytes(of: UInt64(0), toByteOffset: filler, as: UInt64.self)
    }
    return first
  }

  // MARK: Live records

  /// Calls `body` for each live record, oldest first. Their positions are remembered: a gap may
  /// hold bytes of an earlier lap that look like a header.
  func forEachLive(_ body: (LogRecord) -> Void) {
    for position in livePositions {
      guard let record = liveRecord(at: position) else { return }
      body(record)
    }
  }

  func liveRecord(at position: UInt64) -> LogRecord? { liveRecord(at: position, in: memory) }

  /// The same through another mapping of the file.
  func liveRecord(at position: UInt64, in memory: DurableMemory) -> LogRecord? {
    let record = reader(of: memory).record(at: position)
    precondition(
      record != nil || !memory.failedPages.isEmpty, "a live record of the log was overwritten")
    return record
  }

  /// For walks through the live records, while the log stays where it is.
  func reader(of memory: DurableMemory) -> LogReader {
    LogReader(base: UnsafeRawPointer(memory.base), region: region, generation: generation)
  }

  /// Whether live records have announced writes that are not in the image yet.
  var isAheadOfImage: Bool { updatedCount < livePositions.count }

  /// Calls `body` for each live record whose announced writes are not in the image yet.
  /// `ahead` is called for some of them before: small records have a line of the image each, which
  /// is nowhere near the processor.
  func updateAnnounced(
    ahead: (LogRecord) -> Void, _ body: (LogRecord) -> Void
  ) {
    var records: [LogRecord] = []
    while updatedCount < livePositions.count {
      for position in livePositions[updatedCount...].prefix(Self.recordsAhead) {
        guard let record = liveRecord(at: position) else { break }
        ahead(record)
        records.append(record)
      }
      guard !records.isEmpty else { return }
      for record in records { body(record) }
      updatedCount += records.count
      records.removeAll(keepingCapacity: true)
    }
  }

  /// As many lines as a core has under way.
  static let recordsAhead = 24

  /// Whether less than half of the log is free.
  var isHalfFull: Bool { head - tail > bytes / 2 }

  /// Frees the space of the oldest records, whose writes are in the image. Both superblock copies
  /// name `position` as the tail by now.
  func remove(_ count: Int, upTo position: UInt64) {
    precondition(count <= updatedCount)
    tail = position
    livePositions.removeFirst(count)
    updatedCount -= count
  }

  /// Frees the space of all records. Both superblock copies name the head as the tail by now.
  func removeAll() {
    tail = head
    livePositions.removeAll(keepingCapacity: true)
    updatedCount = 0
  }
}

/// Reads live records. Without objects: counting references is an atomic change of memory, which
/// waits for every line whose write-back was begun.
struct LogReader {
  // SAFETY: the mapping of the file, which holds the region, and outlives the reader.
  let base: UnsafeRawPointer
  let region: LogRegion
  let generation: UInt64

  /// The record at a position, or nil where its page failed.
  func record(at position: UInt64) -> LogRecord? {
    let start = base + region.start(of: position)
    let decoded = RecordHeader.decode(from: start, at: position, generation: generation)
    guard let (header, _) = decoded, header.position == position else { return nil }
    return LogRecord(header: header, start: start)
  }
}
