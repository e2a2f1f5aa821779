// Trim: memory of clean pages goes back to the system (rule 15).
//
// A page that was ever written has a private copy in memory beside the image. Where both are equal
// the copy can go: the next access finds the image. Only with the gate closed and no section open,
// and after a checkpoint, so that the image lacks nothing (rule 12).

extension PoolEngine {
  /// Drops private copies that equal their image; returns how many pages.
  public func trim() throws(PoolError) -> Int {
    guard !isInSection else { throw .nestedSection }
    guard !isInEpochs else { throw .invalidArgument("a trim of a pool that is in epochs") }
    return try withGate { () throws(PoolError) in
      // A lane may write a page between its comparison and its drop.
      try closeLanes()
      try checkpoint()
      do throws(PoolError) {
        var dropped = try trimTracked(parts)
        for pages in workingCopy.announcedPages { dropped += try trimAnnounced(pages, parts) }
        parts.writeSet.removeAll()
        return dropped
      } catch {
        throw poison(error, "pages not dropped")
      }
    }
  }

  /// Armed before the comparison: what is written from then on is found. Armed again after it:
  /// dropping takes the protection with it.
  private func trimTracked(_ parts: EngineParts) throws(PoolError) -> Int {
    let (tracker, writeSet) = (parts.tracker, parts.writeSet)
    try workingCopy.takePrivate(0..<watchedPages, into: writeSet)
    writeSet.retainNone()
    parts.retention.forget(writeSet)
    try tracker.arm(writeSet)
    let dropped = try dropClean(parts)
    try tracker.arm(writeSet)
    tracker.settle(writeSet)
    return dropped
  }

  /// Nobody arms these. One that differs has bytes that nobody announced: they stay.
  private func trimAnnounced(
    _ pages: Range<Int>, _ parts: EngineParts
  ) throws(PoolError) -> Int {
    try workingCopy.takePrivate(pages, into: parts.writeSet)
    return try dropClean(parts)
  }

  private func dropClean(_ parts: EngineParts) throws(PoolError) -> Int {
    let writeSet = parts.writeSet
    writeSet.compare(workingCopy, with: parts.image)
    var dropped = 0
    try writeSet.forEachRun(gapPagesMax: 0, where: { !writeSet.hasChanges($0) }) {
      (pages) throws(PoolError) in
      try workingCopy.drop(pages)
      dropped += pages.count
    }
    return dropped
  }
}
