import Dispatch
import Foundation
import VolipMem

/// What is done in guest mode (VOLIP_TEST_GUEST), or in order to enter it.
let guestVerbs: [String: @Sendable ([String]) throws -> Void] = [
  "guest-exits": guestExits,
  "guest-facts": guestFacts,
  "guest-fault": guestFault,
  "guest-rounds": guestRounds,
  "guest-short-sections": guestShortSections,
  "guest-stray": guestStray,
  "guest-threads": guestThreads,
  "guest-twice": guestTwice,
]

func guestFacts(_ arguments: [String]) throws {
  let facts = VirtualMachine.facts
  print(
    "guest \(VirtualMachine.isEntered) bits \(facts.physicalBits)",
    "identity \(facts.isIdentityMapped) level \(facts.callLevel)")
}

/// Enters where that is not possible, and says why.
func guestTwice(_ arguments: [String]) throws {
  func attempt() -> String {
    do throws(MachineError) {
      try VirtualMachine.enter()
      return "entered"
    } catch {
      return "\(error)"
    }
  }
  if arguments.first == "with-pool" {
    let pool = try Pool.create(arguments[1], byteCount: 1 << 20)
    print(attempt())
    try pool.close()
  } else if arguments.first == "with-thread" {
    let gate = DispatchSemaphore(value: 0)
    let started = DispatchSemaphore(value: 0)
    let thread = Thread {
      started.signal()
      gate.wait()
    }
    thread.start()
    started.wait()
    print(attempt())
    gate.signal()
  } else {
    print(attempt(), attempt())
  }
}

/// Exits made by a section of each kind: with writes only, with allocations, empty.
func guestExits(_ arguments: [String]) throws {
  let pool = try Pool.create(arguments[0], byteCount: 64 << 20)
  let words = try pool.section { _ in
    let words = try pool.allocate(byteCount: 1 << 20).bindMemory(to: Int.self, capacity: 1 << 17)
    for index in 0..<1 << 17 { words[index] = index }
    return words
  }
  var most: UInt64 = 0
  for round in 0..<1000 {
    let before = VirtualMachine.exits
    try pool.pstart()
    for index in 0..<round % 100 { words[(round * 7919 + index * 521) % (1 << 17)] = round }
    try pool.pend()
    most = max(most, VirtualMachine.exits - before)
  }
  let statistics = try pool.statistics()
  print("exits \(most) sections \(statistics.committed) lines \(statistics.lines > 0)")
  try pool.close()
}

func guestFault(_ arguments: [String]) throws {
  let scratch = mmap(nil, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
  switch arguments[0] {
  case "null": UnsafeMutablePointer<Int>(bitPattern: 8)!.pointee = 1
  case "read-only": scratch.storeBytes(of: 1, as: UInt8.self)
  case "illegal": fatalError("on purpose")
  case "beyond":
    let pool = try Pool.create(arguments[1], byteCount: 64 << 20)
    try pool.section { _ in
      UnsafeMutableRawPointer(mutating: pool.base + (48 << 20)).storeBytes(of: 1, as: UInt8.self)
    }
  default: print("unknown fault")
  }
}

/// A store between two sections is reported by the next one and put back.
func guestStray(_ arguments: [String]) throws {
  let pool = try Pool.create(arguments[0], byteCount: 1 << 20)
  let word = try pool.section { _ in try pool.allocate(UInt64.self) }
  try pool.section { _ in word.pointee = 1 }
  word.pointee = 2
  do throws(PoolError) {
    try pool.pstart()
    print("not noticed")
  } catch {
    print("\(error)", word.pointee)
  }
  try pool.close()
}

/// Many short threads, then some at the same time.
func guestThreads(_ arguments: [String]) throws {
  let count = Int(arguments[0])!
  nonisolated(unsafe) let sum = UnsafeMutablePointer<Int>.allocate(capacity: 1)
  sum.pointee = 0
  for _ in 0..<count {
    var thread = pthread_t()
    pthread_create(
      &thread, nil,
      {
        $0!.assumingMemoryBound(to: Int.self).pointee += 1; return nil
      }, sum)
    pthread_join(thread, nil)
  }
  print("threads \(sum.pointee) processors \(VirtualMachine.facts.virtualProcessors < 20)")
}

// MARK: Write sets against oracles

/// guest-rounds TRACKER THREADS ROUNDS SEED
func guestRounds(_ arguments: [String]) throws {
  let kind = TrackerKind(rawValue: arguments[0])!
  let rounds = try GuestRounds(kind, threads: Int(arguments[1])!, seed: UInt64(arguments[3])!)
  for _ in 0..<Int(arguments[2])! { try rounds.run() }
  print("missed \(rounds.missed) extra \(rounds.extra) written \(rounds.written > 0)")
}

/// Random rounds of writes by threads and by system calls. What a guest tracker reports is compared
/// with the bytes that changed and with what PAGEMAP_SCAN says of the same pages.
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
    memcpy(&before, workingCopy.base, before.count)
    tracker.sectionOpened()
    let plans = (0..<threads).map { _ in plan() }
    nonisolated(unsafe) let base = workingCopy.base
    DispatchQueue.concurrentPerform(iterations: threads) { thread in
      for step in plans[thread] { step.take(base) }
    }
    tracker.sectionClosed()
    let planned = Set(plans.joined().flatMap(\.pages))
    written += planned.count
    try tracker.takeWritten(into: writeSet)
    let found = Set((0..<writeSet.pageCount).map { writeSet.page($0) })
    try oracle.takeWrittenAndArm(into: oracleSet)
    let scanned = Set((0..<oracleSet.pageCount).map { oracleSet.page($0) })
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
    try oracle.takeWrittenAndArm(into: oracleSet)
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
      let offset = Int(generator.next() % UInt64(Self.pageCount * 4096 - 9000))
      return generator.next() % 10 == 0
        ? .systemCall(offset: offset, byteCount: Int(generator.next() % 9000) + 1)
        : .store(offset: offset)
    }
  }
}

/// The kernel writes, and not the guest.
func fillRandomly(_ memory: UnsafeMutableRawPointer, _ byteCount: Int) {
  let getrandom = function(
    "getrandom", as: (@convention(c) (UnsafeMutableRawPointer, Int, UInt32) -> Int).self)
  precondition(getrandom(memory, byteCount, 0) == byteCount)
}

func memfd(byteCount: Int) -> Int32 {
  let create = function(
    "memfd_create", as: (@convention(c) (UnsafePointer<CChar>, UInt32) -> Int32).self)
  let file = create("volip-test", 1)
  precondition(file >= 0 && ftruncate(file, off_t(byteCount)) == 0)
  return file
}

/// guest-short-sections POOL SECTIONS THREADS: each thread counts in words of its own, all in the
/// same pages; at the end every count must be in the image.
func guestShortSections(_ arguments: [String]) throws {
  let pool = try Pool.create(arguments[0], byteCount: 16 << 20)
  let (sections, threads) = (Int(arguments[1])!, Int(arguments[2])!)
  let wordCount = 512 * 64
  nonisolated(unsafe) let words = try pool.section { _ in
    let words = try pool.allocate(byteCount: wordCount * 8)
      .bindMemory(to: UInt64.self, capacity: wordCount)
    words.update(repeating: 0, count: wordCount)
    return words
  }
  DispatchQueue.concurrentPerform(iterations: threads) { thread in
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
