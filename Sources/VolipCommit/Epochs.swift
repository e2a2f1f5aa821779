// Epochs: the commits of programs that know nothing of sections.
//
// From `beginEpochs` on all that is written to the pool belongs to the running epoch, by whomever.
// `commitEpoch` makes it durable, all of it or nothing, and begins the next one. Who calls it
// knows that no thread is in the middle of a change: the pool cannot.
//
// Epochs and sections exclude each other, in one pool, while it is open.

extension PoolEngine {
  /// Lets every watched page be written outside sections from here on.
  public func beginEpochs() throws(PoolError) {
    try withGate { () throws(PoolError) in
      try closeLanes()
      try beginTracking()
      isInEpochs = true
    }
  }

  /// Commits what was written since the last epoch, and begins the next.
  ///
  /// - Returns: pages that were compared and lines that changed.
  /// - Throws: as `closeSection`. After an error the program's memory is not what it was: it must
  ///   not go on.
  @discardableResult
  public func commitEpoch() throws(PoolError) -> (pages: Int, lines: Int) {
    try withGate { () throws(PoolError) in
      precondition(isInEpochs)
      try endSection()
      parts.tracker.sectionOpened()
      return (parts.writeSet.pageCount, parts.writeSet.lineCount)
    }
  }

  /// As `watch`, while other threads may commit.
  public func watchInEpoch(upTo limit: Int) throws(PoolError) {
    try withGate { () throws(PoolError) in try watch(upTo: limit) }
  }

  /// Runs `body` while nobody commits.
  public func betweenCommits(_ body: () throws(PoolError) -> Void) throws(PoolError) {
    try withGate(body)
  }

  /// The parts of a range of the image, in bytes, that have blocks in the file.
  public func dataParts(in range: Range<UInt64>) -> [Range<UInt64>] {
    let start = superblock.geometry.imageOffset
    return file.dataParts(in: start + range.lowerBound..<start + range.upperBound)
      .map { $0.lowerBound - start..<$0.upperBound - start }
  }
}
