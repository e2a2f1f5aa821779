// Buffers: sections whose pend returns before they are durable (rule 8).
//
//   buffered section          its record is stored; no fence, nothing in the image
//   epoch                     the records since the last fence
//   the epoch's end           one fence: of the next section of another kind, whatever it wrote, of
//                             `sync` and `pcommit`, of a rollback, of a checkpoint, of a group that
//                             begins, or of a pend that finds the epoch old or long
//
// After a crash any records of the last epoch may be missing. Recovery applies those before the
// first that is; later ones are there in vain, and their headers say that they were stored without
// a fence in between: that is no damage (LogScan, invariant 2).
//
// The image never has bytes of a record that is not durable: `updateAnnouncedImage` fences first.
// Between the stores of one thread and the fence of another lies a lock-prefixed instruction: in
// the gate's unlock or, where there was one thread until then, in the creation of the other. It
// drains what the first one stored past its cache.

import Glibc

extension PoolEngine {
  /// Makes durable what buffered sections wrote until now.
  ///
  /// - Throws: `.outcomeUnknown`, and the handle is poisoned: which of them are there, the next
  ///   open tells.
  public func sync() throws(PoolError) {
    try withGate { () throws(PoolError) in try Self.withoutCancellation(fenceBuffered) }
  }

  /// Ends the epoch. Under the gate.
  func fenceBuffered() throws(PoolError) {
    guard parts.redoLog.unfencedCount > 0, !isRemoved(.epochFence) else { return }
    try fenceLog(parts)
  }

  /// Whether the record in hand, stored by now, may be durable later.
  func mayWait(_ parts: EngineParts) -> Bool {
    guard isBuffered, !isTracking, parts.writeSet.lineCount == 0 else { return false }
    let count = parts.redoLog.unfencedCount
    if count == 0 { return options.bufferedMilliseconds > 0 }
    return count < RecordHeader.unfencedMax
      && milliseconds() - bufferedSince < options.bufferedMilliseconds
  }

  func noteBuffered(_ record: LogRecord) -> LogRecord {
    if parts.redoLog.unfencedCount == 0 { bufferedSince = milliseconds() }
    parts.redoLog.noteUnfenced()
    return record
  }

  /// Since some moment, as the kernel last looked at its clock.
  private func milliseconds() -> Int {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC_COARSE, &time)
    return time.tv_sec * 1000 + time.tv_nsec / 1_000_000
  }

  // MARK: The pool's feature

  /// Says in the pool that its log may end so. Under the gate.
  func enterBuffers() throws(PoolError) {
    try writeFeatures(file.superblock.incompatibleFeatures | Superblock.buffersFeature)
  }

  /// The log is empty.
  func leaveBuffers() throws(PoolError) {
    guard file.superblock.hasBuffers else { return }
    try writeFeatures(file.superblock.incompatibleFeatures & ~Superblock.buffersFeature)
  }

  private func writeFeatures(_ features: UInt64) throws(PoolError) {
    try checkpoint()
    var next = file.superblock
    next.incompatibleFeatures = features
    try writeBack(next, through: parts.memory)
  }
}
