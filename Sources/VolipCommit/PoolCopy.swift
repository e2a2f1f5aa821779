// PoolCopy: a pool file of the state after one section, of a pool that may be in use.
//
//   image     copied as it is, over some time: each of its lines is of some moment meanwhile
//   log       followed all that time: every record from before the image's first byte was read to
//             after its last one
//   replay    the records over the copied image, in order: the state after the last of them
//
// It is what recovery does after a crash, which leaves an image with parts of what the log has.
// Nobody waits for the copy, and it waits for nobody: a writer that fills the log faster than it is
// read makes it begin again. The copy has no name before it is whole and durable.

package struct PoolCopy {
  /// The section after which the copy was made.
  package private(set) var lastLsn: UInt64 = 0
  package private(set) var copiedBytes: UInt64 = 0
  /// Records that were written while it was made.
  package private(set) var followedRecords = 0
  package private(set) var attempts = 0
  private let report: (_ done: UInt64, _ total: UInt64) -> Void

  /// Between two looks at the log: half a millisecond at the speed of memory. A log of 2 MiB is not
  /// written in that time.
  static let chunkBytes: UInt64 = 1 << 20
  static let attemptsMax = 100

  /// Copies the pool at `path` to a new file at `target`.
  ///
  /// - Throws: `.inUse` when it is written faster than it can be followed; `.alreadyExists`; what
  ///   recovery throws of a pool that nobody uses; nothing is left behind.
  package init(
    from path: String, to target: String,
    report: @escaping (_ done: UInt64, _ total: UInt64) -> Void
  ) throws(PoolError) {
    self.report = report
    while true {
      attempts += 1
      do throws(PoolError) {
        try attempt(from: path, to: target)
        return
      } catch {
        guard case .inUse = error, attempts < Self.attemptsMax else { throw error }
      }
    }
  }

  private mutating func attempt(from path: String, to target: String) throws(PoolError) {
    // Of a pool in use nobody can tell damage from a record that is being written.
    if try !PoolFile.isInUse(path: path) { _ = try RecoveredView(path: path) }
    let source = try PoolFile.view(path: path)
    let made = try PoolFile.create(
      path: target, geometry: source.superblock.geometry, permissions: source.permissions())
    defer { made.unlock() }
    let memory = try DurableMemory.view(
      .shared, descriptor: source.descriptor, byteCount: Int(source.superblock.geometry.fileBytes))
    let features = source.superblock.compatibleFeatures
    let follower = LogFollower(source, memory)
    try FailedPages.noted { () throws(PoolError) in
      try copyImage(from: source, to: made, follower)
      try follower.drain()
      try memory.requireWhole()
    }
    lastLsn = follower.lastLsn
    followedRecords = follower.records.count
    try replay(follower.records, made, compatibleFeatures: features)
    try made.publish()
  }

  private mutating func copyImage(
    from source: PoolFile, to made: PoolFile, _ follower: LogFollower
  ) throws(PoolError) {
    let geometry = source.superblock.geometry
    var rest = geometry.imageOffset..<geometry.imageOffset + geometry.imageBytes
    copiedBytes = 0
    while !rest.isEmpty {
      let part = source.data(in: rest)
      var start = part.lowerBound
      while start < part.upperBound {
        let end = min(start + Self.chunkBytes, part.upperBound)
        try made.copy(start..<end, from: source)
        try follower.drain()
        copiedBytes += end - start
        start = end
        report(start - geometry.imageOffset, geometry.imageBytes)
      }
      rest = part.upperBound..<rest.upperBound
    }
  }

  private func replay(
    _ records: [LogRecord], _ made: PoolFile, compatibleFeatures: UInt64
  ) throws(PoolError) {
    let memory = try DurableMemory.map(
      descriptor: made.descriptor, forced: PersistencePath.forced)
    defer { memory.unmap() }
    let imageOffset = Int(made.superblock.geometry.imageOffset)
    let blocks = try ImageBlocks(made)
    for record in records { try blocks.allocate(record) }
    for record in records {
      update(record, to: memory, imageOffset: imageOffset)
      updateAnnounced(record, to: memory, imageOffset: imageOffset)
      flush(record, in: memory, imageOffset: imageOffset)
    }
    try memory.fence()
    try made.sync()  // what was not stored through the mapping
    var next = made.superblock
    next.sequence += 1
    next.appliedLsn = lastLsn
    next.compatibleFeatures = compatibleFeatures
    try made.write(next, through: memory)
  }
}
