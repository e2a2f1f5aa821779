// RecoveredView: a pool file as the next open would make it, in memory of our own.
//
// Invariants
// 1. No byte of the file changes, and no lock is held: recovery runs on a private mapping, and a
//    view has no right to write to the file.
// 2. What was read while somebody had the pool open is worth nothing; `requireUndisturbed` tells.

import Glibc

/// A sealed record of the log.
public struct RecordFacts: Sendable {
  public let lsn: UInt64
  /// Where it stands in the file, and its bytes there.
  public let fileOffset: UInt64
  public let byteCount: Int
  /// Bytes of the image that it has: those that were compared, and those that were announced.
  public let lines: [Range<UInt64>]
  public let announced: [Range<UInt64>]

  init(_ record: LogRecord, in memory: DurableMemory) {
    lsn = record.header.lsn
    // SAFETY: the record stands in this mapping of the file.
    fileOffset = UInt64(record.start - UnsafeRawPointer(memory.address(0)))
    byteCount = record.header.recordBytes
    lines = (0..<record.header.extentCount).map { index in
      let extent = record.extent(index)
      return extent.firstLine * 64..<(extent.firstLine + UInt64(extent.lineCount)) * 64
    }
    var announced: [Range<UInt64>] = []
    record.forEachAnnounced { extent, _ in
      announced.append(extent.offset..<extent.offset + UInt64(extent.byteCount))
    }
    self.announced = announced
  }
}

package final class RecoveredView {
  package let file: PoolFile
  /// As it stands in the file.
  package let superblock: Superblock
  package let copies: [Result<Superblock, Superblock.Refusal>]
  /// What recovery has to apply, oldest first.
  package let records: [RecordFacts]
  private let memory: DurableMemory

  /// - Parameter endsAtGap: a log is believed up to a damaged record, and not refused.
  /// - Throws: what an open would throw of the file; `.inUse` where somebody who has the pool open
  ///   was in the way.
  package init(path: String, endsAtGap: Bool = false) throws(PoolError) {
    file = try PoolFile.view(path: path)
    superblock = file.superblock
    copies = file.superblockCopies()
    let geometry = superblock.geometry
    let memory = try DurableMemory.view(
      .own, descriptor: file.descriptor, byteCount: Int(geometry.fileBytes))
    self.memory = memory
    // Of a log that is being written nobody can tell damage from what is not there yet.
    let isInUse = try PoolFile.isInUse(path: path)
    let recovery = Recovery(file, memory, endsAtGap: endsAtGap || isInUse)
    var found: [RecordFacts] = []
    do throws(PoolError) {
      try FailedPages.noted { () throws(PoolError) in
        try recovery.forEachLive { found.append(RecordFacts($0, in: memory)) }
        _ = try recovery.run()
        try memory.requireWhole()
      }
    } catch {
      guard case .damagedLog = error else { throw error }
      if try Self.isDisturbed(path, superblock) { throw .inUse(path: path) }
      throw error
    }
    records = found
  }

  /// First byte of the image.
  package var image: UnsafeMutableRawPointer {
    // SAFETY: the superblock was checked, and the whole file that it describes is mapped.
    memory.address(Int(superblock.geometry.imageOffset))
  }

  /// Log sequence number of the last section that is there.
  package var lastLsn: UInt64 { file.superblock.appliedLsn }

  /// Whether an open would find something to do: records to apply, a superblock copy to repair,
  /// a log to be made one again.
  package var needsRecovery: Bool {
    guard case .success(let first) = copies[0], case .success(let second) = copies[1] else {
      return true
    }
    return first != second || !records.isEmpty || first.lanes != nil
      || first.hasBuffers
  }

  /// Pages that could not be read since the view was made are an error.
  package func requireWhole() throws(PoolError) { try memory.requireWhole() }

  /// Whoever opens a pool writes its superblock; so what was read here is one state of the file if
  /// nobody has it open and the superblock is what it was.
  ///
  /// - Throws: `.inUse`.
  package func requireUndisturbed() throws(PoolError) {
    if try Self.isDisturbed(file.path, superblock) { throw .inUse(path: file.path) }
  }

  private static func isDisturbed(
    _ path: String, _ superblock: Superblock
  ) throws(PoolError) -> Bool {
    if try PoolFile.isInUse(path: path) { return true }
    return try PoolFile.view(path: path).superblock != superblock
  }
}
