// What all subcommands have in common on the command line, and the configurations of a pool.

import ArgumentParser
import VolipMem

struct RunOptions: ParsableArguments {
  @Flag(help: "Shorter runs, fewer keys, fewer repetitions: figures to look at, not to quote.")
  var quick = false

  @Flag(help: "Print one JSON object a line instead of tables.")
  var json = false

  @Option(help: "Samples of each figure; the median is reported. Default 5, with --quick 3.")
  var repetitions: Int?

  var repetitionCount: Int { repetitions ?? (quick ? 3 : 5) }

  func validate() throws {
    guard repetitionCount >= 3 else {
      throw ValidationError("A median needs at least 3 repetitions.")
    }
  }
}

enum TrackerChoice: String, ExpressibleByArgument, CaseIterable {
  case pageMapScan = "page-map-scan"
  case writeProtect = "write-protect"
  case all
}

enum Retain: String, ExpressibleByArgument, CaseIterable {
  /// Every written page is armed again.
  case none = "0"
  /// Retention decides by measured costs.
  case auto
}

struct ConfigurationOptions: ParsableArguments {
  @Option(help: "Which tracker finds the writes: page-map-scan, write-protect or all.")
  var tracker = TrackerChoice.all

  @Option(help: "Whether written pages may stay writable, 0 or auto. Repeatable; both by default.")
  var retain: [Retain] = Retain.allCases

  var list: [PoolConfiguration] {
    let kinds = TrackerKind.allCases.filter { tracker == .all || $0.rawValue == tracker.rawValue }
    return kinds.flatMap { kind in retain.map { PoolConfiguration(tracker: kind, retain: $0) } }
  }
}

/// One way to run a pool.
struct PoolConfiguration {
  let tracker: TrackerKind
  let retain: Retain

  /// What a machine without a kernel for page-map-scan has, and a constant for figures that do not
  /// depend on the tracker.
  static let plain = PoolConfiguration(tracker: .writeProtect, retain: .none)

  /// tmpfs stands for persistent memory: stores are flushed and fenced as they would be there.
  var options: Pool.Options {
    var options = Pool.Options()
    options.engine.tracker = tracker
    options.engine.retention = retain == .auto
    options.engine.persistencePath = .cacheLines
    return options
  }
}
