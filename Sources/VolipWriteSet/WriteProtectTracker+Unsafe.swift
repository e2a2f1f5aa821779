// WriteProtectTracker: mprotect, and a SIGSEGV handler that gives a page back on its first write.
//
// Works on every kernel. Stray writes are caught as they happen: the handler says where and hands
// the signal to the program's own handler or the default action.

import CVolipWriteSet
import Glibc

public final class WriteProtectTracker: Tracker {
  public let kind = TrackerKind.writeProtect
  /// mprotect costs 1 us a call and 20 ns for each page it passes.
  private let gapPagesMax = 32
  private let workingCopy: WorkingCopy
  private let region: OpaquePointer
  @exclusivity(unchecked) private var watched = 0
  private var isStopped = false

  public init(_ workingCopy: WorkingCopy) throws(PoolError) {
    self.workingCopy = workingCopy
    let created = cvw_trap_region_create(workingCopy.base, workingCopy.pageCount)
    guard let created else {
      throw .trackerUnavailable(
        tracker: TrackerKind.writeProtect.rawValue, reason: "too many open pools or no memory")
    }
    region = created
    cvw_trap_kill_at(Int64(killNumber(.pageFault)))
    try installHandler()
  }

  deinit {
    stop()
  }

  public func stop() {
    guard !isStopped else { return }
    isStopped = true
    cvw_trap_region_destroy(region)
  }

  private func installHandler() throws(PoolError) {
    let result = cvw_trap_handler_install()
    guard result == 0 else { throw .system(operation: "sigaction", errorNumber: -result) }
  }

  public func watch(upTo limit: Int) throws(PoolError) {
    precondition(limit <= workingCopy.pageCount)
    watched = max(watched, limit)
    cvw_trap_region_limit(region, watched)
  }

  public func release(_ pages: Range<Int>) throws(PoolError) {
    try workingCopy.makeWritable(pages)
  }

  public func reclaim(_ pages: Range<Int>) throws(PoolError) { try arm(pages) }

  public func sectionOpened() {
    // The program may have installed a handler of its own since: ours goes in front of it.
    _ = cvw_trap_handler_install()
    cvw_trap_region_open(region, true)
  }

  public func sectionClosed() {
    cvw_trap_region_open(region, false)
  }

  public func takeWritten(into writeSet: WriteSet) throws(PoolError) {
    writeSet.removeAll()
    var count = 0
    let written = cvw_trap_region_written(region, &count)
    // SAFETY: the section is closed, so no handler changes the list; it has `count` entries.
    var pages = UnsafeMutableBufferPointer(start: written, count: count)
    pages.sort()
    for page in pages { writeSet.append(page: Int(page)) }
  }

  public func takeWrittenAndArm(into writeSet: WriteSet) throws(PoolError) {
    try takeWritten(into: writeSet)
    writeSet.retainNone()
    try arm(writeSet)
  }

  public func arm(_ writeSet: WriteSet) throws(PoolError) {
    try workingCopy.forEachRunToArm(writeSet, gapPagesMax: gapPagesMax, arm)
  }

  private func arm(_ pages: Range<Int>) throws(PoolError) {
    do throws(PoolError) {
      if !isRemoved(.armByProtection) { try workingCopy.makeReadOnly(pages) }
    } catch {
      // No mapping is left to split one. As one mapping again the whole pool takes none; retained
      // pages are armed with it, and stay in the list, so that they are compared all the same.
      guard error == .system(operation: "mprotect", errorNumber: ENOMEM) else { throw error }
      try workingCopy.forEachTracked(0..<watched, workingCopy.makeReadOnly)
    }
    for page in pages { cvw_trap_region_forget(region, UInt32(page)) }
  }

  public func settle(_ writeSet: WriteSet) {
    var count = 0
    let list = cvw_trap_region_written(region, &count)!
    var kept = 0
    // SAFETY: kept pages are a subset of the list, so the list has room for them.
    for index in 0..<writeSet.pageCount where writeSet.retained[index] {
      list[kept] = UInt32(writeSet.page(index))
      kept += 1
    }
    cvw_trap_region_keep(region, list, kept)
  }

  public func willWrite(_ pages: Range<Int>) throws(PoolError) {
    for page in pages {
      let result = cvw_trap_region_grant(region, UInt32(page))
      guard result == 0 else { throw .system(operation: "mprotect", errorNumber: -result) }
    }
  }

  public func mayHaveStrayWrites() -> Bool { false }
}
