// Lanes: all lanes of a pool, the stamps that order their records, and the checkpoint that frees
// their space.
//
// Lock order: application locks, gate (PoolEngine), log lock, state of the handle. A thread that
// has a lane may take the log lock and never the gate: who has the gate may wait for the lane.
//
// Invariants
// 1. The cut of a checkpoint is a stamp below which every record is durable or was never stored.
//    Only records before it are applied, in the order of their stamps, by one thread at a time.
// 2. A lane's space is free when both superblock copies name a tail behind it and an applied lsn
//    not below its records (rule 2): so no record is ever replayed over a newer one.
// 3. A commit takes no lock but the log lock: where its lane is full, or half full and nobody has
//    the lock.
//
// SAFETY: the mutex is initialized before anybody sees the object, and destroyed with it.

import Glibc
import Synchronization

final class Lanes: @unchecked Sendable {
  let all: [Lane]
  /// Lanes that sections take.
  @exclusivity(unchecked) var sectionCount = 0
  /// Whether no lane may be taken: always but while the log is divided and the gate open.
  let isClosed = Atomic(true)
  /// Whether the log is divided. Under the gate.
  @exclusivity(unchecked) var isActive = false
  /// Under the log lock: the last cut.
  @exclusivity(unchecked) private var lastCut: UInt64 = 0
  private let logLock: UnsafeMutablePointer<pthread_mutex_t>
  private let paddingBefore = LinePadding()
  /// The next stamp.
  let nextLsn = Atomic<UInt64>(1)
  private let paddingAfter = LinePadding()

  init(
    count: Int, _ superblock: Superblock, _ memory: DurableMemory, _ workingCopy: WorkingCopy
  ) throws(PoolError) {
    var made: [Lane] = []
    let noLines = try WriteSet(pageCapacity: 1)
    for index in 0..<count {
      let announced = AnnouncedWrites(
        base: workingCopy.base, byteCount: workingCopy.pageCount * DurableMemory.pageBytes)
      made.append(
        Lane(index: index, superblock, memory, announced: announced, noLines: noLines))
    }
    all = made
    logLock = .allocate(capacity: 1)
    pthread_mutex_init(logLock, nil)
  }

  deinit {
    pthread_mutex_destroy(logLock)
    logLock.deallocate()
  }

  /// Runs `body` as the only one who applies records and writes the superblock.
  ///
  /// - Parameter evenWaiting: else `body` is not run while another one does that.
  func withLog(
    evenWaiting: Bool = true, _ body: () throws(PoolError) -> Void
  ) throws(PoolError) {
    if evenWaiting {
      pthread_mutex_lock(logLock)
    } else if pthread_mutex_trylock(logLock) != 0 {
      return
    }
    defer { pthread_mutex_unlock(logLock) }
    try body()
  }

  // MARK: Taking a lane

  /// A free lane, the one that the thread had last if it is free; nil when there is none or the
  /// gate is closed.
  @inline(__always)
  func take(hint: Int) -> Lane? {
    guard !isClosed.load(ordering: .relaxed) else { return nil }
    var index = hint < sectionCount ? hint : 0
    for _ in 0..<sectionCount {
      let lane = all[index]
      if !lane.isTaken.load(ordering: .relaxed),
        lane.isTaken.compareExchange(
          expected: false, desired: true, ordering: .sequentiallyConsistent
        ).exchanged
      {
        // Who closed the gate before this sees the lane taken, or this sees the gate closed.
        if !isClosed.load(ordering: .sequentiallyConsistent) || isRemoved(.laneGate) {
          return lane
        }
        lane.isTaken.store(false, ordering: .releasing)
        return nil
      }
      index = index + 1 == sectionCount ? 0 : index + 1
    }
    return nil
  }

  /// The threads that have a lane now.
  var threads: [Int32] {
    all.compactMap { lane in
      lane.isTaken.load(ordering: .acquiring) ? lane.thread.load(ordering: .relaxed) : nil
    }
  }

  var isQuiet: Bool { all.allSatisfy { !$0.isTaken.load(ordering: .sequentiallyConsistent) } }

  // MARK: The cut

  /// A stamp below which nothing is in hand. Under the log lock.
  func cut() -> UInt64 {
    var cut = nextLsn.load(ordering: .acquiring)
    if !isRemoved(.laneCut) {
      for lane in all { cut = min(cut, lane.pendingLsn.load(ordering: .acquiring)) }
    }
    // A thread that is about to draw may still say what was next before the last cut.
    lastCut = max(cut, lastCut)
    return lastCut
  }

  /// Waits until everything that was drawn before is durable, and cuts not before it: a thread that
  /// draws from now on may say what was next long ago. Under the log lock, which threads that are
  /// waited for do not take: between draw and publish they wait for nothing but a fence (rule 5).
  func waitForDrawn() {
    let drawn = nextLsn.load(ordering: .acquiring)
    guard !isRemoved(.laneRestoreWait) else { return }
    for lane in all {
      while lane.pendingLsn.load(ordering: .acquiring) < drawn { sched_yield() }
    }
    if !isRemoved(.laneRestoreCut) { lastCut = max(lastCut, drawn) }
  }

  /// Calls `body` for the records before `cut` that are not free, in the order of stamps, some at a
  /// time. Returns where the walk ended in each lane. Under the log lock.
  func forEachBatch(
    before cut: UInt64, _ body: ([LaneRecord]) -> Void
  ) throws(PoolError) -> [UInt64] {
    var walk = try LaneWalk(all, before: cut)
    var batch: [LaneRecord] = []
    repeat {
      batch.removeAll(keepingCapacity: true)
      while batch.count < RedoLog.recordsAhead, let next = try walk.next() { batch.append(next) }
      body(batch)
    } while !batch.isEmpty
    return walk.positions
  }

  /// Empty, in the regions that the superblock describes. Gate closed, no section open.
  func restart(_ superblock: Superblock, _ table: LaneTable) {
    for lane in all { lane.restart(superblock, superblock.laneRegion(lane.index, of: table)) }
    nextLsn.store(superblock.appliedLsn + 1, ordering: .relaxed)
    lastCut = 0
  }
}

/// A durable record of a lane.
struct LaneRecord {
  let record: LogRecord
  /// Whether an earlier walk has applied it.
  let isApplied: Bool
}

/// A walk through the records of all lanes, in the order of their stamps. Under the log lock.
private struct LaneWalk {
  private var lanes: [(records: LaneRecords, first: LogRecord?)]
  private let cut: UInt64

  init(_ lanes: [Lane], before cut: UInt64) throws(PoolError) {
    self.cut = cut
    self.lanes = lanes.map { ($0.records(), nil) }
    for index in lanes.indices { try read(index) }
  }

  /// Where it is in each lane.
  var positions: [UInt64] { lanes.map(\.records.position) }

  private mutating func read(_ index: Int) throws(PoolError) {
    lanes[index].first = try lanes[index].records.first()
  }

  mutating func next() throws(PoolError) -> LaneRecord? {
    var (next, lsn) = (-1, cut)
    for index in lanes.indices {
      guard let first = lanes[index].first, first.header.lsn < lsn else { continue }
      (next, lsn) = (index, first.header.lsn)
    }
    guard next >= 0, let record = lanes[next].first else { return nil }
    let isApplied = lanes[next].records.isApplied
    lanes[next].records.remove(record)
    try read(next)
    return LaneRecord(record: record, isApplied: isApplied)
  }
}
