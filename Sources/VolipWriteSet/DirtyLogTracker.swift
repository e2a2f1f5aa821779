// DirtyLogTracker: KVM's own log of dirty pages. A take asks for it, arming clears the bits of the
// pages to arm, so that KVM notices their next write.
//
// Nothing in the guest's page table changes from section to section, and nothing depends on the
// guest's own flushes. A take is an exit, and so is arming, whatever was written. KVM copies the
// log of whole memory slots, 32 KiB for each GiB.
//
// What system calls write is marked beside the log. A page reported once too often costs a
// comparison: one that a system call wrote may be logged when the guest next reads it, because KVM
// maps it writable then.

import VolipMachine

final class DirtyLogTracker: GuestTracker {
  let kind = TrackerKind.dirtyLog
  let workingCopy: WorkingCopy
  let region: GuestRegion
  /// Nothing ever takes the right to write away.
  let armedFlags: PageTableEntry.Flags = [.writable, .dirty]
  var watched = 0
  private let log: DirtyLog

  init(_ workingCopy: WorkingCopy, _ region: GuestRegion) throws(PoolError) {
    self.workingCopy = workingCopy
    self.region = region
    log = try DirtyLog(region, base: workingCopy.base)
  }

  func watch(upTo limit: Int) throws(PoolError) {
    guard limit > watched else { return }
    let added = watched..<limit
    try watchEntries(upTo: limit)
    try log.clear(added)
  }

  func reclaim(_ pages: Range<Int>) throws(PoolError) {
    reclaimEntries(pages)
    for page in pages { log.unmark(page) }
    try log.clear(pages)
  }

  func takeWritten(into writeSet: WriteSet) throws(PoolError) {
    writeSet.removeAll()
    try log.read(upTo: watched)
    workingCopy.forEachTracked(0..<watched) { pages in
      log.forEachWritten(in: pages) { writeSet.append(page: $0) }
    }
  }

  func takeWrittenAndArm(into writeSet: WriteSet) throws(PoolError) {
    try takeWritten(into: writeSet)
    writeSet.retainNone()
    try arm(writeSet)
  }

  /// A retained page keeps its bit or its mark, so that takes go on reporting it.
  func arm(_ writeSet: WriteSet) throws(PoolError) {
    try log.clear(count: writeSet.pageCount) { index in
      guard !writeSet.isRetained(index) else { return nil }
      let page = writeSet.page(index)
      log.unmark(page)
      return page
    }
  }

  func stop() {
    log.close()
    region.close()
  }
}
