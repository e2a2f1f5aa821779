// commit: what the end of a section costs, by the pages that it wrote.

import ArgumentParser
import Glibc
import VolipMem

struct CommitTime: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "commit", abstract: "Time of pend by the pages that a section wrote.")

  @OptionGroup var runOptions: RunOptions
  @Option(help: "host, guest or all.")
  var mode = Mode.host

  func run() throws {
    if mode == .guest { try VirtualMachine.enter() }
    try Report(runOptions).show(commitBenchmark(runOptions))
    if mode == .all { try runAgainInGuest("commit", runOptions) }
  }
}

private let commitPages = 4096
private let dirtyCounts = [1, 4, 16, 64, 256, 1024, 4096]

/// One line a page changes; each page is armed again.
func commitBenchmark(_ run: RunOptions) throws -> BenchmarkResult {
  let isGuest = VirtualMachine.isEntered
  let kinds = isGuest ? [.dirtyBits, .detectOnWrite] : TrackerKind.hostKinds
  let configurations = kinds.map { PoolConfiguration(tracker: $0, retain: .none) }
  var measurements: [Measurement] = []
  for configuration in configurations {
    let pool = try ScratchPool(byteCount: 256 << 20).open(configuration)
    let memory = try pool.section { _ in try pool.allocate(byteCount: commitPages * 4096) }
    for count in dirtyCounts {
      var measurement = Measurement("commit", "pend", unit: "us").with(configuration)
      measurement.batch = count
      measurement.samples = try commitSamples(pool, memory, count, run)
      measurements.append(measurement)
    }
  }
  return BenchmarkResult(
    title: "commit, \(isGuest ? "guest" : "host"), us by dirty pages, one line each",
    measurements: measurements, table: .list(measurements))
}

private func commitSamples(
  _ pool: Pool, _ memory: UnsafeMutableRawPointer, _ count: Int, _ run: RunOptions
) throws -> [Double] {
  let rounds = max(2, (run.quick ? 64 : 512) / count)
  let stride = commitPages / count * 4096
  return try (0..<run.repetitionCount + 1).map { repetition in
    var time: UInt64 = 0
    for round in 0..<rounds {
      try pool.pstart()
      for page in 0..<count {
        // SAFETY: the block has commitPages pages.
        (memory + page * stride).storeBytes(of: repetition << 32 | round, as: Int.self)
      }
      let start = nanoseconds()
      try pool.pend()
      time += nanoseconds() - start
    }
    return Double(time) / Double(rounds) / 1000
  }.dropFirst().map { $0 }
}
