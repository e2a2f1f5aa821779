// Results: the counts of a trial and the table of them, for people and scripts.

import Histogram
import VolipMem

struct Results {
  private let workload: Workload
  var kills = 0
  /// The last section that the pool holds.
  var sections: UInt64 = 0
  /// What the workers said they are; nil when none lived long enough to say it.
  var mode: Mode?
  var tracker: TrackerKind?
  var findings = Findings()
  private var commitTimes = Histogram<UInt64>(
    highestTrackableValue: Self.commitNanosecondsMax, numberOfSignificantValueDigits: .three)
  private var operationCount = 0
  private var sectionNanoseconds: UInt64 = 0

  /// A commit that takes longer counts as this long.
  private static let commitNanosecondsMax: UInt64 = 60_000_000_000

  init(_ workload: Workload) {
    self.workload = workload
  }

  mutating func add(_ report: Report) {
    commitTimes.record(min(report.commitNanoseconds, Self.commitNanosecondsMax))
    sectionNanoseconds += report.sectionNanoseconds
    operationCount += workload.operations(of: report.section).count
  }

  /// A name and a value on each line. Times and rates are of the acknowledged sections, from pstart
  /// to the return of pend.
  var table: String {
    let lines: [(name: String, value: String)] = [
      ("mode", mode?.rawValue ?? "none"),
      ("tracker", tracker?.rawValue ?? "none"),
      ("sections", "\(sections)"),
      ("kills", "\(kills)"),
      ("lost", "\(findings.lost)"),
      ("torn", "\(findings.torn)"),
      ("leaked", "\(findings.leaked)"),
      ("commit_p50_us", commitMicroseconds(percentile: 50)),
      ("commit_p99_us", commitMicroseconds(percentile: 99)),
      ("updates_per_second", "\(updatesPerSecond)"),
    ]
    return lines.map { "\($0.name) \($0.value)" }.joined(separator: "\n")
  }

  func commitMicroseconds(percentile: Double) -> String {
    let tenths = (commitTimes.valueAtPercentile(percentile) + 50) / 100
    return "\(tenths / 10).\(tenths % 10)"
  }

  var updatesPerSecond: Int {
    guard sectionNanoseconds > 0 else { return 0 }
    return Int(Double(operationCount) * 1e9 / Double(sectionNanoseconds))
  }
}
