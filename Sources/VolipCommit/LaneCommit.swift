// LaneCommit: a section of a lane becomes durable alone: no lock but a checkpoint's, no other
// thread, one fence.
//
//   crash before the fence   no seal, or a torn one: the lane ends before the record
//   crash after it           the record is replayed in the order of its stamp
//
// The image is updated at the checkpoint, which any thread may run for all lanes.

import Glibc

extension PoolEngine {
  /// Commits what the lane's section announced. After an error the section is rolled back, unless
  /// the error says otherwise (rule 13) or the handle is poisoned: then nothing goes on.
  func commit(_ lane: Lane) throws(PoolError) {
    guard !lane.announced.isEmpty else { return }
    // What this section read may be of one whose outcome nobody knows.
    guard !isStopped.load(ordering: .acquiring) else { throw stopped }
    let position = try reserve(lane)
    let record = try log(lane, at: position)
    lane.publish(record)
    pass(.laneLogged)
  }

  /// Room in the lane. What is staged here is what is sealed and stored (rule 4).
  private func reserve(_ lane: Lane) throws(PoolError) -> UInt64 {
    do throws(PoolError) {
      // Not when it is full: lanes fill alike, and all but one would wait.
      if lane.isDueForCheckpoint() { try checkpointLanes(for: lane, isFull: false) }
      if let position = place(lane) { return position }
      let needed = UInt64(lane.redoLog.recordBytes(lane.noLines))
      guard needed <= lane.redoLog.bytes else {
        throw .sectionTooLarge(neededBytes: needed, availableBytes: lane.redoLog.bytes)
      }
      while true {
        try checkpointLanes(for: lane, isFull: true)
        if let position = place(lane) { return position }
        // A record of another lane is on its way and holds the cut back.
        sched_yield()
      }
    } catch {
      try takeBack(lane)
      throw error
    }
  }

  private func place(_ lane: Lane) -> UInt64? {
    lane.readTail()
    return lane.redoLog.place(lane.noLines, lane.announced)
  }

  /// The record, past the cache, and its fence.
  private func log(_ lane: Lane, at position: UInt64) throws(PoolError) -> LogRecord {
    let lsn = lane.drawLsn(lanes.nextLsn)
    let record: LogRecord
    do throws(PoolError) {
      record = try lane.redoLog.append(lane.noLines, workingCopy, at: position, lsn: lsn)
    } catch {
      lane.pendingLsn.store(.max, ordering: .releasing)
      throw poison(error, "the log could not be written")
    }
    pass(.laneStored)
    do throws(PoolError) {
      if !isRemoved(.laneFence) { try lane.memory.fence() }
    } catch {
      // The lane is not published: nobody applies the record, no checkpoint frees what it needs.
      state = .poisoned("the log could not be flushed")
      lane.pendingLsn.store(.max, ordering: .releasing)
      guard case .system(_, let errorNumber) = error else {
        throw .outcomeUnknown(errorNumber: EIO)
      }
      throw .outcomeUnknown(errorNumber: errorNumber)
    }
    return record
  }

  /// Puts what the lane's section announced back, and nothing else.
  func takeBack(_ lane: Lane) throws(PoolError) {
    if lane.announced.needsRestore {
      // The bytes belong to this section until it ends; what they were is in records that were
      // drawn before now, perhaps after one that is still on its way.
      do throws(PoolError) {
        try lanes.withLog { () throws(PoolError) in
          lanes.waitForDrawn()
          pass(.laneWaited)
          try applyLanes()
        }
        lane.announced.restore(from: parts.image)
        try parts.memory.requireWhole()
      } catch {
        throw poison(error, "section not rolled back")
      }
    }
    lane.announced.takeBack()
  }

  /// Applies to the image what is durable. Under the log lock.
  private func applyLanes() throws(PoolError) {
    let ends = try lanes.forEachBatch(before: lanes.cut()) { apply($0) }
    for lane in lanes.all { lane.applied = max(lane.applied, ends[lane.index]) }
  }

  /// The update of those that were not applied before.
  private func apply(_ batch: [LaneRecord]) {
    let (memory, imageOffset) = (parts.memory, parts.imageOffset)
    for next in batch where !next.isApplied { next.record.prefetchImage(memory, imageOffset) }
    for next in batch where !next.isApplied {
      updateAnnounced(next.record, to: memory, imageOffset: imageOffset)
    }
  }

  // MARK: Checkpoint

  /// Frees the space of what is durable in the lanes.
  func checkpointLanes() throws(PoolError) {
    try withLanesLog { () throws(PoolError) in try checkpointLanesLocked(nil) }
  }

  /// The same for a lane of the calling thread, unless another thread has done it since its owner
  /// looked.
  ///
  /// - Parameter isFull: its record has no room. An empty lane goes on at the next lap then, where
  ///   it has all of it. Else nothing is done while another thread does something about the log.
  private func checkpointLanes(for lane: Lane, isFull: Bool) throws(PoolError) {
    try withLanesLog(evenWaiting: isFull) { () throws(PoolError) in
      guard lane.redoLog.tail == lane.tail.load(ordering: .relaxed) else { return }
      try checkpointLanesLocked(isFull ? lane : nil)
    }
  }

  private func withLanesLog(
    evenWaiting: Bool = true, _ body: () throws(PoolError) -> Void
  ) throws(PoolError) {
    do throws(PoolError) {
      try lanes.withLog(evenWaiting: evenWaiting) { () throws(PoolError) in
        guard !isStopped.load(ordering: .relaxed) else { throw stopped }
        try body()
      }
    } catch {
      throw poison(error, "checkpoint not finished")
    }
  }

  /// Under the log lock.
  private func checkpointLanesLocked(_ starved: Lane?) throws(PoolError) {
    pass(.checkpoint)
    let (cut, ends) = try applyAndFlushLanes()
    var next = file.superblock
    guard var table = next.lanes else { return }
    var isChanged = false
    for lane in lanes.all {
      var tail = ends[lane.index]
      if lane === starved, tail == lane.redoLog.head, tail % lane.redoLog.bytes != 0 {
        tail = lane.redoLog.region.lap(after: tail)
      }
      isChanged = isChanged || tail != table.tails[lane.index]
      table.tails[lane.index] = tail
    }
    guard isChanged else { return }
    next.lanes = table
    next.appliedLsn = max(cut - 1, next.appliedLsn)
    next.sequence += 1
    try file.write(next, through: parts.memory)
    pass(.checkpointed)
    for lane in lanes.all {
      let tail = table.tails[lane.index]
      if lane === starved, tail != ends[lane.index] {
        lane.moveEmpty(to: tail)
        lane.redoLog.moveEmpty(to: tail)
      } else {
        lane.applied = max(lane.applied, tail)
        if !isRemoved(.laneTail) { lane.tail.store(tail, ordering: .releasing) }
      }
    }
  }

  /// Makes the image have durably what lanes have. Returns the cut and where it is in each lane.
  private func applyAndFlushLanes() throws(PoolError) -> (cut: UInt64, ends: [UInt64]) {
    let (memory, imageOffset) = (parts.memory, parts.imageOffset)
    let cut = lanes.cut()
    let ends = try lanes.forEachBatch(before: cut) { batch in
      apply(batch)
      guard !isRemoved(.laneCheckpointFlush) else { return }
      // Behind the stores of all: an atomic change of memory waits for what is being written back.
      for next in batch { flush(next.record, in: memory, imageOffset: imageOffset) }
    }
    if !isRemoved(.laneCheckpointFence) { try memory.fence() }
    pass(.checkpointFlushed)
    return (cut, ends)
  }

  // MARK: Dividing the log

  /// Divides the log into lanes. Gate closed, no section open.
  func enterLanes() throws(PoolError) {
    try checkpoint()
    let redoLog = parts.redoLog
    var next = file.superblock
    try growLogForLanes(&next)
    let table = LaneTable(count: lanes.all.count)
    next.lanes = table
    next.appliedLsn = redoLog.lastLsn
    next.logTail = 0
    next.generation += 1
    publishGeneration(next.generation)
    try writeBack(next, through: parts.memory)
    lanes.restart(file.superblock, table)
    for lane in lanes.all { publish(lane) }
    lanes.sectionCount = lanes.all.count
    // What an exclusive section left: in a lane nothing is tracked.
    setTracking(false)
    lanes.isActive = true
  }

  /// Lanes of a few pages would be full all the time.
  static let laneBytesWanted: UInt64 = 1 << 20

  private func growLogForLanes(_ next: inout Superblock) throws(PoolError) {
    let geometry = next.geometry
    let wanted = min(geometry.logBytesMax, Self.laneBytesWanted * UInt64(lanes.all.count))
    guard wanted > geometry.logBytes else { return }
    do throws(PoolError) {
      try growLog(to: wanted, in: &next)
    } catch {
      // Lanes of the log as it is will do.
      guard case .diskFull = error else { throw error }
    }
  }

  /// Makes the log one again, everything in the image. Gate closed, no section open.
  func leaveLanes() throws(PoolError) {
    do throws(PoolError) {
      try lanes.withLog { () throws(PoolError) in
        let (cut, _) = try applyAndFlushLanes()
        var next = file.superblock
        next.lanes = nil
        next.appliedLsn = max(cut - 1, next.appliedLsn)
        next.logTail = 0
        next.sequence += 1
        next.generation += 1
        publishGeneration(next.generation)
        try file.write(next, through: parts.memory)
        parts.redoLog.restart(file.superblock, file.superblock.logRegion)
        lanes.isActive = false
        for lane in lanes.all {
          lane.moveEmpty(to: lane.head.load(ordering: .relaxed))
          publish(lane)
        }
      }
    } catch {
      throw poison(error, "lanes not closed")
    }
  }
}
