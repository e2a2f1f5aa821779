// Commit: how a section becomes durable, all of it or nothing.
//
// The true commit point is the fence at the end of `log`: before it a crash leaves the state before
// the section, after it recovery replays the record. Recovery calls the same `update`.
//
//   crash before or in log's stores   no seal, or a torn one: the record is not there
//   crash after the fence             the record is replayed
//   crash in update                   the record is replayed over the half-updated image
//
// A buffered section's record waits for the fence of a later one (Buffers.swift).
// Announced writes are not collected, and their update waits for the checkpoint (Announced.swift).
//
// Runs with the gate closed and the tracker's section closed, by the thread that had the section.

import Glibc

extension PoolEngine {
  /// Commits the open section's writes. After an error the section is rolled back, unless the error
  /// says otherwise (rule 13).
  func commit(_ parts: EngineParts) throws(PoolError) {
    pass(.collect)
    try collect(parts)
    guard parts.writeSet.lineCount > 0 || !announced.isEmpty else {
      // What this section has read is durable when it has ended, too.
      if !mayWait(parts) { try fenceBuffered() }
      if !parts.lostPages.isEmpty { try rebuildImage(parts) }
      return
    }
    pass(.collected)
    let position = try prepare(parts)
    pass(.prepared)
    let record = try log(parts, at: position)
    pass(.logged)
    if !isRemoved(.update) {
      update(
        record, to: parts.memory, imageOffset: parts.imageOffset, threads: threads(for: parts))
    }
    pass(.updated)
    // Where the log failed, too, the next section says so.
    if !parts.memory.failedPages.isEmpty { _ = noteLostPages(parts) }
    if !parts.lostPages.isEmpty { try rebuildImage(parts) }
    if let checkpointThread, beside == nil, parts.redoLog.isHalfFull { checkpointThread.wake() }
  }

  /// Step 1: the written pages, armed again unless they are retained, then compared: a write that
  /// comes later is found by the next section.
  private func collect(_ parts: EngineParts) throws(PoolError) {
    guard isTracking else { return parts.writeSet.removeAll() }
    let (tracker, writeSet, retention) = (parts.tracker, parts.writeSet, parts.retention)
    do throws(PoolError) {
      let waits = tracker.armsForLessTogether && retention.isOn
      if retention.isIdle, !waits || tracker.armsForLessWithTake {
        try tracker.takeWrittenAndArm(into: writeSet)
        writeSet.retainNone()
      } else {
        try tracker.takeWritten(into: writeSet)
        retention.decide(writeSet)
        if !waits || !retention.defersArming(writeSet) { try arm(writeSet, parts) }
      }
    } catch {
      throw poison(error, "write set not collected")
    }
    let start = retention.observes(writeSet) ? ticks() : nil
    compare(parts)
    retention.learn(writeSet, ticks: start.map { ticks() - $0 })
    if !isWhole(parts), !isRemoved(.failedPagesCheck) { try answerFailures(parts) }
    try audit(parts)
  }

  /// The threads that share the steps of this commit, or nil for the calling one alone.
  private func threads(for parts: EngineParts) -> CommitThreads? {
    parts.writeSet.pageCount > options.pagesAlone ? commitThreads : nil
  }

  private func compare(_ parts: EngineParts) {
    let (writeSet, image) = (parts.writeSet, parts.image)
    guard let threads = threads(for: parts) else {
      return writeSet.compare(workingCopy, with: image)
    }
    threads.forEachChunk(of: writeSet.pageCount) { _, indexes, _ in
      writeSet.compare(indexes, workingCopy, with: image)
    }
    writeSet.countLines()
  }

  private func arm(_ writeSet: WriteSet, _ parts: EngineParts) throws(PoolError) {
    let start = ticks()
    try parts.tracker.arm(writeSet)
    parts.retention.noteArming(ticks: ticks() - start)
  }

  /// Step 2: file blocks for the lines and room in the log. Nothing is sealed before both are had.
  private func prepare(_ parts: EngineParts) throws(PoolError) -> UInt64 {
    do throws(PoolError) {
      if !isRemoved(.blocksBeforeSeal) { try parts.blocks.allocate(parts.writeSet) }
      return try reserve(parts)
    } catch {
      try rollBack(parts)
      throw error
    }
  }

  /// Step 3: the record, past the cache, and the one fence.
  private func log(_ parts: EngineParts, at position: UInt64) throws(PoolError) -> LogRecord {
    let record: LogRecord
    do throws(PoolError) {
      record = try parts.redoLog.append(
        parts.writeSet, workingCopy, at: position, lsn: parts.redoLog.lastLsn + 1,
        threads: threads(for: parts))
      parts.redoLog.noteLive(record)
    } catch {
      let isLogLost = !parts.memory.failedPages.isEmpty
      try rollBack(parts)
      throw isLogLost ? poison(error, "the log could not be written") : error
    }
    pass(.logStored)
    if mayWait(parts) { return noteBuffered(record) }
    if !isRemoved(.recordFence) { try fenceLog(parts) }
    return record
  }

  /// The fence that makes all records durable.
  func fenceLog(_ parts: EngineParts) throws(PoolError) {
    do throws(PoolError) {
      try parts.memory.fence()
    } catch {
      if !isRemoved(.poisonAfterFence) { state = .poisoned("the log could not be flushed") }
      guard case .system(_, let errorNumber) = error else {
        throw .outcomeUnknown(errorNumber: EIO)
      }
      throw .outcomeUnknown(errorNumber: errorNumber)
    }
    parts.redoLog.noteFence()
  }

  /// Room for a record: as the log is, after a checkpoint, or at the start of an empty log.
  private func reserve(_ parts: EngineParts) throws(PoolError) -> UInt64 {
    let (redoLog, writeSet) = (parts.redoLog, parts.writeSet)
    if let position = redoLog.place(writeSet, announced) { return position }
    let recordBytes = UInt64(redoLog.recordBytes(writeSet))
    let most = min(file.superblock.geometry.logBytesMax, RedoLog.recordBytesMax)
    guard recordBytes <= most else {
      throw .sectionTooLarge(neededBytes: recordBytes, availableBytes: most)
    }
    if beside != nil {
      try finishCheckpointBeside()
      if let position = redoLog.place(writeSet, announced) { return position }
    }
    try checkpoint()
    if let position = redoLog.place(writeSet, announced) { return position }
    try restartLog(for: recordBytes)
    guard let position = redoLog.place(writeSet, announced) else {
      throw .sectionTooLarge(neededBytes: recordBytes, availableBytes: most)
    }
    return position
  }

  /// Takes the open section back, whose pages are collected and not armed: their lines are copied
  /// from the image. Dropping the pages instead would cost a fault and a copy for each at its next
  /// write, 10 us and more in guest mode.
  func takeBack(_ parts: EngineParts) throws(PoolError) {
    try takeAnnouncedBack(parts)
    guard isTracking else { return }
    let (tracker, writeSet, retention) = (parts.tracker, parts.writeSet, parts.retention)
    writeSet.compare(workingCopy, with: parts.image)
    guard isWhole(parts) else { return try takeBackFailed(parts) }
    workingCopy.restore(writeSet, from: parts.image)
    writeSet.markRetained { retention.isRetained(page: $0) }
    do throws(PoolError) {
      try tracker.arm(writeSet)
    } catch {
      throw poison(error, "section not rolled back")
    }
    // Writes that came between are nobody's: what comes from here on is found by the next section.
    writeSet.compare(workingCopy, with: parts.image)
    pass(.rollBack)
    if writeSet.lineCount > 0 { try rollBack(parts) }
  }

  /// Puts the pages of the write set back to their image. Private copies are dropped; the pages are
  /// armed before and, because dropping takes the protection with it, after.
  func rollBack(_ parts: EngineParts) throws(PoolError) {
    try takeAnnouncedBack(parts)
    let (tracker, writeSet) = (parts.tracker, parts.writeSet)
    do throws(PoolError) {
      // Behind a page without an image there is nothing to go back to.
      if let lost = parts.lostPages.first {
        throw .unreadable(fileOffset: UInt64(parts.imageOffset + lost * DurableMemory.pageBytes))
      }
      writeSet.retainNone()
      parts.retention.forget(writeSet)
      try tracker.arm(writeSet)
      if !isRemoved(.dropOnRollBack) {
        try writeSet.forEachRun(gapPagesMax: 0, where: { _ in true }, workingCopy.drop)
      }
      try tracker.arm(writeSet)
      workingCopy.failedPages.removeAll()
    } catch {
      throw poison(error, "section not rolled back")
    }
  }
}
