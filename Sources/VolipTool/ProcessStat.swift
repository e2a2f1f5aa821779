// volip stat PID: the epochs of a wrapped program, now. Its library publishes the counts
// (ProcessStatistics); nothing is asked of it.

import Glibc
import VolipMem
import VolipWrap

struct ProcessStat {
  let process: pid_t
  let output: Output

  /// Shows what came between two looks, `samples` times.
  func run(_ samples: Int, _ interval: Double) throws {
    var before = try look()
    for _ in 0..<samples {
      let start = ContinuousClock.now
      usleep(UInt32(interval * 1e6))
      let now = try look()
      show(now, since: before, seconds: (ContinuousClock.now - start) / .seconds(1))
      before = now
      fflush(nil)
    }
  }

  private func look() throws -> ProcessStatistics {
    guard let found = ProcessStatistics.read(process: process) else {
      throw Refusal("Process \(process) is no wrapped program that has mapped one of its files.")
    }
    return found
  }

  private func show(
    _ now: ProcessStatistics, since before: ProcessStatistics, seconds: Double
  ) {
    func difference(_ field: KeyPath<ProcessStatistics, UInt64>) -> Double {
      Double(now[keyPath: field] &- before[keyPath: field])
    }
    func rate(_ field: KeyPath<ProcessStatistics, UInt64>) -> Double {
      (difference(field) / seconds).rounded()
    }
    func each(_ field: KeyPath<ProcessStatistics, UInt64>) -> Double {
      (difference(field) / max(difference(\.epochs), 1)).rounded()
    }
    let times = now.times.enumerated().filter { $0.element > 0 }
      .map { (below: UInt64(2) << UInt64($0.offset), count: $0.element) }
    output.show([
      ("process", Json(Int(process))), ("epochsPerSecond", .decimal(rate(\.epochs))),
      ("skippedPerSecond", .decimal(rate(\.skipped))), ("pagesPerEpoch", .decimal(each(\.pages))),
      ("linesPerEpoch", .decimal(each(\.lines))), ("exitsPerEpoch", .decimal(each(\.exits))),
      ("microsecondsPerEpoch", .decimal(each(\.microseconds))), ("epochs", Json(now.epochs)),
      ("empty", Json(now.empty)), ("skipped", Json(now.skipped)), ("pages", Json(now.pages)),
      ("lines", Json(now.lines)), ("exits", Json(now.exits)),
      ("microseconds", Json(now.microseconds)),
      (
        "times",
        .list(
          times.map {
            .object([("belowMicroseconds", Json($0.below)), ("epochs", Json($0.count))])
          }
        )
      ),
    ]) {
      [
        "\(whole(rate(\.epochs))) epochs/s, \(whole(rate(\.skipped))) skipped/s; an epoch "
          + "\(whole(each(\.pages))) pages, \(whole(each(\.lines))) lines, "
          + "\(whole(each(\.exits))) exits, \(whole(each(\.microseconds))) us; so far "
          + "\(now.epochs) epochs (\(now.empty) empty), \(now.skipped) skipped",
        "commits " + times.map { "< \($0.below) us \($0.count)" }.joined(separator: ", "),
      ]
    }
  }

  /// The counts are what somebody wrote: any number.
  private func whole(_ value: Double) -> String { Int(exactly: value).map { "\($0)" } ?? "?" }
}
