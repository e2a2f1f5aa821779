// hashmap: updates of a hash map of random 8-byte keys and values, persistent against volatile.

import ArgumentParser
import PersistentHashmap
import VolipMem

struct HashmapOptions: ParsableArguments {
  @Option(help: "Updates a section. Repeatable; 1, 100, 1000 and 10000 by default.")
  var batch: [Int] = [1, 100, 1000, 10000]

  @Option(help: "Seconds a sample. Default 1, with --quick 0.1.")
  var seconds: Double?

  @Flag(inversion: .prefixedNo, help: "Measure 95 % lookups, 5 % sections of one update too.")
  var mix = true

  @Flag(inversion: .prefixedNo, help: "Measure PersistentDictionary too.")
  var dictionary = true

  @Flag(inversion: .prefixedNo, help: "Measure the page-tracked map too.")
  var pools = true

  @Flag(inversion: .prefixedNo, help: "Measure libpmemobj's transactions and LMDB too.")
  var peers = true

  @Flag(inversion: .prefixedNo, help: "Measure the volatile map too; without it for profiles.")
  var volatile = true

  func validate() throws {
    guard batch.allSatisfy({ $0 > 0 && $0 <= 1_000_000 }) else {
      throw ValidationError("A batch is 1 to 1000000 updates.")
    }
    guard seconds ?? 1 > 0 else { throw ValidationError("Seconds must be more than 0.") }
  }
}

struct Hashmap: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Updates of a hash map of 1M keys, by batch size, against the same map in DRAM.")

  @OptionGroup var runOptions: RunOptions
  @OptionGroup var configurations: ConfigurationOptions
  @OptionGroup var hashmap: HashmapOptions

  func run() throws {
    let report = Report(runOptions)
    try report.show(hashmapBenchmark(runOptions, configurations.list, hashmap))
  }
}

/// A system that is measured: its labels, and a sample of one case.
struct Contender {
  let label: (Measurement) -> Measurement
  let sample: (WorkloadCase, _ seconds: Double) throws -> Double
}

func hashmapBenchmark(
  _ run: RunOptions, _ configurations: [PoolConfiguration], _ options: HashmapOptions
) throws -> BenchmarkResult {
  let keyCount = run.quick ? 100_000 : 1_000_000
  let duration = options.seconds ?? (run.quick ? 0.1 : 1)
  let cases = options.batch.map { WorkloadCase.update(batch: $0) } + (options.mix ? [.mix95] : [])
  let contenders =
    (options.volatile ? [try volatileContender(keyCount)] : [])
    + (options.dictionary
      ? try [false, true].map { try dictionaryContender(keyCount, checkpointThread: $0) } : [])
    + (options.peers ? try peerContenders(keyCount) : [])
    + (try (options.pools ? configurations : []).map {
      try $0.isGuest ? guestContender(keyCount, $0) : poolContender(keyCount, $0)
    })
  var measurements = contenders.map { contender in
    cases.map { workloadCase in
      var measurement = Measurement("hashmap", workloadCase.name, unit: "updates/s")
      measurement.batch = workloadCase.batch
      return contender.label(measurement)
    }
  }
  // Repetitions outermost and contenders innermost: what disturbs the machine for some seconds
  // disturbs all of them, and a ratio within a run stays true.
  for _ in 0..<run.repetitionCount {
    for (column, workloadCase) in cases.enumerated() {
      for (row, contender) in contenders.enumerated() {
        _ = try contender.sample(workloadCase, duration / 5)  // retention learns, caches fill
        measurements[row][column].samples.append(try contender.sample(workloadCase, duration))
      }
    }
  }
  return BenchmarkResult(
    title: "hashmap, \(keyCount) keys: thousand updates a second (mix95: operations), min - max",
    measurements: measurements.flatMap { $0 }, table: hashmapTable(measurements))
}

private func hashmapTable(_ measurements: [[Measurement]]) -> Table {
  let columns = measurements[0].map { $0.name == "update" ? "upd\($0.batch)" : $0.name }
  var table = Table(header: ["system", "mode", "tracker", "retain"] + columns)
  table.rows = measurements.map { row in
    [row[0].system, row[0].mode, row[0].tracker, row[0].retain]
      + row.map {
        "\(short($0.median / 1000)) (\(short($0.least / 1000)) - \(short($0.most / 1000)))"
      }
  }
  return table
}

private func volatileContender(_ keyCount: Int) throws -> Contender {
  let memory = VolatileMemory()
  var map = try HashMap(capacity: keyCount, in: memory)
  for index in 0..<UInt64(keyCount) { try map.insert(key(index), index, in: memory) }
  return contender("volatile", ChainedMap(map: map, sections: NoSections()), keyCount)
}

/// A system without trackers.
func contender(_ system: String, _ map: some MeasuredMap, _ keyCount: Int) -> Contender {
  var workload = Workload(map, keyCount: keyCount, seed: 0x5EED)
  return Contender(
    label: { measurement in
      var result = measurement
      result.system = system
      return result
    },
    sample: { try workload.rate($0, for: $1) })
}

/// 32 bytes a node and 8 to 16 a bucket, the log (its first size is 1/32 of the file), and air.
private let poolBytes: UInt64 = 1 << 30

/// Inserts a section when the map is filled.
private let fillBatch = 10_000

func poolContender(
  _ keyCount: Int, _ configuration: PoolConfiguration
) throws -> Contender {
  // The file has no name any more; the pool's own descriptor keeps it.
  let pool = try ScratchPool(byteCount: poolBytes).open(configuration)
  let root = try pool.section { section in
    try pool.root("map", in: &section) { try HashMap(capacity: keyCount, in: pool) }
  }
  for first in stride(from: 0, to: keyCount, by: fillBatch) {
    try pool.section { _ in
      for index in first..<min(first + fillBatch, keyCount) {
        try root.pointee.insert(key(UInt64(index)), UInt64(index), in: pool)
      }
    }
  }
  // SAFETY: the root stays where it is and its buckets do not move: nothing is inserted any more.
  let map = ChainedMap(map: root.pointee, sections: PoolSections(pool: pool))
  var workload = Workload(map, keyCount: keyCount, seed: 0x5EED)
  return Contender(
    label: { $0.with(configuration) },
    sample: { try workload.rate($0, for: $1) })
}
