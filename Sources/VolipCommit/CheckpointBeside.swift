// CheckpointBeside: a checkpoint whose flush goes on beside sections.
//
//   1. begin     with the gate      announced writes go into the image; which records are meant is
//                                   noted
//   2. flush     without the gate   the image lines that they name, one fence
//   3. finish    with the gate      both superblock copies, then their log space is free (rule 2)
//
// Meanwhile sections commit. Their records come behind those of the checkpoint, whose space is not
// free yet; their updates store to the same image, and whatever of that becomes durable early has a
// durable record that lives on. A whole checkpoint, for which the log has to be as it is, first
// finishes this one: `finish` flushes itself what nobody has begun to flush.
//
// The flush goes through a mapping of its own. So a page that fails under it is noted there and
// nowhere else, while a commit works with the others; and no fence of a commit waits for its msync.
//
// Who may touch what: `records`, `head` and `lsn` never change; the phase is under a leaf lock. The
// log's region, generation and live records stay until `finish`.

import CVolipPersistence
import Synchronization

package final class CheckpointBeside: @unchecked Sendable {
  private enum Phase {
    case begun
    case flushing
    case flushed
    /// Nothing is known to be durable, and nothing is lost: the log has all.
    case givenUp
    /// A fence failed: pages that are not written count as clean.
    case failed(PoolError)
  }

  /// Positions of the records, oldest first.
  let records: [UInt64]
  let head: UInt64
  let lsn: UInt64
  private let redoLog: RedoLog
  private let imageOffset: Int
  private let memory: DurableMemory
  private let phase = Mutex(Phase.begun)

  init(_ parts: EngineParts) {
    redoLog = parts.redoLog
    (records, head, lsn) = (redoLog.livePositions, redoLog.head, redoLog.lastLsn)
    imageOffset = parts.imageOffset
    memory = parts.memory
  }

  /// Flushes, if nobody else has begun to.
  package func flush() {
    let isMine = phase.withLock { phase in
      guard case .begun = phase else { return false }
      phase = .flushing
      return true
    }
    guard isMine else { return }
    let outcome = FailedPages.noted(flushed)
    phase.withLock { $0 = outcome }
  }

  private func flushed() -> Phase {
    guard let memory = try? memory.mappedAgain() else { return .givenUp }
    for position in records where !isRemoved(.besideFlush) {
      guard let record = redoLog.liveRecord(at: position, in: memory) else { return .givenUp }
      VolipCommit.flush(record, in: memory, imageOffset: imageOffset)
    }
    pass(.checkpointFlushed)
    do throws(PoolError) {
      if !isRemoved(.besideFence) { try memory.fence() }
      return .flushed
    } catch {
      guard case .unreadable = error else { return .failed(error) }
      return .givenUp
    }
  }

  /// Waits for the flush, or makes it.
  ///
  /// - Returns: whether all that the records name is durable in the image.
  func waitForFlush() throws(PoolError) -> Bool {
    flush()
    var watch = DeadlockWatch()
    while true {
      switch phase.withLock({ $0 }) {
      case .begun, .flushing: _ = watch.rest()
      case .flushed: return true
      case .givenUp: return false
      case .failed(let error): throw error
      }
    }
  }
}

extension PoolEngine {
  /// Begins a checkpoint, if the log has anything and nothing is in the way.
  package func beginCheckpointBeside() throws(PoolError) -> CheckpointBeside? {
    try withGate { () throws(PoolError) in
      guard beside == nil, !lanes.isActive, !parts.redoLog.isEmpty else { return nil }
      pass(.checkpoint)
      try fenceBuffered()
      try completeImage()
      guard parts.memory.failedPages.isEmpty else { return nil }
      let checkpoint = CheckpointBeside(parts)
      beside = checkpoint
      return checkpoint
    }
  }

  /// Ends the checkpoint that goes on beside sections, if there is one. Under the gate.
  func finishCheckpointBeside() throws(PoolError) {
    guard let checkpoint = beside else { return }
    beside = nil
    do throws(PoolError) {
      guard try checkpoint.waitForFlush() else { return }
      var next = file.superblock
      next.appliedLsn = checkpoint.lsn
      next.logTail = checkpoint.head
      next.sequence += 1
      try file.write(next, through: parts.memory)
    } catch {
      throw poison(error, "checkpoint not finished")
    }
    pass(.checkpointed)
    parts.redoLog.remove(checkpoint.records.count, upTo: checkpoint.head)
    publish(statistics)
  }

  /// All three steps, by a thread that has no section.
  func checkpointBeside() throws(PoolError) {
    guard let checkpoint = try beginCheckpointBeside() else { return }
    checkpoint.flush()
    try endCheckpointBeside()
  }

  /// The third step.
  package func endCheckpointBeside() throws(PoolError) { try withGate(finishCheckpointBeside) }
}
