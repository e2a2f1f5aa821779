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

/// One line a page changes, and, where threads share the commit, sixteen; each page is armed again.
func commitBenchmark(_ run: RunOptions) throws -> BenchmarkResult {
  let isGuest = VirtualMachine.isEntered
  let kinds = isGuest ? [.dirtyBits, .detectOnWrite] : TrackerKind.hostKinds
  let configurations = kinds.flatMap { kind in
    [(1, false), (2, false), (2, true)].map { threads, checkpoints in
      PoolConfiguration(
        tracker: kind, retain: .none, commitThreads: threads, checkpointThread: checkpoints)
    }
  }
  var measurements: [Measurement] = []
  for configuration in configurations {
    let pool = try ScratchPool(byteCount: 256 << 20).open(configuration)
    let memory = try pool.section { _ in try pool.allocate(byteCount: commitPages * 4096) }
    let isAlone = configuration.commitThreads == 1
    for count in dirtyCounts where isAlone || count > 512 {
      for lines in count > 512 ? [1, 16] : [1] {
        var measurement = Measurement("commit", name(configuration, lines), unit: "us")
          .with(configuration)
        measurement.batch = count
        measurement.samples = try commitSamples(pool, memory, (count, lines), run)
        measurements.append(measurement)
      }
    }
    try pool.close()
  }
  return BenchmarkResult(
    title: "commit, \(isGuest ? "guest" : "host"), us by dirty pages",
    measurements: measurements, table: .list(measurements))
}

private func name(_ configuration: PoolConfiguration, _ lines: Int) -> String {
  var name = "pend"
  if lines > 1 { name += ", \(lines) lines a page" }
  if configuration.commitThreads > 1 { name += ", \(configuration.commitThreads) threads" }
  if configuration.checkpointThread { name += ", checkpoint thread" }
  return name
}

private func commitSamples(
  _ pool: Pool, _ memory: UnsafeMutableRawPointer, _ written: (pages: Int, lines: Int),
  _ run: RunOptions
) throws -> [Double] {
  let count = written.pages
  let rounds = max(2, (run.quick ? 64 : 512) / count)
  let stride = commitPages / count * 4096
  return try (0..<run.repetitionCount + 1).map { repetition in
    var time: UInt64 = 0
    for round in 0..<rounds {
      try pool.pstart()
      for page in 0..<count {
        for line in 0..<written.lines {
          // SAFETY: the block has commitPages pages, and a page has 64 lines.
          (memory + page * stride + line * 256)
            .storeBytes(of: repetition << 32 | round, as: Int.self)
        }
      }
      let start = nanoseconds()
      try pool.pend()
      time += nanoseconds() - start
    }
    return Double(time) / Double(rounds) / 1000
  }.dropFirst().map { $0 }
}
