// AdaptiveTracker: dirty bits or detect-on-write, whichever is cheaper for the sections that come.
//
//   dirty bits        a scan of every watched page in each section, and a cheap first write
//   detect-on-write   nothing for pages that nobody writes, and a fault for a first write
//
// The costs are measured once for each process. After each section the one that was not chosen is
// reckoned up beside the one that was; when the difference has grown to what a change costs, the
// tracker changes (so it never pays more than twice what the better choice would have).

import VolipMachine

final class AdaptiveTracker: Tracker {
  let kind = TrackerKind.adaptive
  private let dirtyBits: DirtyBitsTracker
  private let detectOnWrite: DetectOnWriteTracker
  private var current: any AdoptingTracker
  /// Ticks that the other choice would have saved since the last change; never below 0.
  private var regret = 0.0
  private let costs: GuestCosts

  init(_ workingCopy: WorkingCopy, _ region: GuestRegion, costs: GuestCosts) {
    dirtyBits = DirtyBitsTracker(workingCopy, region)
    detectOnWrite = DetectOnWriteTracker(workingCopy, region)
    current = dirtyBits
    self.costs = costs
  }

  var armsForLessTogether: Bool { true }
  var watched: Int { current.watched }
  /// The tracker at work.
  var choice: TrackerKind { current.kind }

  func watch(upTo limit: Int) throws(PoolError) { try current.watch(upTo: limit) }
  func release(_ pages: Range<Int>) throws(PoolError) { try current.release(pages) }
  func reclaim(_ pages: Range<Int>) throws(PoolError) { try current.reclaim(pages) }
  func sectionOpened() {}
  func sectionClosed() {}
  func takeWritten(into writeSet: WriteSet) throws(PoolError) {
    try current.takeWritten(into: writeSet)
  }
  func takeWrittenAndArm(into writeSet: WriteSet) throws(PoolError) {
    try current.takeWrittenAndArm(into: writeSet)
  }
  func arm(_ writeSet: WriteSet) throws(PoolError) { try current.arm(writeSet) }
  func willWrite(_ pages: Range<Int>) {}
  func mayHaveStrayWrites() -> Bool { current.mayHaveStrayWrites() }
  func stop() { current.stop() }

  func settle(_ writeSet: WriteSet) {
    var firstWrites = 0
    for index in 0..<writeSet.pageCount where !writeSet.isRetained(index) { firstWrites += 1 }
    let scanning = Double(watched) * costs.scanTicksPerPage + Double(firstWrites) * costs.dirtyTicks
    let faulting = Double(firstWrites) * costs.faultTicks
    let isScanning = current.kind == .dirtyBits
    regret = max(0, regret + (isScanning ? scanning - faulting : faulting - scanning))
    guard regret > Double(watched) * costs.changeTicksPerPage else { return }
    regret = 0
    let next: any AdoptingTracker = isScanning ? detectOnWrite : dirtyBits
    next.adopt(watched: watched, retained: writeSet)
    current = next
  }
}

/// Measured costs of the two ways, in ticks.
struct GuestCosts: Sendable {
  var scanTicksPerPage: Double
  var dirtyTicks: Double
  var faultTicks: Double
  /// Of changing every watched page from one way to the other.
  var changeTicksPerPage: Double
}
