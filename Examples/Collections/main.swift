// collection-examples NAME POOL: takes steps of an example for ever, each a section, and prints the
// number of each (8 bytes) when it is durable; kill it whenever you like.
// collection-examples NAME POOL check: says what is there after that, and whether it is whole.

import Glibc
import VolipMem

/// Something small that one would keep in a pool.
protocol Example: Persistable, ~Copyable {
  init(in section: inout Section) throws(PoolError)
  /// Changes something at random.
  func step(_ random: inout some RandomNumberGenerator, in section: inout Section) throws
  /// What cannot be, or nil.
  var contradiction: String? { get }
}

func run<E: Example & ~Copyable>(_ type: E.Type, _ path: String, isCheck: Bool) throws {
  var options = Pool.Options()
  options.logBytes = 256 << 10
  let pool = try pmap(path, byteCount: 64 << 20, options: options)
  let (example, steps) = try pool.section { section in
    (
      try pool.root("example", in: &section) { section in try E(in: &section) },
      try pool.root("steps", in: &section) { _ in 0 } as Ref<Int>
    )
  }
  guard !isCheck else {
    let problem = example.value.contradiction ?? (pool.checkHeap().isConsistent ? nil : "heap")
    return print("transfers \(steps.value) sum 0 consistent \(problem ?? "true")")
  }
  var random = SystemRandomNumberGenerator()
  while true {
    try pool.section(.announced) { section in
      try example.value.step(&random, in: &section)
      steps.set(to: steps.value + 1, in: &section)
    }
    var done = UInt64(steps.value)
    write(1, &done, 8)
  }
}

let arguments = CommandLine.arguments
guard arguments.count >= 3 else {
  print("collection-examples bank|cache|orders|document POOL [check]")
  exit(64)
}
let isCheck = arguments.count > 3
switch arguments[1] {
case "bank": try run(Bank.self, arguments[2], isCheck: isCheck)
case "cache": try run(Cache.self, arguments[2], isCheck: isCheck)
case "orders": try run(OrderBook.self, arguments[2], isCheck: isCheck)
default: try run(Document.self, arguments[2], isCheck: isCheck)
}
