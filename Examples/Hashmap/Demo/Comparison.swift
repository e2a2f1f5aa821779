// Comparison: the same sections with each tracker of this machine, without kills, for people. Its
// lines start with "#", so that nobody takes them for lines of the table.

import ArgumentParser
import VolipMem

struct Comparison {
  private let workload: Workload
  private let modes: [Mode]

  /// Sections before the clock runs: the map has got its buckets and a third of its entries.
  private static let warmUpSections = 1000
  private static let milliseconds = 1500

  /// In guest mode all trackers side by side, otherwise those of the host.
  init(_ workload: Workload, on mode: Mode) {
    self.workload = workload
    modes = mode == .guest ? [.guest, .host] : [.host]
  }

  /// A line for each tracker, with a heading.
  func run() async throws -> String {
    let seconds = Double(Self.milliseconds) / 1000
    var lines = [
      "", "# The same sections without kills, \(seconds) s with each tracker",
      Self.line("mode", "tracker", ["updates/s", "commit p50 us", "commit p99 us"]),
    ]
    for mode in modes {
      for tracker in mode.trackers {
        let cells = try await measure(mode, tracker)
        lines.append(Self.line(mode.rawValue, tracker.rawValue, cells))
      }
    }
    return lines.joined(separator: "\n")
  }

  private func measure(_ mode: Mode, _ tracker: TrackerKind) async throws -> [String] {
    let place = try PoolPlace(given: nil)
    defer { place.remove() }
    let worker = WorkerProcess(
      pool: place.path, seed: workload.seed, mode: mode, tracker: tracker)
    do {
      let account = try await worker.run(
        .sections(UInt64(Self.warmUpSections), thenMilliseconds: Self.milliseconds))
      var results = Results(workload)
      account.reports.dropFirst(Self.warmUpSections).forEach { results.add($0) }
      return [
        "\(results.updatesPerSecond)", results.commitMicroseconds(percentile: 50),
        results.commitMicroseconds(percentile: 99),
      ]
    } catch let code as ExitCode where code.rawValue == PoolError.hostUnsupported {
      return ["does not work here"]
    }
  }

  private static func line(_ mode: String, _ tracker: String, _ cells: [String]) -> String {
    func padding(_ text: String, _ width: Int) -> String {
      String(repeating: " ", count: max(width - text.count, 1))
    }
    return cells.reduce("# \(mode)\(padding(mode, 6)) \(tracker)\(padding(tracker, 16))") {
      $0 + padding($1, 15) + $1
    }
  }
}
