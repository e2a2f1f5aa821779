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
// Who may touch what: `records`, `head` and `lsn` never change; the phase is under `lock`, a leaf
// below the gate; `view` belongs to whoever took the phase to `flushing`. While one is under way
// `RedoLog.region` does not change, nor is the mapping replaced.

import CVolipPersistence
import Synchronization

package final class CheckpointBeside: @unchecked Sendable {
  private enum Phase {
    case begun
    case flushing
    case flushed(PoolError?)
  }

  /// Positions of the records, oldest first.
  let records: [UInt64]
  let head: UInt64
  let lsn: UInt64
  private let redoLog: RedoLog
  private let imageOffset: Int
  /// Holds the mapping.
  private let memory: DurableMemory
  private let view: DurableMemory
  private let phase = Mutex(Phase.begun)

  init(_ parts: EngineParts) {
    redoLog = parts.redoLog
    (records, head, lsn) = (redoLog.livePositions, redoLog.head, redoLog.lastLsn)
    imageOffset = parts.imageOffset
    memory = parts.memory
    view = DurableMemory(viewOf: memory)
  }

  /// Flushes, if nobody else has begun to.
  package func flush() {
    let isMine = phase.withLock { phase in
      guard case .begun = phase else { return false }
      phase = .flushing
      return true
    }
    guard isMine else { return }
    var failure: PoolError?
    do throws(PoolError) {
      for position in records where !isRemoved(.besideFlush) {
        guard let record = redoLog.liveRecord(at: position) else { break }
        VolipCommit.flush(record, in: view, imageOffset: imageOffset)
      }
      pass(.checkpointFlushed)
      if !isRemoved(.besideFence) { try view.fence() }
    } catch {
      failure = error
    }
    phase.withLock { $0 = .flushed(failure) }
  }

  /// Until it is flushed, by this thread if by no other.
  func waitUntilFlushed() throws(PoolError) {
    flush()
    var watch = DeadlockWatch()
    while true {
      if case .flushed(let failure) = phase.withLock({ $0 }) {
        if let failure { throw failure }
        return
      }
      _ = watch.rest()
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
      try checkpoint.waitUntilFlushed()
    } catch {
      // A page failed: a whole checkpoint, the next one, knows what to do.
      if !parts.memory.failedPages.isEmpty { return }
      throw poison(error, "checkpoint not finished")
    }
    var next = file.superblock
    next.appliedLsn = checkpoint.lsn
    next.logTail = checkpoint.head
    next.sequence += 1
    do throws(PoolError) {
      try file.write(next, through: parts.memory)
    } catch {
      throw poison(error, "checkpoint not finished")
    }
    pass(.checkpointed)
    parts.redoLog.remove(checkpoint.records.count, upTo: checkpoint.head)
  }

  /// All three steps, by a thread that has no section.
  func checkpointBeside() throws(PoolError) {
    guard let checkpoint = try beginCheckpointBeside() else { return }
    FailedPages.noted { checkpoint.flush() }
    try endCheckpointBeside()
  }

  /// The third step.
  package func endCheckpointBeside() throws(PoolError) { try withGate(finishCheckpointBeside) }
}
