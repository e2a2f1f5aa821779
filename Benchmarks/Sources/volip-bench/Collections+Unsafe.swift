// collections: the persistent collections beside the standard library's, in memory.
//
//   insert     1M keys into an empty dictionary, ours in one section, its commit included
//   lookup     of keys that are there, at random
//   iterate    the sum of an array's elements, over Span
//   section    one update of the same key, its commit included; the standard one is not durable
//   allocate   64 bytes of announced memory taken and given, in sections of 1,000

import ArgumentParser
import Glibc
import VolipMem

struct Collections: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Insertion, lookup and iteration against Dictionary and Array; announced memory.")

  @OptionGroup var runOptions: RunOptions

  @Option(name: .customLong("case"), help: "What to measure; all by default. Repeatable.")
  var cases: [String] = []

  func run() throws {
    try Report(runOptions).show(collectionsBenchmark(runOptions, cases))
  }
}

func collectionsBenchmark(_ run: RunOptions, _ names: [String] = []) throws -> BenchmarkResult {
  let keyCount = run.quick ? 100_000 : 1_000_000
  let cases: [(name: String, target: String, make: () throws -> CollectionCase)] = [
    ("insert", "<= 2", { try insertion(keyCount) }), ("lookup", "<= 1", { try lookup(keyCount) }),
    ("iterate", "<= 1.1", { try iteration(keyCount) }), ("section", "", smallSection),
    ("allocate", "< 60 ns", allocation),
  ]
  var measurements: [Measurement] = []
  for (name, target, make) in cases where names.isEmpty || names.contains(name) {
    let body = try make()
    var ours = Measurement("collections", name, unit: "ns")
    var standard = ours
    standard.system = "standard"
    var ratio = Measurement("collections", name, unit: "times standard")
    ratio.target = target
    for _ in 0..<run.repetitionCount {
      let base = try body.standard()
      let sample = try body.ours()
      standard.samples.append(base)
      ours.samples.append(sample)
      ratio.samples.append(sample / base)
    }
    measurements += [standard, ours, ratio]
  }
  return BenchmarkResult(
    title: "collections: nanoseconds an operation, \(keyCount) elements",
    measurements: measurements, table: .list(measurements))
}

/// One operation of both, in nanoseconds.
struct CollectionCase {
  let standard: () throws -> Double
  let ours: () throws -> Double
}

typealias Numbers = PersistentDictionary<UInt64, UInt64>

private func insertion(_ keyCount: Int) throws -> CollectionCase {
  let pool = try ScratchPool(byteCount: 2 << 30, logBytes: 128 << 20).open()
  return CollectionCase(
    standard: {
      var dictionary: [UInt64: UInt64] = [:]
      let time = seconds {
        for index in 0..<UInt64(keyCount) { dictionary[key(index)] = index }
      }
      guard dictionary.count == keyCount else { throw BenchError("keys are missing") }
      return time * 1e9 / Double(keyCount)
    },
    ours: {
      let root = try pool.section { section in
        try pool.root("insert", in: &section) { section in try Numbers(in: &section) }
      }
      let time = try seconds {
        try pool.section(.announced) { section in
          for index in 0..<UInt64(keyCount) {
            try root.value.updateValue(index, forKey: key(index), in: &section)
          }
        }
      }
      guard root.value.count == keyCount else { throw BenchError("keys are missing") }
      try pool.section { section in
        try root.free(in: &section)
        try pool.removeRoot("insert", in: &section)
      }
      try pool.checkpoint()
      return time * 1e9 / Double(keyCount)
    })
}

private func lookup(_ keyCount: Int) throws -> CollectionCase {
  let pool = try ScratchPool(byteCount: 1 << 30, logBytes: 64 << 20).open()
  let root = try pool.section { section in
    try pool.root("lookup", in: &section) { section in
      try Numbers((0..<UInt64(keyCount)).map { (key: key($0), value: $0) }, in: &section)
    }
  }
  var dictionary: [UInt64: UInt64] = [:]
  for index in 0..<UInt64(keyCount) { dictionary[key(index)] = index }
  func measure(_ find: (UInt64) -> UInt64?) throws -> Double {
    var generator = FastGenerator(seed: 0x5EED)
    var missed = 0
    let time = seconds {
      for _ in 0..<keyCount {
        let index = generator.below(UInt64(keyCount))
        if find(key(index)) != index { missed += 1 }
      }
    }
    guard missed == 0 else { throw BenchError("\(missed) keys were not found") }
    return time * 1e9 / Double(keyCount)
  }
  let standard = dictionary
  return CollectionCase(
    standard: { try measure { standard[$0] } },
    ours: { try withExtendedLifetime(pool) { try measure { root.value[$0] } } })
}

private func iteration(_ count: Int) throws -> CollectionCase {
  let pool = try ScratchPool(byteCount: 256 << 20).open()
  let root = try pool.section { section in
    try pool.root("array", in: &section) { section in
      try PersistentArray((0..<UInt64(count)).map { $0 &* 3 }, in: &section)
    }
  }
  let array = (0..<UInt64(count)).map { $0 &* 3 }
  let expected = array.reduce(0, &+)
  let rounds = 20
  func measure(_ sum: () -> UInt64) throws -> Double {
    var isRight = true
    let time = seconds { for _ in 0..<rounds { isRight = isRight && sum() == expected } }
    guard isRight else { throw BenchError("another sum") }
    return time * 1e9 / Double(count * rounds)
  }
  return CollectionCase(
    standard: {
      try measure {
        var sum: UInt64 = 0
        for element in array { sum = sum ^ 1 &+ element ^ 1 }
        return expected ^ (sum ^ blackHole(sum))
      }
    },
    ours: {
      try withExtendedLifetime(pool) {
        try measure {
          var sum: UInt64 = 0
          let span = root.value.span
          for index in span.indices { sum = sum ^ 1 &+ span[index] ^ 1 }
          return expected ^ (sum ^ blackHole(sum))
        }
      }
    })
}

/// The same value, which the compiler does not know.
@inline(never) @_optimize(none)
private func blackHole(_ value: UInt64) -> UInt64 { value }

private func smallSection() throws -> CollectionCase {
  let pool = try ScratchPool(byteCount: 256 << 20).open()
  let root = try pool.section { section in
    try pool.root("section", in: &section) { section in
      try Numbers([(key: 1, value: 1)], in: &section)
    }
  }
  var dictionary: [UInt64: UInt64] = [1: 1]
  let sections = 1000
  func least(_ body: (UInt64) throws -> Void) rethrows -> Double {
    // The least of many short samples: what it costs, whatever else runs.
    var least = Double.infinity
    for _ in 0..<200 {
      let time = try seconds { for value in 0..<UInt64(sections) { try body(value) } }
      least = min(least, time * 1e9 / Double(sections))
    }
    return least
  }
  return CollectionCase(
    standard: { least { dictionary[1] = $0 } },
    ours: {
      try least { value in
        try pool.section(.announced) { section in
          _ = try root.value.updateValue(value, forKey: 1, in: &section)
        }
      }
    })
}

private func allocation() throws -> CollectionCase {
  let pool = try ScratchPool(byteCount: 256 << 20).open()
  let (sections, blocks) = (200, 1000)
  func measure(_ body: () throws -> Void) rethrows -> Double {
    let time = try seconds { for _ in 0..<sections { try body() } }
    return time * 1e9 / Double(sections * blocks)
  }
  return CollectionCase(
    standard: {
      measure {
        for _ in 0..<blocks {
          let block = malloc(64)!
          _ = blackHole(UInt64(UInt(bitPattern: block)))
          free(block)
        }
      }
    },
    ours: {
      try measure {
        try pool.section(.announced) { section in
          for _ in 0..<blocks {
            let block = try section.allocateAnnounced(byteCount: 64)
            _ = blackHole(UInt64(UInt(bitPattern: block)))
            try section.deallocateAnnounced(block)
          }
        }
      }
    })
}
