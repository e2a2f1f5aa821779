// open: how long a pool takes to open when there is nothing to recover.

import ArgumentParser
import VolipMem

struct Open: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Time to open a 10 GiB sparse pool with an empty log.")

  @OptionGroup var runOptions: RunOptions
  @Option(help: "host or guest.")
  var mode = Mode.host

  func run() throws {
    if mode == .guest { try VirtualMachine.enter() }
    try Report(runOptions).show(openBenchmark(runOptions))
  }
}

func openBenchmark(_ run: RunOptions) throws -> BenchmarkResult {
  let scratch = try ScratchPool(byteCount: 10 << 30)
  let isGuest = VirtualMachine.isEntered
  let trackers = (isGuest ? TrackerKind.guestKinds : TrackerKind.hostKinds).map {
    PoolConfiguration(tracker: $0, retain: .auto)
  }
  var measurements = trackers.map { configuration in
    var measurement = Measurement("open", "10 GiB", unit: "ms").with(configuration)
    measurement.target = isGuest ? "< 200" : "< 50"
    return measurement
  }
  // Once before, because each process measures the cost of a trap at its first open.
  for configuration in trackers { try scratch.open(configuration).close() }
  for _ in 0..<run.repetitionCount {
    for (index, configuration) in trackers.enumerated() {
      measurements[index].samples.append(
        try openSeconds(scratch, configuration, then: { _ in }) * 1000)
    }
  }
  return BenchmarkResult(
    title: "open, nothing to recover", measurements: measurements, table: .list(measurements))
}

/// Seconds of an open; the pool is closed and unmapped before this returns.
func openSeconds(
  _ scratch: ScratchPool, _ configuration: PoolConfiguration, then check: (Pool) throws -> Void
) throws -> Double {
  var opened: Pool?
  let duration = try seconds { opened = try scratch.open(configuration) }
  guard let pool = opened else { throw BenchError("no pool") }
  try check(pool)
  try pool.close()
  return duration
}
