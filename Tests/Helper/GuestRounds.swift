import Glibc
import Synchronization
import VolipMem

// MARK: Write sets against oracles

/// guest-rounds TRACKER THREADS ROUNDS SEED
func guestRounds(_ arguments: [String]) throws {
  let kind = TrackerKind(rawValue: arguments[0])!
  let rounds = try GuestRounds(kind, threads: Int(arguments[1])!, seed: UInt64(arguments[3])!)
  for _ in 0..<Int(arguments[2])! { try rounds.run() }
  print("missed \(rounds.missed) extra \(rounds.extra) written \(rounds.written > 0)")
}

/// Random rounds of writes by threads and by system calls. What a guest tracker reports is compared
/// with the bytes that changed and, in four rounds of eight, with what PAGEMAP_SCAN says of the
/// same pages: a scan that arms takes stale translations away and would hide a missing flush.
final class GuestRounds {
  static let pageCount = 1200  // more than two tables of entries
  let workingCopy: WorkingCopy
  let tracker: any Tracker
  let oracle: any Tracker
  let writeSet: WriteSet
  let oracleSet: WriteSet
  let threads: Int
  var generator: SplitMix
  var before: [UInt8]
  var retained: Set<Int> = []
  var missed = 0
  var extra = 0
  var written = 0
  private var round = 0
  private var isScanned: Bool { round % 8 < 4 }

  init(_ kind: TrackerKind, threads: Int, seed: UInt64) throws {
    let file = memfd(byteCount: Self.pageCount * 4096)
    workingCopy = try WorkingCopy.mapAnywhere(descriptor: file, pageCount: Self.pageCount)
    tracker = try makeTracker(kind, workingCopy)
    oracle = try makeTracker(.pageMapScan, workingCopy)
    writeSet = try WriteSet(pageCapacity: Self.pageCount)
    oracleSet = try WriteSet(pageCapacity: Self.pageCount)
    self.threads = threads
    generator = SplitMix(state: seed)
    before = [UInt8](repeating: 0, count: Self.pageCount * 4096)
    try oracle.watch(upTo: Self.pageCount)
    try tracker.watch(upTo: Self.pageCount)
  }

  func run() throws {
    defer { round += 1 }
    if round % 8 == 0 { try oracle.takeWrittenAndArm(into: oracleSet) }
    memcpy(&before, workingCopy.base, before.count)
    tracker.sectionOpened()
    let plans = (0..<threads).map { _ in plan() }
    nonisolated(unsafe) let base = workingCopy.base
    onThreads(threads) { thread in
      for step in plans[thread] { step.take(base) }
    }
    tracker.sectionClosed()
    let planned = Set(plans.joined().flatMap(\.pages))
    written += planned.count
    try tracker.takeWritten(into: writeSet)
    let found = Set((0..<writeSet.pageCount).map { writeSet.page($0) })
    var scanned: Set<Int> = []
    if isScanned {
      try oracle.takeWrittenAndArm(into: oracleSet)
      scanned = Set((0..<oracleSet.pageCount).map { oracleSet.page($0) })
    }
    missed += changedPages.union(scanned).subtracting(found).count
    extra += found.subtracting(planned).subtracting(retained).count
    let keeps = generator.next() % 2 == 0
    writeSet.markRetained { _ in keeps && self.generator.next() % 3 == 0 }
    retained = Set((0..<writeSet.pageCount).filter(writeSet.isRetained).map { writeSet.page($0) })
    try tracker.arm(writeSet)
    tracker.settle(writeSet)
    if generator.next() % 8 == 0 { try rollBackSome() }
  }

  private func rollBackSome() throws {
    try tracker.takeWritten(into: writeSet)
    writeSet.retainNone()
    retained = []
    try tracker.arm(writeSet)
    for index in 0..<writeSet.pageCount where generator.next() % 2 == 0 {
      let page = writeSet.page(index)
      try workingCopy.drop(page..<page + 1)
    }
    try tracker.arm(writeSet)
    tracker.settle(writeSet)
    if isScanned { try oracle.takeWrittenAndArm(into: oracleSet) }
  }

  private var changedPages: Set<Int> {
    Set(
      (0..<Self.pageCount).filter { page in
        before.withUnsafeBytes {
          memcmp($0.baseAddress! + page * 4096, workingCopy.base + page * 4096, 4096) != 0
        }
      })
  }

  enum Step {
    case store(offset: Int)
    case systemCall(offset: Int, byteCount: Int)

    var pages: [Int] {
      switch self {
      case .store(let offset): [offset / 4096]
      case .systemCall(let offset, let byteCount):
        Array(offset / 4096...(offset + byteCount - 1) / 4096)
      }
    }

    func take(_ base: UnsafeMutableRawPointer) {
      switch self {
      case .store(let offset):
        let byte = (base + offset).assumingMemoryBound(to: UInt8.self)
        byte.pointee = byte.pointee &+ 1
      case .systemCall(let offset, let byteCount): fillRandomly(base + offset, byteCount)
      }
    }
  }

  private func plan() -> [Step] {
    let most = generator.next() % 9 == 0 ? 700 : 30
    let count = Int(generator.next() % UInt64(most))
    return (0..<count).map { _ in
      // Half of the writes meet pages that the last rounds wrote as well.
      let pages = generator.next() % 2 == 0 ? 64 : Self.pageCount
      let offset = Int(generator.next() % UInt64(pages * 4096 - 9000))
      return generator.next() % 10 == 0
        ? .systemCall(offset: offset, byteCount: Int(generator.next() % 9000) + 1)
        : .store(offset: offset)
    }
  }
}

/// guest-spinner TRACKER ROUNDS: the pages are written by a thread that never leaves the guest by
/// itself, so that only the other thread's flushes take its stale translations away.
func guestSpinner(_ arguments: [String]) throws {
  let pageCount = 64
  let file = memfd(byteCount: pageCount * 4096)
  let workingCopy = try WorkingCopy.mapAnywhere(descriptor: file, pageCount: pageCount)
  let tracker = try makeTracker(TrackerKind(rawValue: arguments[0])!, workingCopy)
  let writeSet = try WriteSet(pageCapacity: pageCount)
  try tracker.watch(upTo: pageCount)
  let rounds = Int(arguments[1])!
  let (asked, done) = (Turn(), Turn())
  nonisolated(unsafe) let base = workingCopy.base
  nonisolated(unsafe) let work = { () throws -> Int in
    var missed = 0
    for round in 1...rounds {
      tracker.sectionOpened()
      asked.number.store(round, ordering: .releasing)
      while done.number.load(ordering: .acquiring) < round {}
      tracker.sectionClosed()
      try tracker.takeWrittenAndArm(into: writeSet)
      let found = (0..<writeSet.pageCount).map { writeSet.page($0) }
      if !found.contains(round % 3) { missed += 1 }
      writeSet.retainNone()
      tracker.settle(writeSet)
    }
    return missed
  }
  onThreads(2) { thread in
    if thread == 0 {
      let missed = try? work()
      print("missed \(missed ?? -1) rounds \(rounds)")
    } else {
      for round in 1...rounds {
        while asked.number.load(ordering: .acquiring) < round {}
        (base + round % 3 * 4096).storeBytes(of: UInt8(truncatingIfNeeded: round), as: UInt8.self)
        done.number.store(round, ordering: .releasing)
      }
    }
  }
}

private final class Turn: Sendable {
  let number = Atomic(0)
}

/// The kernel writes, and not the guest.
func fillRandomly(_ memory: UnsafeMutableRawPointer, _ byteCount: Int) {
  let getrandom = function(
    "getrandom", as: (@convention(c) (UnsafeMutableRawPointer, Int, UInt32) -> Int).self)
  precondition(getrandom(memory, byteCount, 0) == byteCount)
}

/// Runs `body` on threads of their own, this one for the first, and waits for all.
func onThreads(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
  final class Start: Sendable {
    let index: Int
    let body: @Sendable (Int) -> Void

    init(_ index: Int, _ body: @escaping @Sendable (Int) -> Void) {
      self.index = index
      self.body = body
    }
  }
  let threads = (1..<max(count, 1)).map { index in
    var thread = pthread_t()
    let start = Unmanaged.passRetained(Start(index, body))
    let result = pthread_create(
      &thread, nil,
      {
        let start = Unmanaged<Start>.fromOpaque($0!).takeRetainedValue()
        start.body(start.index)
        return nil
      }, start.toOpaque())
    precondition(result == 0, "pthread_create \(result)")
    return thread
  }
  body(0)
  for thread in threads { pthread_join(thread, nil) }
}

func memfd(byteCount: Int) -> Int32 {
  let create = function(
    "memfd_create", as: (@convention(c) (UnsafePointer<CChar>, UInt32) -> Int32).self)
  let file = create("volip-test", 1)
  precondition(file >= 0 && ftruncate(file, off_t(byteCount)) == 0)
  return file
}

/// guest-short-sections POOL SECTIONS THREADS TRACKER: each thread counts in words of its own, all
/// in the same pages; at the end every count must be in the image.
func guestShortSections(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.engine.persistencePath = .cacheLines
  options.engine.tracker = TrackerKind(rawValue: arguments[3])
  options.engine.retention = false
  let pool = try Pool.create(arguments[0], byteCount: 16 << 20, options: options)
  let (sections, threads) = (Int(arguments[1])!, Int(arguments[2])!)
  let wordCount = 512 * 64
  nonisolated(unsafe) let words = try pool.section { _ in
    let words = try pool.allocate(byteCount: wordCount * 8)
      .bindMemory(to: UInt64.self, capacity: wordCount)
    words.update(repeating: 0, count: wordCount)
    return words
  }
  onThreads(threads) { thread in
    var generator = SplitMix(state: UInt64(thread))
    for _ in 0..<sections / threads {
      let index = Int(generator.next() % UInt64(wordCount / threads)) * threads + thread
      do {
        try pool.pstart()
        words[index] += 1
        try pool.pend()
      } catch { print("error \(error)") }
    }
  }
  let memory = (0..<wordCount).reduce(into: [UInt64]()) { $0.append(words[$1]) }
  let offset = UnsafeRawPointer(words) - pool.base
  try pool.close()
  let again = try Pool.open(arguments[0])
  let stored = (again.base + offset).assumingMemoryBound(to: UInt64.self)
  let lost = (0..<wordCount).count { stored[$0] != memory[$0] }
  print("sum \(memory.reduce(0, +)) lost \(lost)")
  try again.close()
}
