import Glibc
import VolipMem

/// Writes every second page of 80,000 in one section under the write-protect tracker: more lone
/// writable pages than a process may have mappings. Prints the pages that survived a reopen.
func lonePages(_ arguments: [String]) throws {
  let path = arguments[0]
  let pageCount = 80_000
  var options = Pool.Options()
  options.engine.tracker = .writeProtect
  options.engine.persistencePath = .cacheLines
  options.logBytesMax = 64 << 20
  var pool: Pool? = try Pool.create(path, byteCount: 512 << 20, options: options)
  var pages: UnsafeMutablePointer<UInt8>?
  try pool!.section { section in
    let root = try pool!.root("pages", in: &section) {
      try pool!.allocate(UInt8.self, count: pageCount * 4096)
    }
    pages = root.pointee
  }
  try pool!.section { _ in
    for page in stride(from: 0, to: pageCount, by: 2) { pages![page * 4096] = 1 }
  }
  try pool!.section { _ in pages![7 * 4096] = 2 }
  pool = nil
  let again = try Pool.open(path, options: options)
  let kept = stride(from: 0, to: pageCount, by: 2).filter { pages![$0 * 4096] == 1 }
  print("pages \(kept.count) seventh \(pages![7 * 4096])")
  try again.close()
}

/// Moves money between accounts, each transfer a section, for ever; prints each number when its
/// section is durable. Blocks come and go with it; now and then a section is taken back, is too
/// large for the log as it is, or the pool grows. Meant to be killed. With a third argument numbers
/// are lines of text, after one that says how writes become durable, which libpmem then decides.
func transfer(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.engine.tracker = TrackerKind(rawValue: arguments[1])
  let isText = arguments.count > 2
  if !isText { options.engine.persistencePath = .cacheLines }
  let pool = try Pool.open(arguments[0], options: options)
  if isText { say("CUT path \(pool.persistencePath.rawValue)") }
  let bank = try pool.root("bank", as: Bank.self)!.pointee
  var random = UInt64(getpid()) | 1
  while true {
    let next = bank.transferCount.pointee + 1
    if next % 31 == 0 { try? pool.section { _ in try transferAndFail(pool, bank, &random) } }
    if next % 97 == 0, bank.growthCount.pointee < 10 {
      do throws(PoolError) {
        try pool.grow(byteCount: (9 + bank.growthCount.pointee) << 20)
      } catch {
        // It was killed between the growth and the section that counts it.
        guard case .invalidArgument = error else { throw error }
      }
    }
    try pool.section { _ in
      try transferOnce(pool, bank, &random)
      if next % 97 == 0 { bank.growthCount.pointee += 1 }
      if next % 67 == 0 {
        for account in 0..<Bank.accountCount { bank.accounts[account] += account % 2 == 0 ? 1 : -1 }
      }
      bank.transferCount.pointee = next
    }
    if isText {
      say("CUT acknowledged \(next)")
    } else {
      var number = next
      write(1, &number, 8)
    }
  }
}

private struct TakenBack: Error {}

private func transferAndFail(_ pool: Pool, _ bank: Bank, _ random: inout UInt64) throws {
  try transferOnce(pool, bank, &random)
  bank.accounts[0] += 1
  bank.transferCount.pointee += 1
  throw TakenBack()
}

private func transferOnce(_ pool: Pool, _ bank: Bank, _ random: inout UInt64) throws {
  for _ in 0..<1 + random % 64 {
    random ^= random << 13
    random ^= random >> 7
    random ^= random << 17
    let from = Int(random % UInt64(Bank.accountCount))
    let to = Int(random >> 32 % UInt64(Bank.accountCount))
    let amount = Int64(random >> 50)
    bank.accounts[from] -= amount
    bank.accounts[to] += amount
  }
  let slot = Int(random >> 20 % UInt64(Bank.slotCount))
  if let block = bank.slots[slot] {
    try pool.deallocate(block)
    bank.slots[slot] = nil
  } else {
    let byteCount = Int(random >> 40 % 9000)
    let block = try pool.allocate(byteCount: byteCount)
    memset(block, Int32(truncatingIfNeeded: slot), byteCount)
    bank.slots[slot] = block
  }
}

/// A root with pointers: all accounts together always hold nothing.
struct Bank: BitwiseCopyable {
  static let accountCount = 50_000
  static let slotCount = 64
  var accounts: UnsafeMutablePointer<Int64>
  var transferCount: UnsafeMutablePointer<UInt64>
  var growthCount: UnsafeMutablePointer<UInt64>
  /// Blocks of any size.
  var slots: UnsafeMutablePointer<UnsafeMutableRawPointer?>
}

/// Makes the bank's pool, with a log small enough for many checkpoints.
func makeBank(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.logBytes = 64 << 10
  options.engine.persistencePath = .cacheLines
  let pool = try Pool.create(arguments[0], byteCount: 8 << 20, options: options)
  try pool.section { section in
    _ = try pool.root("bank", in: &section) {
      let accounts = try pool.allocate(Int64.self, count: Bank.accountCount)
      accounts.initialize(repeating: 0, count: Bank.accountCount)
      let counts = try pool.allocate(UInt64.self, count: 2)
      counts.initialize(repeating: 0, count: 2)
      let slots = try pool.allocate(UnsafeMutableRawPointer?.self, count: Bank.slotCount)
      slots.initialize(repeating: nil, count: Bank.slotCount)
      return Bank(
        accounts: accounts, transferCount: counts, growthCount: counts + 1, slots: slots)
    }
  }
  try pool.close()
}

/// Opens the bank after a kill: prints the number of its last transfer, the sum of its accounts and
/// whether the heap is consistent, with no block lost or handed out twice.
func auditBank(_ arguments: [String]) throws {
  let pool = try Pool.open(arguments[0])
  let bank = try pool.root("bank", as: Bank.self)!.pointee
  let sum = (0..<Bank.accountCount).reduce(Int64(0)) { $0 + bank.accounts[$1] }
  let report = pool.checkHeap()
  let known = Set(report.blocks.map { pool.base + Int($0.offset.bytes) })
  let slots = (0..<Bank.slotCount).compactMap { bank.slots[$0].map { UnsafeRawPointer($0) } }
  // The root itself, its accounts, counts and slots.
  let isWell =
    report.isConsistent && known.count == slots.count + 4 && slots.allSatisfy(known.contains)
  print("transfers \(bank.transferCount.pointee) sum \(sum) consistent \(isWell)")
  try pool.close()
}

/// Creates a pool while files may have 64 KiB: the kernel ends the process in the middle, with
/// SIGXFSZ.
func createUnderLimit(_ arguments: [String]) throws {
  var limit = rlimit(rlim_cur: 64 << 10, rlim_max: 64 << 10)
  setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit)
  _ = try Pool.create(arguments[0], byteCount: 1 << 20)
}

/// A pool of 1 TiB, or as large as the second argument says, opened twice.
func hugePool(_ arguments: [String]) throws {
  let byteCount = arguments.count > 1 ? UInt64(arguments[1])! : 1 << 40
  var pool = try Pool.create(arguments[0], byteCount: byteCount)
  try pool.section { section in
    _ = try pool.root("n", in: &section) { 42 }
    for _ in 0..<100 { _ = try pool.allocate(byteCount: 10_000) }
  }
  try pool.close()
  pool = try Pool.open(arguments[0])
  print("root \(try pool.root("n", as: Int.self)!.pointee)")
}
