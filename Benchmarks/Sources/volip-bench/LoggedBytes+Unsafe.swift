// logged-bytes: what a section stores in the log for the lines that it changed, and its fences.
// Counted, not timed: the same on every machine.

import ArgumentParser
import VolipMem

struct LoggedBytes: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Log bytes for each changed byte, and fences, by changed lines a section.")

  @OptionGroup var runOptions: RunOptions
  @OptionGroup var configurations: ConfigurationOptions

  func run() throws {
    try Report(runOptions).show(loggedBytesBenchmark(runOptions, configurations.list))
  }
}

private let lineBytes = 64
private let areaLines = 1 << 18
/// Sections for each figure: at 1,000 lines 7.2 MB of log, which needs no checkpoint.
private let sectionCount = 100

func loggedBytesBenchmark(
  _ run: RunOptions, _ configurations: [PoolConfiguration]
) throws -> BenchmarkResult {
  var measurements: [Measurement] = []
  for configuration in configurations {
    let pool = try ScratchPool(byteCount: 1 << 30).open(configuration)
    let area = try pool.section { _ in
      try pool.allocate(UInt64.self, count: areaLines * lineBytes / 8)
    }
    for lineCount in [1, 10, 100, 1000] {
      measurements += try loggedBytes(pool, area, lineCount).map { $0.with(configuration) }
    }
  }
  return BenchmarkResult(
    title: "logged-bytes: sections of so many changed lines (batch), scattered",
    measurements: measurements, table: .list(measurements))
}

private func loggedBytes(
  _ pool: Pool, _ area: UnsafeMutablePointer<UInt64>, _ lineCount: Int
) throws -> [Measurement] {
  var bytes = Measurement("logged-bytes", "stored", unit: "bytes/changed byte")
  bytes.batch = lineCount
  bytes.target = "<= \(short(2 + 128 / Double(lineCount * lineBytes)))"
  var fences = Measurement("logged-bytes", "fences", unit: "fences/section")
  fences.batch = lineCount
  fences.target = "1"
  var generator = FastGenerator(seed: 0xB17E5)
  try pool.checkpoint()  // so that none is needed below
  for section in 1...sectionCount {
    let before = try pool.statistics()
    let start = generator.below(UInt64(areaLines))
    try pool.section { _ in
      for index in 0..<UInt64(lineCount) {
        // An odd step through a power of two: all lines differ, and hardly any are neighbours.
        let line = (start + index * 0x9E37_79B1) % UInt64(areaLines)
        // SAFETY: the area has areaLines lines of 8 words.
        area[Int(line) * 8] = UInt64(section) << 32 | UInt64(lineCount)
      }
    }
    let after = try pool.statistics()
    guard after.lines - before.lines == lineCount else {
      throw BenchError("\(after.lines - before.lines) lines were logged for \(lineCount) changed")
    }
    let stored = after.persistence.storedBytes - before.persistence.storedBytes
    bytes.samples.append(Double(stored) / Double(lineCount * lineBytes))
    fences.samples.append(Double(after.persistence.fences - before.persistence.fences))
  }
  return [bytes, fences]
}
