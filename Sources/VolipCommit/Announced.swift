// Announced: memory whose writers say what they write.
//
//   page-tracked   the tracker finds the pages, the comparison with the image finds the lines
//   announced      the section's list has the bytes: no trap, no comparison
//
// Both go into the same record. A page is one or the other; the heap says which.
//
// Invariants
// 1. The image of announced pages lacks exactly what the live records from `RedoLog.updatedCount`
// on
//    have; before anybody reads it (rollback, audit, checkpoint) they are applied, in order.
// 2. Announced pages never are in a write set, but in an audit.

extension PoolEngine {
  /// Whether the tracker watches announced memory too.
  public var isAudited: Bool { options.audit }

  /// Makes pages announced memory, from the open section on, or, without one, because the pool says
  /// so. They are below the watched limit and were never written by a section.
  public func addAnnounced(_ pages: Range<Int>) throws(PoolError) {
    announcedPages.append(pages)
    guard !options.audit else { return }
    workingCopy.addAnnounced(pages)
    try parts.tracker.release(pages)
  }

  /// Takes pages of announced memory into use: from here on the update cannot meet a full disk.
  public func useAnnounced(_ pages: Range<Int>) throws(PoolError) {
    guard !pages.isEmpty else { return }
    try parts.blocks.allocate(pages: pages)
  }

  /// Lets the open section write page-tracked memory: heap metadata, for instance.
  public func trackOpenSection() throws(PoolError) {
    guard isInSection else { throw .noSection }
    guard laneOfThisThread == nil else { throw .pageTrackedWrite }
    isOnlyAnnounced = false
    try beginTracking()
  }

  /// Applies to the image what it lacks of announced writes, all of them durable by then.
  func updateAnnouncedImage(_ parts: EngineParts) throws(PoolError) {
    try fenceBuffered()
    // Taken once: a section of one update has a record of its own.
    guard !isRemoved(.announcedUpdate) else { return }
    let (memory, imageOffset) = (parts.memory, parts.imageOffset)
    parts.redoLog.updateAnnounced(ahead: { $0.prefetchImage(memory, imageOffset) }) {
      VolipCommit.updateAnnounced($0, to: memory, imageOffset: imageOffset)
    }
  }

  /// Puts announced writes of the open section back, and the runs of pages that it added.
  func takeAnnouncedBack(_ parts: EngineParts) throws(PoolError) {
    let hasAny = announced.needsRestore
    do throws(PoolError) {
      try fenceBuffered()
      // In an audit the tracker has the pages, armed perhaps, and they are taken back as others.
      if hasAny, !options.audit {
        try updateAnnouncedImage(parts)
        if !isRemoved(.announcedRestore) { announced.restore(from: parts.image) }
        try parts.memory.requireWhole()
      }
      announced.takeBack()
      while announcedPages.count > announcedRunsBefore {
        let pages = announcedPages.removeLast()
        guard !options.audit else { continue }
        workingCopy.removeAnnounced(pages)
        try parts.tracker.reclaim(pages)
      }
    } catch {
      throw poison(error, "section not rolled back")
    }
  }

  /// In an audit: fails a section that changed a byte of announced memory and did not say so. What
  /// it announced is logged as such, and not as lines.
  func audit(_ parts: EngineParts) throws(PoolError) {
    guard options.audit, !announcedPages.isEmpty, !isRemoved(.audit) else { return }
    let changes = parts.writeSet.takeChanges { page in
      announcedPages.contains { $0.contains(page) }
    }
    if let offset = announced.firstUnannounced(changes, image: parts.image) {
      try rollBack(parts)
      throw .unannouncedWrite(offset: offset)
    }
    if isOnlyAnnounced, parts.writeSet.lineCount > 0 {
      try rollBack(parts)
      throw .pageTrackedWrite
    }
  }
}
