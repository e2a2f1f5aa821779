import Glibc
import Synchronization
import TestBasics
import VolipMem

/// What tests of concurrent sections do in a process that is killed.
let laneVerbs: [String: @Sendable ([String]) throws -> Void] = [
  "lane-work": laneWork,
  "lane-audit": laneAudit,
  "trims": trims,
  "leave-lanes": leaveLanes,
  "wait-in-gate": waitInGate,
  "announce-after-end": announceAfterEnd,
]

/// trims POOL TRACKER ROUNDS: large commits shared by threads, checkpoints in a thread of their own
/// and trims, while two threads have concurrent sections. Says what is wrong in the end.
func trims(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.engine.persistencePath = .cacheLines
  options.engine.audit = false
  options.engine.tracker = TrackerKind(rawValue: arguments[1])
  options.engine.commitThreads = 2
  options.engine.checkpointThread = true
  let pool = try Pool.create(arguments[0], byteCount: 64 << 20, options: options)
  let (pageCount, rounds) = (600, UInt64(arguments[2])!)
  typealias Numbers = PersistentDictionary<UInt64, UInt64>
  func numbers(_ pool: Pool, _ thread: Int) throws -> Ref<Numbers> {
    try pool.section { section in
      try pool.root("numbers \(thread)", in: &section) { section in try Numbers(in: &section) }
    }
  }
  for thread in 1...2 { _ = try numbers(pool, thread) }
  let words = try pool.section { section in
    try pool.root("words", in: &section) { try pool.allocate(UInt64.self, count: pageCount * 512) }
  }
  nonisolated(unsafe) let first = words.pointee
  let wrong = Atomic(0)
  @Sendable func look(_ round: UInt64, _ words: UnsafeMutablePointer<UInt64>) {
    for page in 0..<pageCount where words[page * 512 + page % 512] != round {
      wrong.add(1, ordering: .relaxed)
    }
  }
  let isOver = Atomic(false)
  TestBasics.run(threads: 3) { thread in
    do {
      if thread == 0 {
        for round in 1...rounds {
          try pool.section { _ in
            for page in 0..<pageCount { first[page * 512 + page % 512] = round }
          }
          look(round, first)
          _ = try pool.trim()
          look(round, first)
        }
        return isOver.store(true, ordering: .releasing)
      }
      let own = try pool.root("numbers \(thread)", of: Numbers.self)!
      var round: UInt64 = 0
      while !isOver.load(ordering: .acquiring) || round == 0 {
        round += 1
        do {
          try pool.section(.concurrent) { section in
            for key in 0..<20 as Range<UInt64> {
              try own.value.updateValue(round, forKey: key, in: &section)
            }
          }
        } catch PoolError.laneFull {
          round -= 1
        }
      }
      _ = try pool.section { section in
        try own.value.updateValue(round, forKey: 20, in: &section)
      }
    } catch { fatalError("\(error)") }
  }
  try pool.close()
  let again = try Pool.open(arguments[0])
  let found = try again.root("words", as: UnsafeMutablePointer<UInt64>.self)!.pointee
  look(rounds, found)
  for thread in 1...2 {
    let own = try again.root("numbers \(thread)", of: Numbers.self)!
    for key in 0..<20 as Range<UInt64> where own.value[key] != own.value[20] {
      wrong.add(1, ordering: .relaxed)
    }
  }
  print("wrong \(wrong.load(ordering: .relaxed)) \(again.checkHeap().isConsistent)")
  try again.close()
}

/// Leaves a pool with so many records in two lanes, one of them of a section that freed blocks of
/// an arena that is not its own.
func leaveLanes(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.engine.persistencePath = .cacheLines
  options.engine.audit = false
  let pool = try Pool.create(arguments[0], byteCount: 16 << 20, options: options)
  typealias Names = PersistentDictionary<UInt64, PersistentString>
  let names = try pool.section { section in
    try pool.root("names", in: &section) { section in try Names(in: &section) }
  }
  try pool.section { section in
    for number in 0..<100 as Range<UInt64> {
      try names.value.insert(
        try PersistentString("first", in: &section), forKey: number, in: &section)
    }
  }
  // So that the lanes get arenas before.
  for lane in 0..<2 { try pool.announcedHeap.giveArena(toLane: lane) }
  for number in 0..<UInt64(arguments[1])! {
    if number % 2 == 0 {
      try replaceName(number, in: pool)
    } else {
      // The other thread has the lane beside.
      try pool.pstart(.concurrent)
      TestBasics.run(threads: 1) { _ in try! replaceName(number, in: pool) }
      try pool.pend()
    }
  }
  let report = pool.checkHeap()
  print("\(report.blocks.count) \(report.isConsistent)")
  fflush(nil)
  kill(getpid(), SIGKILL)
}

/// A body that ends its section and goes on with the token.
func announceAfterEnd(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.engine.audit = false
  let pool = try Pool.create(arguments[0], byteCount: 4 << 20, options: options)
  let kinds: [String: SectionKind] = ["concurrent": .concurrent, "group": .group]
  try pool.section(kinds[arguments[1]] ?? .exclusive) { section in
    let block = try section.allocateAnnounced(byteCount: 8)
    try pool.pend()
    say("ended")
    section.announce(block, byteCount: 8)
  }
}

private func replaceName(_ number: UInt64, in pool: Pool) throws {
  typealias Names = PersistentDictionary<UInt64, PersistentString>
  let names = try pool.root("names", of: Names.self)!
  try pool.section(.concurrent) { section in
    try names.value.remove(number, in: &section)
    let text = try PersistentString("\(number)", in: &section)
    try names.value.insert(text, forKey: number, in: &section)
  }
}

private let waitingThread = Atomic<Int32>(0)

/// Whether a thread of this process sleeps.
private func isAsleep(_ thread: Int32) -> Bool {
  guard let file = fopen("/proc/self/task/\(thread)/stat", "r") else { return false }
  defer { fclose(file) }
  var line = [CChar](repeating: 0, count: 256)
  guard fgets(&line, 256, file) != nil else { return false }
  let text = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  return text.split(separator: ")").last?.hasPrefix(" S") ?? false
}

/// A thread that is cancelled while it waits for another one's section.
func waitInGate(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.engine.audit = false
  let pool = try Pool.create(arguments[0], byteCount: 4 << 20, options: options)
  try pool.section(.concurrent) { _ in }
  for kind in [SectionKind.concurrent, .exclusive] {
    try pool.pstart(kind)
    let context = Unmanaged.passRetained(pool).toOpaque()
    var thread = pthread_t()
    pthread_create(
      &thread, nil,
      { context in
        let pool = Unmanaged<Pool>.fromOpaque(context!).takeUnretainedValue()
        waitingThread.store(
          function("gettid", as: (@convention(c) () -> Int32).self)(), ordering: .releasing)
        try? pool.pstart()
        pthread_testcancel()
        return nil
      }, context)
    // It waits for the gate, or, with the gate closed, for the lane.
    while waitingThread.load(ordering: .acquiring) == 0 {}
    var looks = 0
    while looks < 100 { looks += isAsleep(waitingThread.load(ordering: .acquiring)) ? 1 : 0 }
    pthread_cancel(thread)
    try pool.pend()
    var result: UnsafeMutableRawPointer?
    pthread_join(thread, &result)
    waitingThread.store(0, ordering: .relaxed)
    say("cancelled \(result == UnsafeMutableRawPointer(bitPattern: -1))")
    // The section that it had open by then is over.
    try pool.section { section in _ = try pool.root("n", in: &section) { 1 } }
  }
  say("open")
}

private enum Lanes {
  static let threads = 4
  /// Words of a thread's array: number of its last section, of its sections with others, of the
  /// last one of these.
  static let (last, common, lastCommon) = (0, 1, 2)
  /// Words of the common array: number of sections, then the last ones, thread and number.
  static let journal = 8
  static let journalCount = 256
}

private final class LaneLedger: @unchecked Sendable {
  typealias Words = PersistentArray<UInt64>
  typealias Names = PersistentDictionary<UInt64, PersistentString>
  let pool: Pool
  let own: [Ref<Words>]
  let names: [Ref<Names>]
  let common: Ref<Words>
  let lock = Lock()

  init(_ pool: Pool) throws {
    self.pool = pool
    func words(_ root: String, _ count: Int) throws -> Ref<Words> {
      try pool.section { section in
        try pool.root(root, in: &section) { section in
          try Words(repeatElement(0, count: count), in: &section)
        }
      }
    }
    own = try (0..<Lanes.threads).map { try words("own \($0)", 8) }
    common = try words("common", Lanes.journal + Lanes.journalCount)
    names = try (0..<Lanes.threads).map { thread in
      try pool.section { section in
        try pool.root("names \(thread)", in: &section) { section in try Names(in: &section) }
      }
    }
  }

  /// One section: the next number of a thread, with others' memory too or alone.
  func step(
    _ thread: Int, _ number: UInt64, isCommon: Bool, _ section: inout Section
  ) throws {
    let words = own[thread]
    words.value.set(Lanes.last, to: number, in: &section)
    try names[thread].value.remove(number % 50, in: &section)
    let text = try PersistentString("\(number)", in: &section)
    try names[thread].value.insert(text, forKey: number % 50, in: &section)
    guard isCommon else { return }
    words.value.set(Lanes.common, to: words.value[Lanes.common] + 1, in: &section)
    words.value.set(Lanes.lastCommon, to: number, in: &section)
    let count = common.value[0]
    common.value.set(0, to: count + 1, in: &section)
    let place = Lanes.journal + Int(count) % Lanes.journalCount
    common.value.set(place, to: UInt64(thread) << 56 | number, in: &section)
  }
}

/// Threads count in sections of their own and in sections with a lock, for ever, each with a number
/// that it prints, with the thread's, when the section is durable.
func laneWork(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.engine.persistencePath = .cacheLines
  options.engine.audit = false
  options.logBytes = 64 << 10
  options.logBytesMax = 256 << 10
  let pool = try pmap(arguments[0], byteCount: 64 << 20, options: options)
  let ledger = try LaneLedger(pool)
  TestBasics.run(threads: Lanes.threads) { thread in
    var generator = SeededGenerator(seed: UInt64(getpid()) &+ UInt64(thread))
    var number = ledger.own[thread].value[Lanes.last]
    while true {
      let kind = Int.random(in: 0..<100, using: &generator)
      let isCommon = kind % 3 == 0
      if isCommon { ledger.lock.lock() }
      do {
        try pool.section(thread == 0 && kind == 99 ? .exclusive : .concurrent) { section in
          try ledger.step(thread, number + 1, isCommon: isCommon, &section)
          if kind % 9 == 1 { throw PoolError.sectionAborted }
        }
        number += 1
      } catch PoolError.sectionAborted {
      } catch PoolError.laneFull {
      } catch { fatalError("\(error)") }
      if isCommon { ledger.lock.unlock() }
      var done = UInt64(thread) << 56 | number
      write(1, &done, 8)
    }
  }
}

/// After a kill: the last number of each thread, and whether everything fits together.
func laneAudit(_ arguments: [String]) throws {
  let pool = try Pool.open(arguments[0])
  let ledger = try LaneLedger(pool)
  var problems: [String] = []
  let count = ledger.common.value[0]
  let parts = (0..<Lanes.threads).map { ledger.own[$0].value[Lanes.common] }
  if count != parts.reduce(0, +) { problems.append("common \(count), parts \(parts)") }
  // The newest numbers of each thread in the journal ascend to its last one.
  var newest = [UInt64](repeating: 0, count: Lanes.threads)
  let first = count - min(count, UInt64(Lanes.journalCount))
  for index in first..<count {
    let word = ledger.common.value[Lanes.journal + Int(index) % Lanes.journalCount]
    let (thread, number) = (Int(word >> 56), word & (1 << 56 - 1))
    if thread >= Lanes.threads || number <= newest[thread] {
      problems.append("journal \(index): \(thread) \(number)")
      break
    }
    newest[thread] = number
  }
  for thread in 0..<Lanes.threads {
    let last = ledger.own[thread].value[Lanes.lastCommon]
    if newest[thread] != 0, newest[thread] != last { problems.append("last \(thread)") }
    let number = ledger.own[thread].value[Lanes.last]
    ledger.names[thread].value.forEach { key, text in
      guard let value = UInt64(String(text)), value % 50 == key, value <= number else {
        return problems.append("name \(key) of \(thread)")
      }
      if number - value >= 50 { problems.append("old name \(key) of \(thread)") }
    }
  }
  let report = pool.checkHeap()
  problems += report.problems.map { "\($0)" }
  print((0..<Lanes.threads).map { "\(ledger.own[$0].value[Lanes.last])" }.joined(separator: " "))
  print(problems.isEmpty ? "whole" : problems.joined(separator: "; "))
  try pool.close()
}
