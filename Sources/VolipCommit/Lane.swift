// Lane: the part of the log to which one thread at a time commits alone.
//
//       tail                 applied                head
//        | in the image,      | sealed, not in the   |  free, up to tail + bytes
//        | not flushed        | image yet            |
//
// Who may touch what: announced, memory and redoLog only the thread that has taken the lane;
// `applied` only who holds the log lock (Lanes.swift). What both sides need is atomic:
//
//   isTaken     acquire: what the thread before did to the lane. Sequentially consistent with
//               Lanes.isClosed: either the taker sees the gate closed, or who closed it the taker.
//   pendingLsn  at most the lsn of the record in hand, from before it is drawn until `head` names
//               its end; released by the draw (Lanes.nextLsn) and by the end.
//   head, gaps  released when the record is durable; who reads up to head sees the bytes.
//   tail        released when both superblock copies name it: then the bytes before may go.

import Synchronization

/// Keeps what one thread changes all the time off the line of the cache, and off what the hardware
/// fetches with it, of what another one changes or reads.
package struct LinePadding {
  private let words = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

  package init() {}
}

final class Lane: @unchecked Sendable {
  private let paddingBefore = LinePadding()
  let index: Int
  let announced: AnnouncedWrites
  @exclusivity(unchecked) private(set) var memory: DurableMemory
  @exclusivity(unchecked) private(set) var redoLog: RedoLog
  /// A lane's records have no lines: always empty.
  let noLines: WriteSet
  @exclusivity(unchecked) var applied: UInt64 = 0
  @exclusivity(unchecked) var isDoomed = false
  /// Where its owner thinks of a checkpoint again.
  @exclusivity(unchecked) private var checkpointPosition: UInt64 = 0

  let isTaken = Atomic(false)
  let pendingLsn = Atomic(UInt64.max)
  let head = Atomic<UInt64>(0)
  let tail = Atomic<UInt64>(0)
  /// Where the last record of an even or odd lap ended, if the next one went to the next lap.
  private let gapEven = Atomic(UInt64.max)
  private let gapOdd = Atomic(UInt64.max)
  /// Who has it, as the kernel names threads.
  let thread = Atomic<Int32>(0)
  let committed = Atomic(0)
  let rolledBack = Atomic(0)
  private let fences = Atomic(0)
  private let storedBytes = Atomic(0)
  private let paddingAfter = LinePadding()

  init(
    index: Int, _ superblock: Superblock, _ memory: DurableMemory, announced: AnnouncedWrites,
    noLines: WriteSet
  ) {
    self.index = index
    self.announced = announced
    self.memory = DurableMemory(viewOf: memory)
    redoLog = RedoLog(superblock, superblock.logRegion, memory: self.memory)
    self.noLines = noLines
  }

  deinit { announced.deallocate() }

  /// After growth of the pool.
  func attach(_ memory: DurableMemory, _ superblock: Superblock, byteCount: Int) {
    self.memory = DurableMemory(viewOf: memory)
    redoLog = RedoLog(superblock, superblock.logRegion, memory: self.memory)
    announced.resize(byteCount: byteCount)
  }

  /// Empty, as the superblock describes it by now. Nobody has it.
  func restart(_ superblock: Superblock, _ region: LogRegion) {
    redoLog.restart(superblock, region)
    checkpointPosition = 0
    gapEven.store(.max, ordering: .relaxed)
    gapOdd.store(.max, ordering: .relaxed)
    moveEmpty(to: region.tail)
  }

  /// An empty lane goes on elsewhere. Under the log lock, and the lane's owner agrees.
  func moveEmpty(to position: UInt64) {
    applied = position
    head.store(position, ordering: .relaxed)
    tail.store(position, ordering: .releasing)
  }

  // MARK: The owner

  /// A number that no durable section of this or another lane had: stamps of a lane ascend, and
  /// those of exclusive sections have no lane in them.
  func beginSection() {
    isDoomed = false
    announced.begin(number: 1 << 63 | UInt64(index) << 56 | (redoLog.lastLsn + 1))
  }

  /// A checkpoint of another thread may have moved it.
  func readTail() { redoLog.tail = tail.load(ordering: .acquiring) }

  /// Whether it is half full; true again when a sixteenth of it was written since.
  func isDueForCheckpoint() -> Bool {
    readTail()
    guard redoLog.isHalfFull, redoLog.head >= checkpointPosition else { return false }
    checkpointPosition = redoLog.head + redoLog.bytes / 16
    return true
  }

  /// Draws the stamp of a record: the order in which records of all lanes apply. The application's
  /// locks are held, from before until `pend` has returned (rule 7).
  @inline(__always)
  func drawLsn(_ nextLsn: borrowing Atomic<UInt64>) -> UInt64 {
    // At most what is drawn; who sees the draw sees this, and who sees this sees the head of the
    // record before: without it a cut would pass a record that the walk does not reach.
    let next = nextLsn.load(ordering: .relaxed)
    pass(.laneDrawing)
    pendingLsn.store(next, ordering: .releasing)
    return nextLsn.wrappingAdd(1, ordering: .acquiringAndReleasing).oldValue
  }

  /// The record before `head` is durable.
  func publish(_ record: LogRecord) {
    let header = record.header
    if header.position != header.previousEnd, !isRemoved(.laneGap) {
      setGap(header.previousEnd)
    }
    head.store(header.end, ordering: .releasing)
    pendingLsn.store(.max, ordering: .releasing)
    fences.store(memory.counters.fences, ordering: .relaxed)
    storedBytes.store(memory.counters.storedBytes, ordering: .relaxed)
  }

  private func setGap(_ position: UInt64) {
    if position / redoLog.bytes % 2 == 0 {
      gapEven.store(position, ordering: .relaxed)
    } else {
      gapOdd.store(position, ordering: .relaxed)
    }
  }

  // MARK: Others

  var counters: PersistenceCounters {
    var counters = PersistenceCounters()
    counters.fences = fences.load(ordering: .relaxed)
    counters.storedBytes = storedBytes.load(ordering: .relaxed)
    return counters
  }

  /// Its durable records that are not free. Under the log lock: so neither head nor tail goes more
  /// than a lap on, and no gap that it needs is overwritten.
  func records() -> LaneRecords {
    let end = head.load(ordering: .acquiring)
    return LaneRecords(
      log: redoLog.reader(of: memory), position: tail.load(ordering: .relaxed), end: end,
      applied: applied,
      gaps: (gapEven.load(ordering: .relaxed), gapOdd.load(ordering: .relaxed)))
  }
}

/// A walk through the durable records of a lane.
struct LaneRecords {
  private let log: LogReader
  /// Where it is.
  private(set) var position: UInt64
  private let end: UInt64
  private let applied: UInt64
  private let gaps: (even: UInt64, odd: UInt64)
  /// Stamps of a lane ascend.
  private var lsn: UInt64 = 0

  init(
    log: LogReader, position: UInt64, end: UInt64, applied: UInt64,
    gaps: (even: UInt64, odd: UInt64)
  ) {
    (self.log, self.position, self.end) = (log, position, end)
    (self.applied, self.gaps) = (applied, gaps)
  }

  /// Whether the record at its position was applied before the walk.
  var isApplied: Bool { position < applied }

  /// The record at its position, or nil at the end.
  func first() throws(PoolError) -> LogRecord? {
    guard position < end else { return nil }
    let gap = position / log.region.bytes % 2 == 0 ? gaps.even : gaps.odd
    let start = position == gap ? log.region.lap(after: position) : position
    guard let record = log.record(at: start), record.header.lsn > lsn else {
      throw .unreadable(fileOffset: UInt64(log.region.start(of: start)))
    }
    return record
  }

  mutating func remove(_ record: LogRecord) {
    (position, lsn) = (record.header.end, record.header.lsn)
  }
}
