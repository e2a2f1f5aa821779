import Glibc
import Synchronization
import TestBasics
import VolipMem

/// What tests of concurrent sections do in a process that is killed.
let laneVerbs: [String: @Sendable ([String]) throws -> Void] = [
  "lane-work": laneWork,
  "lane-audit": laneAudit,
]

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
