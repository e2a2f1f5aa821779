// replay: how fast recovery applies a full log. A child process fills the log and ends without
// closing the pool; the open after it replays. Nothing is subtracted: the figure is the log's
// bytes over the time of the whole open.

import ArgumentParser
import VolipMem

struct Replay: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Log replay at open in GB/s, for records of one line and of 64 KiB.")

  @OptionGroup var runOptions: RunOptions

  func run() throws {
    try Report(runOptions).show(replayBenchmark(runOptions))
  }
}

/// What the sections that fill the log look like.
enum RecordShape: String, CaseIterable, ExpressibleByArgument {
  /// One line, anywhere in the area.
  case oneLine = "one-line"
  /// 1,023 lines that follow each other: with the header 64 KiB.
  case large = "64-kib"

  var lineCount: Int { self == .oneLine ? 1 : 1023 }
  /// A header line, then the lines; the only extent is in the header.
  var recordBytes: Int { (1 + lineCount) * 64 }
  var targetGigabytes: Double { self == .oneLine ? 0.5 : 1 }
}

func replayBenchmark(_ run: RunOptions) throws -> BenchmarkResult {
  let logBytes: UInt64 = run.quick ? 16 << 20 : 64 << 20
  let scratch = try ScratchPool(byteCount: 1 << 30, logBytes: logBytes)
  var rates = RecordShape.allCases.map { shape in
    var measurement = Measurement("replay", shape.rawValue, unit: "GB/s")
    measurement.target = ">= \(shape.targetGigabytes)"
    return measurement
  }
  var replays = RecordShape.allCases.map { Measurement("replay", $0.rawValue, unit: "ms") }
  var empty = Measurement("replay", "empty-log", unit: "ms")
  for _ in 0..<run.repetitionCount {
    for (index, shape) in RecordShape.allCases.enumerated() {
      // The log goes round: the gap at its end may take as much as one record.
      let recordCount = Int(logBytes) / shape.recordBytes - 2
      try FillLog.runInChild(scratch.path, shape, recordCount: recordCount)
      let duration = try openSeconds(scratch, .plain) { pool in
        let replayed = try pool.statistics().replayed
        guard replayed == recordCount else {
          throw BenchError("\(replayed) of \(recordCount) records were replayed")
        }
      }
      rates[index].samples.append(Double(recordCount * shape.recordBytes) / duration / 1e9)
      replays[index].samples.append(duration * 1000)
      empty.samples.append(try openSeconds(scratch, .plain, then: { _ in }) * 1000)
    }
  }
  let measurements = (rates + replays + [empty]).map { $0.with(.plain) }
  return BenchmarkResult(
    title: "replay of a log of \(logBytes >> 20) MiB: rate and time of the whole open",
    measurements: measurements, table: .list(measurements))
}
