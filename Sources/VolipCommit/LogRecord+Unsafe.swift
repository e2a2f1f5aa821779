// LogRecord: a record where it stands in the log, and the one update function.

import CVolipPersistence
@_exported import VolipWriteSet

/// A whole record in the mapped log whose header was validated against the log's bounds.
struct LogRecord {
  let header: RecordHeader
  let start: UnsafeRawPointer

  private var lines: UnsafeRawPointer {
    // SAFETY: the header's counts were checked against the end of the log.
    start + (1 + RecordHeader.extentLines(header.extentCount)) * DurableMemory.lineBytes
  }

  func extent(_ index: Int) -> LineExtent {
    if index == 0 { return header.firstExtent }
    let byte = DurableMemory.lineBytes + (index - 1) * 8
    return LineExtent(word: UInt64(littleEndian: start.load(fromByteOffset: byte, as: UInt64.self)))
  }

  /// Calls `body` for each extent with the address of its first line in the record.
  @inline(__always)
  func forEachExtent(_ body: (LineExtent, UnsafeRawPointer) -> Void) {
    var source = lines
    for index in 0..<header.extentCount {
      let extent = extent(index)
      body(extent, source)
      source += extent.lineCount * DurableMemory.lineBytes
    }
  }

  /// Whether the extents name only lines of the image, and as many as the header says.
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
  }

  /// The checksum that the record should have.
  func expectedSeal(poolIdentity: UInt64) -> UInt64 {
    var seal = cvp_seal()
    cvp_seal_begin(
      &seal,
      RecordHeader.seed(
        poolIdentity: poolIdentity, generation: header.generation, lsn: header.lsn))
    // The last word of the header is the checksum itself, zero while it was computed.
    cvp_seal_line_without_last_word(&seal, start)
    cvp_seal_lines(&seal, start + 64, header.recordBytes / 64 - 1)
    return cvp_seal_value(&seal)
  }
}

/// The fourth step: copies a record's lines to the image. Commit and recovery both call it; it
/// stores unconditionally (rule 3), with cached stores (rule 5), from the record alone (rule 4).
func update(_ record: LogRecord, to memory: DurableMemory, imageOffset: Int) {
  record.forEachExtent { extent, lines in
    let offset = imageOffset + Int(extent.firstLine) * DurableMemory.lineBytes
    memory.updateLines(at: offset, from: lines, count: extent.lineCount)
  }
}

/// Starts the write-back of the image lines that a record names.
func flush(_ record: LogRecord, in memory: DurableMemory, imageOffset: Int) {
  record.forEachExtent { extent, _ in
    let offset = imageOffset + Int(extent.firstLine) * DurableMemory.lineBytes
    memory.flush(offset..<offset + extent.lineCount * DurableMemory.lineBytes)
  }
}
