import CVolipWriteSet
import Dispatch
import Glibc
import TestSupport
import Testing

@testable import VolipWriteSet

/// Why a tracker cannot be tested here, or nil. Printed, so that a skipped test is seen.
func whyUnavailable(_ kind: TrackerKind) -> String? {
  do {
    _ = try TrackedPages(kind, pageCount: 1)
    return nil
  } catch {
    print("skipped: \(error)")
    return "\(error)"
  }
}

/// A working copy of a scratch file under a tracker, and a byte-for-byte copy to compare with.
final class TrackedPages {
  let workingCopy: WorkingCopy
  let tracker: any Tracker
  let writeSet: WriteSet
  let pageCount: Int
  private(set) var before: [UInt8]

  init(_ kind: TrackerKind, pageCount: Int) throws {
    self.pageCount = pageCount
    let descriptor = cvw_scratch_file(pageCount * 4096)
    defer { close(descriptor) }
    workingCopy = try WorkingCopy.mapAnywhere(descriptor: descriptor, pageCount: pageCount)
    tracker = try makeTracker(kind, workingCopy)
    writeSet = try WriteSet(pageCapacity: pageCount)
    before = [UInt8](repeating: 0, count: pageCount * 4096)
    try tracker.watch(upTo: pageCount)
  }

  var bytes: UnsafeMutablePointer<UInt8> {
    workingCopy.base.assumingMemoryBound(to: UInt8.self)
  }

  func rememberBytes() {
    before.withUnsafeMutableBytes {
      $0.baseAddress!.copyMemory(from: workingCopy.base, byteCount: pageCount * 4096)
    }
  }

  /// Pages of which a byte changed since `rememberBytes`.
  var changedPages: Set<Int> {
    let base = workingCopy.base
    return before.withUnsafeBytes { old in
      Set(
        (0..<pageCount).filter {
          memcmp(old.baseAddress! + $0 * 4096, base + $0 * 4096, 4096) != 0
        })
    }
  }

  /// Ends a section; returns what the tracker says.
  func take(arming: Bool = false) throws -> Set<Int> {
    tracker.sectionClosed()
    if arming {
      try tracker.takeWrittenAndArm(into: writeSet)
    } else {
      try tracker.takeWritten(into: writeSet)
    }
    let pages = (0..<writeSet.pageCount).map { writeSet.page($0) }
    #expect(pages == pages.sorted())
    #expect(Set(pages).count == pages.count)
    return Set(pages)
  }

  /// Arms all but the pages to retain.
  func rearm(retaining keep: Set<Int>) throws {
    writeSet.markRetained(keep.contains)
    try tracker.arm(writeSet)
    tracker.settle(writeSet)
  }
}

@Suite struct TrackerTests {
  /// Random rounds against a byte-for-byte oracle, as many as VOLIP_TRACKER_ROUNDS says: nothing
  /// that changed is missed, nothing that was neither written nor retained is reported.
  @Test(arguments: TrackerKind.hostKinds, [1, 2])
  func noPageIsMissedInAThousandRandomRounds(_ kind: TrackerKind, threads: Int) throws {
    guard whyUnavailable(kind) == nil else { return }
    var generator = SeededGenerator.forTest("noPageIsMissed \(kind.rawValue) \(threads)")
    let pages = try TrackedPages(kind, pageCount: 192)
    var retained: Set<Int> = []
    var missed = 0
    var extra = 0
    for _ in 0..<Guest.count("VOLIP_TRACKER_ROUNDS", short: 1000) {
      pages.rememberBytes()
      pages.tracker.sectionOpened()
      let most = Int.random(in: 1...9, using: &generator) == 1 ? 400 : 24
      let plans = (0..<threads).map { _ in
        (0..<Int.random(in: 0...most, using: &generator)).map { _ in
          Int.random(in: 0..<192 * 4096, using: &generator)
        }
      }
      let written = Set(plans.joined().map { $0 / 4096 })
      nonisolated(unsafe) let bytes = pages.bytes
      DispatchQueue.concurrentPerform(iterations: threads) { thread in
        for offset in plans[thread] { bytes[offset] &+= 1 }
      }
      let arming = retained.isEmpty && Bool.random(using: &generator)
      let found = try pages.take(arming: arming)
      missed += pages.changedPages.subtracting(found).count
      extra += found.subtracting(written).subtracting(retained).count
      retained = found.filter { _ in !arming && Int.random(in: 0..<3, using: &generator) == 0 }
      if arming {
        pages.writeSet.retainNone()
        pages.tracker.settle(pages.writeSet)
      } else {
        if Bool.random(using: &generator) { retained = [] }
        try pages.rearm(retaining: retained)
      }
      if Int.random(in: 0..<4, using: &generator) == 0 {
        try dropSome(pages, &retained, &generator)
      }
    }
    #expect(missed == 0)
    #expect(extra == 0)
  }

  /// An epoch is collected while the kernel may write for a system call. Retention was off there,
  /// because the call that arms a run of pages armed those between them, too, unseen: what was
  /// written to one of those since the take was in no epoch.
  @Test func whatIsWrittenBetweenTakingAndArmingIsInTheWriteSet() throws {
    guard whyUnavailable(.pageMapScan) == nil else { return }
    let pages = try TrackedPages(.pageMapScan, pageCount: 600)
    pages.tracker.sectionOpened()
    for page in [1, 5, 10, 12, 400] { pages.bytes[page * 4096] = 1 }
    #expect(try pages.take() == [1, 5, 10, 12, 400])
    for page in [0, 3, 4, 11, 200, 599] { pages.bytes[page * 4096] = 1 }
    try pages.rearm(retaining: [10])
    let collected = (0..<pages.writeSet.pageCount).map { pages.writeSet.page($0) }
    #expect(collected == [1, 3, 4, 5, 10, 12, 400])
    #expect(collected.indices.filter { pages.writeSet.isRetained($0) } == [4])
    // 200 is in a gap too long for a run, the others are in none: they were not armed.
    #expect(try pages.take() == [0, 10, 11, 200, 599])
  }

  /// Rolls pages back as an aborted section does.
  private func dropSome(
    _ pages: TrackedPages, _ retained: inout Set<Int>, _ generator: inout SeededGenerator
  ) throws {
    pages.tracker.sectionOpened()
    pages.tracker.sectionClosed()
    try pages.tracker.takeWritten(into: pages.writeSet)
    try pages.rearm(retaining: [])
    retained = []
    let written = (0..<pages.writeSet.pageCount).map { pages.writeSet.page($0) }
    for page in written where Bool.random(using: &generator) {
      try pages.workingCopy.drop(page..<page + 1)
    }
    // Dropping takes the protection with it.
    try pages.tracker.arm(pages.writeSet)
  }

  /// The kernel leaves the address of an inner stop in `walk_end` when it reports more than 512
  /// regions in one call. Taken at its word, the scan began again in the middle and reported pages
  /// twice, out of order.
  @Test func aScanOfThousandsOfSinglePagesReportsEachOnce() throws {
    guard whyUnavailable(.pageMapScan) == nil else { return }
    let pages = try TrackedPages(.pageMapScan, pageCount: 20_000)
    pages.tracker.sectionOpened()
    let written = Set(stride(from: 0, to: 20_000, by: 2))
    for page in written { pages.bytes[page * 4096] = 1 }
    #expect(try pages.take() == written)
    #expect(pages.writeSet.pageCount == 10_000)
    #expect(try pages.take(arming: true) == written)
    #expect(try pages.take().isEmpty)
  }

  @Test func pageMapScanSeesTheWritesOfSystemCalls() throws {
    guard whyUnavailable(.pageMapScan) == nil else { return }
    let pages = try TrackedPages(.pageMapScan, pageCount: 8)
    let descriptor = open("/dev/zero", O_RDONLY | O_CLOEXEC)
    defer { close(descriptor) }
    pages.tracker.sectionOpened()
    #expect(read(descriptor, pages.bytes + 3 * 4096 + 100, 5000) == 5000)
    #expect(try pages.take() == [3, 4])
  }

  /// The documented limit of mprotect, and the way round it.
  @Test func aSystemCallIntoAProtectedPageFailsWithEFAULTUnlessWillWriteCameFirst() throws {
    let pages = try TrackedPages(.writeProtect, pageCount: 8)
    let descriptor = open("/dev/zero", O_RDONLY | O_CLOEXEC)
    defer { close(descriptor) }
    pages.tracker.sectionOpened()
    #expect(read(descriptor, pages.bytes + 4096, 100) == -1)
    #expect(errno == EFAULT)
    try pages.tracker.willWrite(1..<2)
    #expect(read(descriptor, pages.bytes + 4096, 100) == 100)
    #expect(try pages.take() == [1])
  }

  @Test(arguments: TrackerKind.hostKinds)
  func aWatchThatGrowsFindsPagesOnBothSidesOfTheOldLimit(_ kind: TrackerKind) throws {
    guard whyUnavailable(kind) == nil else { return }
    let descriptor = cvw_scratch_file(16 * 4096)
    defer { close(descriptor) }
    let workingCopy = try WorkingCopy.mapAnywhere(descriptor: descriptor, pageCount: 16)
    let tracker = try makeTracker(kind, workingCopy)
    let writeSet = try WriteSet(pageCapacity: 16)
    try tracker.watch(upTo: 4)
    tracker.sectionOpened()
    workingCopy.address(page: 3).storeBytes(of: 1, as: UInt8.self)
    try tracker.watch(upTo: 9)
    workingCopy.address(page: 8).storeBytes(of: 1, as: UInt8.self)
    tracker.sectionClosed()
    try tracker.takeWritten(into: writeSet)
    #expect((0..<writeSet.pageCount).map { writeSet.page($0) } == [3, 8])
  }
}
