// LogRecord: a record where it stands in the log, and the one update function.

import CVolipPersistence
@_exported import VolipWriteSet

/// A whole record in the mapped log whose header was validated against the log's bounds.
struct LogRecord {
  let header: RecordHeader
  let start: UnsafeRawPointer

  private var extents: UnsafeRawPointer {
    // SAFETY: the header's counts were checked against the end of the log.
    start + (1 + RecordHeader.announcedLines(header.announcedWords)) * DurableMemory.lineBytes
  }

  private var lines: UnsafeRawPointer {
    // SAFETY: the header's counts were checked against the end of the log.
    extents
      + RecordHeader.extentLines(header.extentCount, announcedWords: header.announcedWords)
      * DurableMemory.lineBytes
  }

  /// The announced words, as many as the header says.
  private var announcedWords: UnsafeBufferPointer<UInt64> {
    // SAFETY: the header's counts were checked against the end of the log; words are aligned.
    UnsafeBufferPointer(
      start: (start + header.announcedByte).assumingMemoryBound(to: UInt64.self),
      count: header.announcedWords)
  }

  func extent(_ index: Int) -> LineExtent {
    // Without announced words the first one is in the header.
    let index = header.announcedWords == 0 ? index - 1 : index
    if index < 0 { return header.firstExtent }
    return LineExtent(
      word: UInt64(littleEndian: extents.load(fromByteOffset: index * 8, as: UInt64.self)))
  }

  /// Calls `body` for each extent with the address of its first line in the record.
  @inline(__always)
  func forEachExtent(_ body: (LineExtent, UnsafeRawPointer) -> Void) {
    forEachExtent(0..<header.extentCount, body)
  }

  /// The same for some of them, by their indexes.
  @inline(__always)
  func forEachExtent(_ indexes: Range<Int>, _ body: (LineExtent, UnsafeRawPointer) -> Void) {
    guard header.lineCount > 0 else { return }
    var source = lines
    for index in 0..<indexes.upperBound {
      let extent = extent(index)
      if index >= indexes.lowerBound { body(extent, source) }
      source += extent.lineCount * DurableMemory.lineBytes
    }
  }

  /// Calls `body` for each announced extent with the address of its first byte in the record.
  @inline(__always)
  func forEachAnnounced<Failure: Error>(
    _ body: (ByteExtent, UnsafeRawPointer) throws(Failure) -> Void
  ) throws(Failure) {
    let words = announcedWords
    var index = 0
    while index < words.count {
      let extent = ByteExtent(word: UInt64(littleEndian: words[index]))
      try body(extent, UnsafeRawPointer(words.baseAddress! + index + 1))
      index += 1 + extent.words
    }
  }

  /// Asks for the image line of the first announced extent.
  @inline(__always)
  func prefetchImage(_ memory: DurableMemory, _ imageOffset: Int) {
    guard let word = announcedWords.first else { return }
    cvp_prefetch(memory.address(imageOffset + Int(ByteExtent(word: word.littleEndian).offset)))
  }

  /// Whether the extents name only bytes of the image, and as many as the header says.
  func extentsFit(imageLines: UInt64) -> Bool {
    var total = 0
    for index in 0..<header.extentCount {
      let extent = extent(index)
      guard extent.lineCount > 0, extent.firstLine < imageLines,
        UInt64(extent.lineCount) <= imageLines - extent.firstLine
      else { return false }
      total += extent.lineCount
    }
    return total == header.lineCount
      && announcedFit(imageBytes: imageLines * UInt64(DurableMemory.lineBytes))
  }

  private func announcedFit(imageBytes: UInt64) -> Bool {
    let words = announcedWords
    var index = 0
    while index < words.count {
      let extent = ByteExtent(word: UInt64(littleEndian: words[index]))
      guard extent.byteCount > 0, extent.words < words.count - index,
        extent.offset < imageBytes, UInt64(extent.byteCount) <= imageBytes - extent.offset
      else { return false }
      index += 1 + extent.words
    }
    return true
  }

  /// The checksum that the record should have.
  func expectedSeal(poolIdentity: UInt64) -> UInt64 {
    var seal = cvp_seal()
    cvp_seal_begin(&seal, header.seed(poolIdentity: poolIdentity))
    // The checksum's own word was zero while it was computed.
    cvp_seal_line_without_word(&seal, start, UInt32(header.sealByte / 8))
    cvp_seal_lines(&seal, start + 64, header.recordBytes / 64 - 1)
    return cvp_seal_value(&seal)
  }
}

/// The fourth step: copies a record's lines to the image. Commit and recovery both call it; it
/// stores unconditionally (rule 3), with cached stores (rule 5), from the record alone (rule 4).
/// Threads may share the work: whichever thread stored a line, the checkpoint's flush finds it.
func update(
  _ record: LogRecord, to memory: DurableMemory, imageOffset: Int, threads: CommitThreads? = nil
) {
  func update(_ indexes: Range<Int>) {
    record.forEachExtent(indexes) { extent, lines in
      let offset = imageOffset + Int(extent.firstLine) * DurableMemory.lineBytes
      memory.updateLines(at: offset, from: lines, count: extent.lineCount)
    }
  }
  guard let threads else { return update(0..<record.header.extentCount) }
  threads.forEachChunk(of: record.header.extentCount) { _, indexes, _ in update(indexes) }
}

/// The fourth step for announced writes, which may wait for the checkpoint: nothing compares their
/// pages with the image.
func updateAnnounced(_ record: LogRecord, to memory: DurableMemory, imageOffset: Int) {
  var ahead = Prefetch(record, memory, imageOffset)
  record.forEachAnnounced { extent, bytes in
    ahead.next()
    memory.updateBytes(
      at: imageOffset + Int(extent.offset), from: bytes, count: extent.byteCount)
  }
}

/// Asks for the image lines of announced extents some extents before they are stored to: at a
/// checkpoint they are nowhere near the processor, and each would be waited for in turn.
private struct Prefetch {
  /// Extents ahead: 24 lines are about what a core has under way.
  static let distance = 24
  private let words: UnsafeRawPointer
  private let end: Int
  private var index = 0
  private let image: UnsafeMutableRawPointer

  init(_ record: LogRecord, _ memory: DurableMemory, _ imageOffset: Int) {
    // SAFETY: the record's words, which its header counts.
    words = record.start + record.header.announcedByte
    end = record.header.announcedWords
    image = memory.address(imageOffset)
    for _ in 0..<Self.distance { next() }
  }

  @inline(__always)
  mutating func next() {
    guard index < end else { return }
    // SAFETY: index is below the record's words, and the extent was checked against the image.
    let word = UInt64(littleEndian: words.load(fromByteOffset: index * 8, as: UInt64.self))
    let extent = ByteExtent(word: word)
    cvp_prefetch(image + Int(extent.offset))
    index += 1 + extent.words
  }
}

/// Starts the write-back of the image lines that a record names.
func flush(_ record: LogRecord, in memory: DurableMemory, imageOffset: Int) {
  record.forEachExtent { extent, _ in
    let offset = imageOffset + Int(extent.firstLine) * DurableMemory.lineBytes
    memory.flush(offset..<offset + extent.lineCount * DurableMemory.lineBytes)
  }
  record.forEachAnnounced { extent, _ in
    let offset = imageOffset + Int(extent.offset)
    memory.flush(DurableMemory.lines(of: offset..<offset + extent.byteCount))
  }
}
