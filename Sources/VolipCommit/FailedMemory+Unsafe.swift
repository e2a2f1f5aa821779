// FailedMemory: what a section does about pages that failed under it. Nothing here runs while all
// memory is well.
//
//   a page of the working copy   what was written to it is lost: the section is rolled back
//   a page of the image          the section that wrote the page logs all of its lines; after its
//                                update the page is rebuilt in the file and mapped again
//   a page of the log            before its record is sealed: rolled back, the handle is poisoned

extension PoolEngine {
  /// Whether no page failed since this was last asked for.
  @inline(__always)
  func isWhole(_ parts: EngineParts) -> Bool {
    workingCopy.failedPages.isEmpty && parts.memory.failedPages.isEmpty
  }

  /// Failures in the comparison of a commit.
  func answerFailures(_ parts: EngineParts) throws(PoolError) {
    do throws(PoolError) {
      try requireImages(parts)
      guard noteLostPages(parts) else {
        throw .unreadable(fileOffset: UInt64(parts.memory.failedPages.offsets[0]))
      }
    } catch {
      throw poison(error, "the image could not be read")
    }
    // A page that was dropped may have been compared as its image: no page is complete without it.
    let lostMemory = workingCopy.failedPages.offsets.first
    if let lostMemory, !isRemoved(.lostMemoryCheck) {
      try rollBack(parts)
      throw .memoryFailed(offset: UInt64(lostMemory))
    }
    if !isRemoved(.lostPagesWhole) { parts.writeSet.markWhole(parts.lostPages) }
  }

  /// What is neither in memory nor in the file is nowhere: the file became shorter.
  private func requireImages(_ parts: EngineParts) throws(PoolError) {
    let failed = workingCopy.failedPages
    guard failed.isHopeless else { return }
    let offset = parts.imageOffset + failed.offsets[0]
    try workingCopy.uncover(descriptor: file.descriptor, geometry: file.superblock.geometry)
    throw .unreadable(fileOffset: UInt64(offset))
  }

  /// Takes failed pages of the image for this section to rebuild: those that its comparison or its
  /// update met. False, and nothing is taken, where others failed too, or too many to know.
  func noteLostPages(_ parts: EngineParts) -> Bool {
    let (failed, imageOffset) = (parts.memory.failedPages, parts.imageOffset)
    guard !failed.isOverfull, failed.offsets.allSatisfy({ $0 >= imageOffset }) else { return false }
    parts.lostPages += failed.offsets.map { ($0 - imageOffset) / DurableMemory.pageBytes }
    failed.removeAll()
    return true
  }

  /// After the update: the section's own pages are what the image has to be.
  func rebuildImage(_ parts: EngineParts) throws(PoolError) {
    let pageBytes = DurableMemory.pageBytes
    do throws(PoolError) {
      for page in parts.lostPages {
        let offset = parts.imageOffset + page * pageBytes
        // SAFETY: a page of the write set, and what stands in for its image.
        parts.memory.address(offset).copyMemory(
          from: base + page * pageBytes, byteCount: pageBytes)
        if !isRemoved(.rebuildImage) { try parts.memory.rebuild(page: offset) }
      }
    } catch {
      throw poison(error, "a page of the image could not be rebuilt")
    }
    parts.lostPages.removeAll()
  }

  /// Failures in the comparison of a section that is taken back. Lost pages of the working copy are
  /// gone already; of an image page it knows only what the section left.
  func takeBackFailed(_ parts: EngineParts) throws(PoolError) {
    do throws(PoolError) {
      try requireImages(parts)
      try parts.memory.requireWhole()
    } catch {
      throw poison(error, "section not rolled back")
    }
    try rollBack(parts)
  }
}
