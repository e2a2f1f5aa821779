// DetectOnWriteTracker: armed pages have no write permission in the guest's page table; the guest's
// page-fault handler gives it back and lists the page.
//
// A first write costs a fault inside the guest; a take costs nothing for pages that nobody wrote.

import VolipMachine

final class DetectOnWriteTracker: AdoptingTracker {
  let kind = TrackerKind.detectOnWrite
  let workingCopy: WorkingCopy
  let region: GuestRegion
  let armedFlags: PageTableEntry.Flags = .grantable
  var watched = 0
  /// Writable pages that a take reports whether they were written or not; ascending.
  private var retained: [UInt32] = []

  init(_ workingCopy: WorkingCopy, _ region: GuestRegion) {
    self.workingCopy = workingCopy
    self.region = region
  }

  /// Listed pages join the retained ones until they are armed: a second take before that reports
  /// them again.
  func takeWritten(into writeSet: WriteSet) {
    writeSet.removeAll()
    if region.listedCount > 0 {
      region.takeListed { retained.append(UInt32($0)) }
      retained.sort()
    }
    var last: UInt32?
    for page in retained where page != last {
      writeSet.append(page: Int(page))
      last = page
    }
  }

  func takeWrittenAndArm(into writeSet: WriteSet) {
    takeWritten(into: writeSet)
    writeSet.retainNone()
    arm(writeSet)
  }

  func arm(_ writeSet: WriteSet) {
    var isAny = false
    retained.removeAll(keepingCapacity: true)
    for index in 0..<writeSet.pageCount {
      if writeSet.isRetained(index) {
        retained.append(UInt32(writeSet.page(index)))
      } else {
        let flags: PageTableEntry.Flags =
          isRemoved(.armInGuest) ? .listed : [.writable, .dirty, .listed]
        region.remove(flags, from: writeSet.page(index))
        isAny = true
      }
    }
    if isAny { region.flush() }
  }

  func adopt(watched limit: Int, retained: WriteSet) {
    watched = limit
    self.retained.removeAll(keepingCapacity: true)
    for index in 0..<retained.pageCount where retained.isRetained(index) {
      region.add(.dirty, to: retained.page(index))
    }
    region.takeListed { region.add(.dirty, to: $0) }
    workingCopy.forEachTracked(0..<limit) { $0.forEach(adopt) }
    region.flush()
  }

  private func adopt(page: Int) {
    // First: from here on a write without permission is listed.
    region.add(.grantable, to: page)
    let before = region.remove([.writable, .dirty, .listed], from: page)
    // Retained, or written since the last take; only clean entries lose anything, so that no
    // processor writes by a translation of its own. Dirty again: without it the next write is a
    // fault once more.
    guard before.contains(.dirty) || before.contains(.listed) else { return }
    region.add([.listed, .writable, .dirty], to: page)
    retained.append(UInt32(page))
  }
}
