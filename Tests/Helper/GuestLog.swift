import Glibc
import Synchronization
import VolipMem

// What the tracker `dirty-log` shares with others, and whole lives of pools.

/// guest-log-pools ROUNDS SEED: two working copies in one memory slot, taken and armed apart; after
/// half of the rounds one of them goes.
func guestLogPools(_ arguments: [String]) throws {
  let rounds = Int(arguments[0])!
  var generator = SplitMix(state: UInt64(arguments[1])!)
  // Between two there is one that nobody tracks: no two may have pages in the same 2 MiB.
  let all = try (0..<6).map { _ in try WorkingCopy.scratch(pageCount: LoggedPages.pageCount) }
  func slot(_ index: Int) -> UInt { UInt(bitPattern: all[index].base) >> 30 }
  let (one, other) = slot(0) == slot(2) ? (0, 2) : (3, 5)
  guard slot(one) == slot(other) else { return print("no two in one slot") }
  let before = VirtualMachine.facts.loggedSlots
  let pair = try [LoggedPages(all[one]), LoggedPages(all[other])]
  let both = VirtualMachine.facts.loggedSlots
  for _ in 0..<rounds {
    for pages in pair { pages.write(&generator) }
    try pair[Int(generator.next() % 2)].take(&generator)
  }
  pair[1].tracker.stop()
  let single = VirtualMachine.facts.loggedSlots
  for _ in 0..<rounds {
    pair[0].write(&generator)
    try pair[0].take(&generator)
  }
  pair[0].tracker.stop()
  print(
    "missed \(pair.map(\.missed)) extra \(pair.map(\.extra)) slots \(both - before)",
    single - before, VirtualMachine.facts.loggedSlots - before)
}

private final class LoggedPages {
  static let pageCount = 1000
  let workingCopy: WorkingCopy
  let tracker: any Tracker
  let writeSet: WriteSet
  /// Written since they were armed, or retained.
  var expected: Set<Int> = []
  var missed = 0
  var extra = 0

  init(_ workingCopy: WorkingCopy) throws {
    self.workingCopy = workingCopy
    tracker = try makeTracker(.dirtyLog, workingCopy)
    writeSet = try WriteSet(pageCapacity: Self.pageCount)
    try tracker.watch(upTo: Self.pageCount)
  }

  func write(_ generator: inout SplitMix) {
    for _ in 0..<Int(generator.next() % 40) {
      let page = Int(generator.next() % UInt64(Self.pageCount))
      (workingCopy.base + page * 4096).storeBytes(of: generator.next(), as: UInt64.self)
      expected.insert(page)
    }
  }

  func take(_ generator: inout SplitMix) throws {
    try tracker.takeWritten(into: writeSet)
    let found = Set((0..<writeSet.pageCount).map { writeSet.page($0) })
    missed += expected.subtracting(found).count
    extra += found.subtracting(expected).count
    let keepsSome = generator.next() % 2 == 0
    expected = keepsSome ? found.filter { $0 % 3 == 0 } : []
    writeSet.markRetained { [expected] in expected.contains($0) }
    try tracker.arm(writeSet)
    tracker.settle(writeSet)
  }
}

/// guest-log-leave ROUNDS: a processor that logs by itself hands its log over when it leaves the
/// guest, so a take has to make every other one leave. Counts the takes after which a thread that
/// never leaves by itself had left.
func guestLogLeave(_ arguments: [String]) throws {
  let rounds = Int(arguments[0])!
  let workingCopy = try WorkingCopy.scratch(pageCount: 8)
  let tracker = try makeTracker(.dirtyLog, workingCopy)
  let writeSet = try WriteSet(pageCapacity: 8)
  try tracker.watch(upTo: 8)
  let exits = Atomic(UInt64(0))
  let isOver = Atomic(false)
  func settledExits() -> UInt64 {
    // Twice: the first may have been counted before the last take.
    for _ in 0..<2 {
      exits.store(0, ordering: .sequentiallyConsistent)
      while exits.load(ordering: .sequentiallyConsistent) == 0 {}
    }
    return exits.load(ordering: .sequentiallyConsistent)
  }
  var left = 0
  nonisolated(unsafe) let work = { () throws in
    var before = settledExits()
    for _ in 0..<rounds {
      try tracker.takeWritten(into: writeSet)
      let after = settledExits()
      if after > before { left += 1 }
      before = after
    }
  }
  onThreads(2) { thread in
    if thread == 0 {
      try? work()
      isOver.store(true, ordering: .sequentiallyConsistent)
    } else {
      while !isOver.load(ordering: .sequentiallyConsistent) {
        exits.store(VirtualMachine.exits, ordering: .sequentiallyConsistent)
      }
    }
  }
  tracker.stop()
  print("left \(left) of \(rounds)")
}

/// guest-pool-lives TRACKER SEED POOL...: random sections in turn, with stores, system calls and
/// announced writes, roll-backs, trims, checkpoints and growth, and a copy of what has to be there.
func guestPoolLives(_ arguments: [String]) throws {
  var generator = SplitMix(state: UInt64(arguments[1])!)
  var contents = arguments.dropFirst(2).map { PoolContents(path: $0) }
  var wrong = 0
  for number in 0..<3 {
    let lives = try contents.map { try PoolLife(TrackerKind(rawValue: arguments[0])!, $0) }
    if number == 1 { try lives.forEach { try $0.grow() } }
    for _ in 0..<40 {
      let life = lives[Int(generator.next() % UInt64(lives.count))]
      try life.step(&generator)
      wrong += try life.isRight() ? 0 : 1
    }
    for life in lives { try life.pool.close() }
    contents = lives.map(\.contents)
    // What is in the files, whatever the trackers said of memory.
    for one in contents {
      let again = try PoolLife(nil, one)
      wrong += try again.isRight() ? 0 : 1
      try again.pool.close()
    }
  }
  print(
    "wrong \(wrong) grown \(contents.allSatisfy { $0.blocks.count > 1 })",
    "logged \(VirtualMachine.facts.loggedSlots)")
}

/// What has to be in a pool.
private struct PoolContents {
  let path: String
  var blocks: [(offset: Int, bytes: [UInt8])] = []
  var journal: [UInt64] = []
  var megabytes: UInt64 = 8
}

private final class PoolLife {
  static let blockBytes = 1 << 20
  let pool: Pool
  let journal: Ref<PersistentArray<UInt64>>
  var contents: PoolContents

  init(_ kind: TrackerKind?, _ contents: PoolContents) throws {
    self.contents = contents
    var options = Pool.Options()
    options.engine.persistencePath = .cacheLines
    options.engine.tracker = kind
    pool = try pmap(contents.path, byteCount: contents.megabytes << 20, options: options)
    journal = try pool.section { [pool] section in
      try pool.root("journal", in: &section) { try PersistentArray<UInt64>(in: &$0) }
    }
    if contents.blocks.isEmpty { try addBlock() }
  }

  private func memory(_ block: Int) -> UnsafeMutableRawPointer {
    UnsafeMutableRawPointer(mutating: pool.base + contents.blocks[block].offset)
  }

  private func addBlock() throws {
    let bytes = [UInt8](repeating: 0, count: Self.blockBytes)
    let block = try pool.section { [pool] _ in
      let block = try pool.allocate(byteCount: Self.blockBytes)
      memset(block, 0, Self.blockBytes)
      return block
    }
    contents.blocks.append((UnsafeRawPointer(block) - pool.base, bytes))
  }

  func isRight() throws -> Bool {
    for (index, block) in contents.blocks.enumerated()
    where memcmp(memory(index), block.bytes, Self.blockBytes) != 0 { return false }
    return journal.value.count == contents.journal.count
      && contents.journal.indices.allSatisfy { journal.value[$0] == contents.journal[$0] }
  }

  func step(_ generator: inout SplitMix) throws {
    switch generator.next() % 20 {
    case 0: _ = try pool.trim()
    case 1: try pool.checkpoint()
    case 2 where contents.blocks.count < 4: try grow()
    case 3...5: try section(&generator, isAborted: true)
    default: try section(&generator, isAborted: false)
    }
  }

  func grow() throws {
    contents.megabytes += 4
    try pool.grow(byteCount: contents.megabytes << 20)
    try addBlock()
  }

  private func section(_ generator: inout SplitMix, isAborted: Bool) throws {
    let before = contents
    do {
      try pool.section { section in
        for _ in 0..<generator.next() % 30 { write(&generator) }
        for _ in 0..<generator.next() % 80 {
          let number = generator.next()
          try journal.value.append(number, in: &section)
          contents.journal.append(number)
        }
        if isAborted { throw PoolError.sectionAborted }
      }
    } catch PoolError.sectionAborted {
      contents = before
    }
  }

  private func write(_ generator: inout SplitMix) {
    let block = Int(generator.next() % UInt64(contents.blocks.count))
    // Half of them in the same few pages.
    let range = generator.next() % 2 == 0 ? 16 * 4096 : Self.blockBytes - 9000
    let offset = Int(generator.next() % UInt64(range))
    if generator.next() % 8 == 0 {
      let byteCount = Int(generator.next() % 9000) + 1
      let filled = memory(block) + offset
      fillRandomly(filled, byteCount)
      contents.blocks[block].bytes.withUnsafeMutableBytes {
        _ = memcpy($0.baseAddress! + offset, filled, byteCount)
      }
    } else {
      let byte = UInt8.random(in: 0...255, using: &generator)
      memory(block).storeBytes(of: byte, toByteOffset: offset, as: UInt8.self)
      contents.blocks[block].bytes[offset] = byte
    }
  }
}
