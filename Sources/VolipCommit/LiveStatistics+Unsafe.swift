// LiveStatistics: counts of a pool in use, for other processes to read from its file.
//
// They stand in lines of the file's first page, behind the superblock copy there, and are
// ordinary stores to the shared mapping that an open pool has anyway: nobody flushes them, nothing
// depends on them, and a commit pays for a line that stays in its cache. They mean something only
// while a process has the pool open, and if their generation is the superblock's, or the next one,
// which is about to be.
//
//   byte  size  field
//   2048     8  magic "VOLISTAT"
//   2056     4  version, 1
//   2060     4  process
//   2064     8  generation
//   2072     8  ticks of a trap of the tracker
//   2080     8  ticks of the comparison of a page
//   2088     8  which tracker: its place in TrackerKind.allCases
//   2112     8  committed sections
//   2120     8  sections rolled back
//   2128     8  pages compared
//   2136     8  lines logged
//   2144     8  log head, a position
//   2152     8  log tail
//   2160     8  bytes of the log
//   2168     8  lsn of the last section
//   2176    64  each lane: committed, rolled back, log head, log tail, lsn (8 bytes each), zero
//
// SAFETY: the first page is a superblock's, which every mapping of a pool file has; all words are
// aligned, and a reader takes each of them as it is at some moment.

import Glibc

/// Counts of a pool that a process has open, since that opened it.
public struct LiveStatistics: Equatable, Sendable {
  public var process: pid_t = 0
  public var generation: UInt64 = 0
  /// Ticks of the time-stamp counter: a trap of the tracker, and the comparison of a page; 0 where
  /// they were not measured.
  public var trapTicks: UInt64 = 0
  public var comparisonTicks: UInt64 = 0
  public var tracker: TrackerKind?
  public var committed: UInt64 = 0
  public var rolledBack: UInt64 = 0
  public var pages: UInt64 = 0
  public var lines: UInt64 = 0
  /// Positions in the log: bytes written to it in this generation, and those that are free again.
  public var logHead: UInt64 = 0
  public var logTail: UInt64 = 0
  public var logBytes: UInt64 = 0
  public var lastLsn: UInt64 = 0

  static let byte = 2048
  static let countsByte = 2112
  static let lanesByte = 2176
  static let magic: UInt64 = 0x5441_5453_494C_4F56  // "VOLISTAT", little-endian

  /// What the user of a pool has published, or nil where that is of an earlier time.
  package static func read(_ path: String) throws(PoolError) -> LiveStatistics? {
    let file = try PoolFile.view(path: path)
    let memory = try DurableMemory.view(
      .shared, descriptor: file.descriptor, byteCount: DurableMemory.pageBytes)
    let start = memory.address(byte)
    func word(_ offset: Int) -> UInt64 {
      UInt64(littleEndian: start.load(fromByteOffset: offset - byte, as: UInt64.self))
    }
    let found = try FailedPages.noted { () throws(PoolError) -> LiveStatistics? in
      let generation = file.superblock.generation
      guard word(byte) == magic, word(2064) == generation || word(2064) == generation + 1 else {
        return nil
      }
      var counts = LiveStatistics(
        process: pid_t(truncatingIfNeeded: word(2056) >> 32), generation: word(2064),
        trapTicks: word(2072), comparisonTicks: word(2080),
        tracker: word(2088) < UInt64(TrackerKind.allCases.count)
          ? TrackerKind.allCases[Int(word(2088))] : nil,
        committed: word(2112), rolledBack: word(2120), pages: word(2128), lines: word(2136),
        logHead: word(2144), logTail: word(2152), logBytes: word(2160), lastLsn: word(2168))
      for start in stride(from: lanesByte, to: lanesByte + LaneTable.countMax * 64, by: 64) {
        counts.committed &+= word(start)
        counts.rolledBack &+= word(start + 8)
        counts.logHead &+= word(start + 16)
        counts.logTail &+= word(start + 24)
        counts.lastLsn = max(counts.lastLsn, word(start + 32))
      }
      return counts
    }
    try memory.requireWhole()
    return found
  }
}

extension PoolEngine {
  /// Once, when the pool is open.
  func publishTracker() {
    let kind = TrackerKind.allCases.firstIndex(of: parts.tracker.kind) ?? 0
    let words: [UInt64] = [
      LiveStatistics.magic, 1 | UInt64(UInt32(bitPattern: getpid())) << 32,
      superblock.generation, UInt64(parts.retention.trapTicks), 0, UInt64(kind),
    ]
    let start = parts.memory.address(LiveStatistics.byte)
    for (index, word) in words.enumerated() {
      start.storeBytes(of: word.littleEndian, toByteOffset: index * 8, as: UInt64.self)
    }
    publish(SectionStatistics())
    let lines = parts.memory.address(LiveStatistics.lanesByte)
    lines.initializeMemory(as: UInt8.self, repeating: 0, count: LaneTable.countMax * 64)
  }

  /// With the gate closed and no section open: before a superblock that divides the log or makes it
  /// one again.
  func publishGeneration(_ generation: UInt64) {
    parts.memory.address(2064).storeBytes(of: generation.littleEndian, as: UInt64.self)
  }

  /// After each section of a lane, by who has the lane.
  @inline(__always)
  func publish(_ lane: Lane) {
    let start = parts.memory.address(LiveStatistics.lanesByte + lane.index * 64)
    func store(_ value: UInt64, _ word: Int) {
      start.storeBytes(of: value.littleEndian, toByteOffset: word * 8, as: UInt64.self)
    }
    store(UInt64(lane.committed.load(ordering: .relaxed)), 0)
    store(UInt64(lane.rolledBack.load(ordering: .relaxed)), 1)
    store(lane.head.load(ordering: .relaxed), 2)
    store(lane.tail.load(ordering: .relaxed), 3)
    store(lane.redoLog.lastLsn, 4)
  }

  /// After each section, by who holds the gate.
  @inline(__always)
  func publish(_ statistics: SectionStatistics) {
    let start = parts.memory.address(LiveStatistics.countsByte)
    func store(_ value: UInt64, _ word: Int) {
      start.storeBytes(of: value.littleEndian, toByteOffset: word * 8, as: UInt64.self)
    }
    store(UInt64(statistics.committed), 0)
    store(UInt64(statistics.rolledBack), 1)
    store(UInt64(statistics.pages), 2)
    store(UInt64(statistics.lines), 3)
    let redoLog = parts.redoLog
    store(redoLog.head, 4)
    store(redoLog.tail, 5)
    store(redoLog.bytes, 6)
    store(redoLog.lastLsn, 7)
    store(UInt64(parts.retention.comparisonTicks), (2080 - LiveStatistics.countsByte) / 8)
  }
}
