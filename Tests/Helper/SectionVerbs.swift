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
/// section is durable. Meant to be killed.
func transfer(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.engine.tracker = TrackerKind(rawValue: arguments[1])
  options.engine.persistencePath = .cacheLines
  let pool = try Pool.open(arguments[0], options: options)
  let bank = try pool.root("bank", as: Bank.self)!.pointee
  var random = UInt64(getpid()) | 1
  while true {
    try pool.section { _ in
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
      bank.transferCount.pointee += 1
    }
    var number = bank.transferCount.pointee
    write(1, &number, 8)
  }
}

/// A root with pointers: all accounts together always hold nothing.
struct Bank: BitwiseCopyable {
  static let accountCount = 50_000
  var accounts: UnsafeMutablePointer<Int64>
  var transferCount: UnsafeMutablePointer<UInt64>
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
      let count = try pool.allocate(UInt64.self)
      count.initialize(to: 0)
      return Bank(accounts: accounts, transferCount: count)
    }
  }
  try pool.close()
}

/// Opens the bank after a kill: prints the number of its last transfer, the sum of its accounts and
/// whether the heap is consistent.
func auditBank(_ arguments: [String]) throws {
  let pool = try Pool.open(arguments[0])
  let bank = try pool.root("bank", as: Bank.self)!.pointee
  let sum = (0..<Bank.accountCount).reduce(Int64(0)) { $0 + bank.accounts[$1] }
  let report = pool.checkHeap()
  print("transfers \(bank.transferCount.pointee) sum \(sum) consistent \(report.isConsistent)")
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
