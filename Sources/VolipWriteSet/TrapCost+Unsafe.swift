// TrapCost: what one trap costs on this machine, measured once for each process and tracker.

import CVolipPersistence
import CVolipWriteSet
import Glibc
import Synchronization

enum TrapCost {
  /// Pages whose first writes are timed: enough for a median, 0.1 ms in all.
  static let sampleCount = 33

  private static let measured = Mutex<[TrackerKind: Double]>([:])

  /// Ticks from a write to an armed page until it is done, and of arming it again; median.
  static func ticks(_ kind: TrackerKind) -> Double {
    measured.withLock { known in
      if let ticks = known[kind] { return ticks }
      let ticks = (try? measure(kind)) ?? 0
      known[kind] = ticks
      return ticks
    }
  }

  private static func measure(_ kind: TrackerKind) throws(PoolError) -> Double {
    let scratch = try WorkingCopy.scratch(pageCount: sampleCount)
    let tracker = try makeTracker(kind, scratch)
    try tracker.watch(upTo: sampleCount)
    let writeSet = try WriteSet(pageCapacity: sampleCount)
    var samples: [UInt64] = []
    for round in 0..<2 {  // the first round also pays for private pages
      samples.removeAll()
      tracker.sectionOpened()
      for page in 0..<sampleCount {
        let start = cvp_ticks()
        // SAFETY: the scratch mapping has sampleCount pages and the tracker grants the write.
        scratch.address(page: page).storeBytes(of: UInt8(round + 1), as: UInt8.self)
        samples.append(cvp_ticks() - start)
      }
      tracker.sectionClosed()
      try tracker.takeWritten(into: writeSet)
      writeSet.retainNone()
      let start = cvp_ticks()
      try tracker.arm(writeSet)
      samples = samples.map { $0 + (cvp_ticks() - start) / UInt64(sampleCount) }
      tracker.settle(writeSet)
    }
    return Double(samples.sorted()[sampleCount / 2])
  }
}

/// Ticks of one trap of a tracker, for the choice between trapping and comparing.
public func trapTicks(_ kind: TrackerKind) -> Double { TrapCost.ticks(kind) }

/// A tracker of a kind over a working copy.
public func makeTracker(
  _ kind: TrackerKind, _ workingCopy: WorkingCopy
) throws(PoolError) -> any Tracker {
  switch kind {
  case .pageMapScan: return try PageMapScanTracker(workingCopy)
  case .writeProtect:
    guard !VirtualMachine.isEntered else {
      throw .trackerUnavailable(
        tracker: kind.rawValue, reason: "signals of the host do not reach the guest's writes")
    }
    return try WriteProtectTracker(workingCopy)
  case .dirtyBits: return DirtyBitsTracker(workingCopy, try guestRegion(kind, workingCopy))
  case .detectOnWrite: return DetectOnWriteTracker(workingCopy, try guestRegion(kind, workingCopy))
  case .adaptive:
    let costs = GuestCostsMeasurement.costs
    return AdaptiveTracker(workingCopy, try guestRegion(kind, workingCopy), costs: costs)
  case .dirtyLog: return try DirtyLogTracker(workingCopy, try guestRegion(kind, workingCopy))
  }
}

private func guestRegion(
  _ kind: TrackerKind, _ workingCopy: WorkingCopy
) throws(PoolError) -> GuestRegion {
  guard VirtualMachine.isEntered else {
    throw .trackerUnavailable(
      tracker: kind.rawValue, reason: "this process is not in guest mode: VirtualMachine.enter()")
  }
  return try GuestRegion(base: workingCopy.base, pageCount: workingCopy.pageCount)
}

/// What the adaptive tracker chooses by, measured once for each process in the guest.
enum GuestCostsMeasurement {
  /// Entries that are scanned and changed: enough that the clock's resolution does not matter.
  static let pageCount = 4096

  static let costs: GuestCosts = {
    var costs = GuestCosts(
      scanTicksPerPage: 1, dirtyTicks: TrapCost.ticks(.dirtyBits),
      faultTicks: TrapCost.ticks(.detectOnWrite), changeTicksPerPage: 100)
    guard let scratch = try? WorkingCopy.scratch(pageCount: pageCount),
      let writeSet = try? WriteSet(pageCapacity: pageCount),
      let region = try? guestRegion(.adaptive, scratch)
    else { return costs }
    let tracker = DirtyBitsTracker(scratch, region)
    guard (try? tracker.watch(upTo: pageCount)) != nil else { return costs }
    tracker.takeWritten(into: writeSet)
    let start = cvp_ticks()
    tracker.takeWritten(into: writeSet)
    let scanned = cvp_ticks()
    tracker.adopt(watched: pageCount, retained: writeSet)
    let changed = cvp_ticks()
    costs.scanTicksPerPage = Double(scanned - start) / Double(pageCount)
    costs.changeTicksPerPage = Double(changed - scanned) / Double(pageCount)
    tracker.stop()
    return costs
  }()
}

extension WorkingCopy {
  /// Pages of a file without a name, mapped privately as a pool's are: for measurements.
  public static func scratch(pageCount: Int) throws(PoolError) -> WorkingCopy {
    let descriptor = cvw_scratch_file(pageCount * pageBytes)
    guard descriptor >= 0 else {
      throw .system(operation: "memfd_create", errorNumber: -descriptor)
    }
    defer { close(descriptor) }
    return try mapAnywhere(descriptor: descriptor, pageCount: pageCount)
  }
}
