// Checkpoint: frees log space. Everything that the log holds is made durable in the image first.
//
//   1. announced writes that are not in the image yet go there from the records
//      flush the image lines that the live records name, one fence
//   2. superblock copy 1 (applied lsn, tail), fence; copy 2, fence        (rule 2)
//   3. only then the space before the tail is free
//
// A crash between any two of these replays records that are applied already, which changes nothing.

extension PoolEngine {
  /// Applies the log for good. Every live record's update has ended: commit and checkpoint run
  /// under the same gate.
  func checkpoint() throws(PoolError) {
    if lanes.isActive { return try checkpointLanes() }
    try finishCheckpointBeside()
    let redoLog = parts.redoLog
    guard !redoLog.isEmpty else { return }
    pass(.checkpoint)
    try completeImage()
    var next = file.superblock
    next.appliedLsn = redoLog.lastLsn
    next.logTail = redoLog.head
    try writeBack(next, through: parts.memory)
    pass(.checkpointed)
    redoLog.removeAll()
  }

  /// A page of the log that failed meanwhile is no loss for lines, which are in the image already;
  /// for announced writes it is.
  func completeImage() throws(PoolError) {
    guard parts.redoLog.isAheadOfImage else { return }
    try updateAnnouncedImage(parts)
    do throws(PoolError) {
      try parts.memory.requireWhole()
    } catch {
      throw poison(error, "announced writes not in the image")
    }
  }

  /// Lets the empty log go on at its start, larger if a record of `recordBytes` needs it: then any
  /// record fits that fits at all.
  func restartLog(for recordBytes: UInt64) throws(PoolError) {
    let redoLog = parts.redoLog
    precondition(redoLog.isEmpty)
    var next = file.superblock
    var bytes = next.geometry.logBytes
    while bytes < recordBytes { bytes *= 2 }
    bytes = min(bytes, next.geometry.logBytesMax)
    if bytes > next.geometry.logBytes { try growLog(to: bytes, in: &next) }
    // Positions stand for other places in a log of another size: go on at the start of a lap.
    next.logTail =
      isRemoved(.lapOnRestart) ? redoLog.head : (redoLog.head + bytes - 1) / bytes * bytes
    try writeBack(next, through: parts.memory)
    redoLog.restart(file.superblock, file.superblock.logRegion)
  }

  /// Gives the log in a superblock to come more bytes, in which nothing is yet.
  func growLog(to bytes: UInt64, in next: inout Superblock) throws(PoolError) {
    let offset = next.geometry.logOffset
    let added = offset + next.geometry.logBytes..<offset + bytes
    try file.allocate(added)
    if parts.memory.path == .msync { try file.writeZeros(added) }
    try file.sync()
    next.geometry.logBytes = bytes
    pass(.logGrown)
  }

  /// Makes the pool larger (rule 20). The image grows at the end of the file; nothing refers to the
  /// new part before both superblock copies name it.
  func growImage(toFileBytes fileBytes: UInt64) throws(PoolError) {
    if !isRemoved(.checkpointBeforeGrowth) { try checkpoint() }
    var next = file.superblock
    let pageBytes = PoolGeometry.pageBytes
    next.geometry.fileBytes = fileBytes / pageBytes * pageBytes
    guard next.geometry.fileBytes > file.superblock.geometry.fileBytes,
      fileBytes <= PoolGeometry.fileBytesMax
    else { throw .invalidArgument("a pool grows from \(file.superblock.geometry.fileBytes) bytes") }
    next.geometry.imageBytes = next.geometry.fileBytes - next.geometry.imageOffset
    try file.extend(to: next.geometry.fileBytes)
    pass(.imageGrown)
    try workingCopy.reserve(descriptor: file.descriptor, geometry: next.geometry)
    do throws(PoolError) {
      try workingCopy.remap(descriptor: file.descriptor, geometry: next.geometry)
      let memory = try DurableMemory.map(
        descriptor: file.descriptor, forced: parts.memory.path)
      try writeBack(next, through: memory)
      try rebuild(memory)
    } catch {
      throw poison(error, "growth not finished")
    }
  }

  /// Flushes what the live records name, then writes both superblock copies.
  func writeBack(
    _ next: Superblock, through memory: DurableMemory
  ) throws(PoolError) {
    let (redoLog, imageOffset) = (parts.redoLog, parts.imageOffset)
    var next = next
    next.sequence += 1
    do throws(PoolError) {
      var lostLog: [Int] = []
      if !redoLog.isEmpty {
        if !isRemoved(.checkpointFlush) {
          redoLog.forEachLive { flush($0, in: memory, imageOffset: imageOffset) }
        }
        lostLog = try flushInsteadOfLostLog(memory)
        if !isRemoved(.checkpointFence) { try memory.fence() }
        pass(.checkpointFlushed)
      }
      if !isRemoved(.checkpointSuperblock) { try file.write(next, through: memory) }
      // Nothing that the log had is needed any more.
      for page in lostLog { try memory.rebuild(page: page) }
    } catch {
      throw poison(error, "checkpoint not finished")
    }
  }

  /// Where pages of the log failed, their records' lines are in the image and not durable, and
  /// nobody knows which they are: everything that may have been written is flushed.
  ///
  /// - Returns: the pages, to be rebuilt when the log is empty.
  private func flushInsteadOfLostLog(_ memory: DurableMemory) throws(PoolError) -> [Int] {
    let failed = memory.failedPages
    guard !failed.isEmpty, !failed.isOverfull else { return [] }
    let pages = failed.offsets
    guard pages.allSatisfy({ $0 < parts.imageOffset }) else { return [] }
    failed.removeAll()
    let end = parts.imageOffset + watchedPages * DurableMemory.pageBytes
    memory.flush(parts.imageOffset..<end)
    return pages
  }
}
