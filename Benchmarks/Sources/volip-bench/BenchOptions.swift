// What all subcommands have in common on the command line, and the configurations of a pool.

import ArgumentParser
import VolipMem

struct RunOptions: ParsableArguments {
  @Flag(help: "Shorter runs, fewer keys, fewer repetitions: figures to look at, not to quote.")
  var quick = false

  @Flag(help: "Print one JSON object a line instead of tables.")
  var json = false

  @Option(help: "A file to which the same is appended as JSON lines.", completion: .file())
  var save: String?

  @Option(help: "Samples of each figure; the median is reported. Default 5, with --quick 3.")
  var repetitions: Int?

  var repetitionCount: Int { repetitions ?? (quick ? 3 : 5) }

  func validate() throws {
    guard repetitionCount >= 3 else {
      throw ValidationError("A median needs at least 3 repetitions.")
    }
  }
}

enum Mode: String, ExpressibleByArgument, CaseIterable {
  case host
  /// As a virtual machine, through /dev/kvm.
  case guest
  case all
}

enum Retain: String, ExpressibleByArgument, CaseIterable {
  /// Every written page is armed again.
  case none = "0"
  /// Retention decides by measured costs.
  case auto
}

struct ConfigurationOptions: ParsableArguments {
  @Option(help: "Whether to measure on the host, in the guest, or both: host, guest or all.")
  var mode = Mode.host

  @Option(help: "Which tracker finds the writes; all of the mode by default. Repeatable.")
  var tracker: [String] = []

  @Option(help: "Whether written pages may stay writable, 0 or auto. Repeatable; both by default.")
  var retain: [Retain] = Retain.allCases

  var list: [PoolConfiguration] {
    let all =
      (mode == .guest ? [] : TrackerKind.hostKinds)
      + (mode == .host ? [] : TrackerKind.guestKinds)
    let kinds = all.filter { tracker.isEmpty || tracker.contains($0.rawValue) }
    return kinds.flatMap { kind in retain.map { PoolConfiguration(tracker: kind, retain: $0) } }
  }

  func validate() throws {
    for name in tracker where TrackerKind(rawValue: name) == nil {
      let names = TrackerKind.allCases.map(\.rawValue).joined(separator: ", ")
      throw ValidationError("There is no tracker \(name); there are \(names).")
    }
    guard !list.isEmpty else { throw ValidationError("No tracker of this mode was asked for.") }
  }
}

/// One way to run a pool.
struct PoolConfiguration {
  let tracker: TrackerKind
  let retain: Retain
  var commitThreads = 1
  var checkpointThread = false

  var isGuest: Bool { TrackerKind.guestKinds.contains(tracker) }

  /// For figures that do not depend on the tracker: one that every kernel has.
  static var plain: PoolConfiguration {
    PoolConfiguration(tracker: VirtualMachine.isEntered ? .dirtyBits : .writeProtect, retain: .none)
  }

  /// tmpfs stands for persistent memory: stores are flushed and fenced as they would be there.
  var options: Pool.Options {
    var options = Pool.Options()
    options.engine.tracker = tracker
    options.engine.retention = retain == .auto
    options.engine.persistencePath = .cacheLines
    options.engine.commitThreads = commitThreads
    options.engine.checkpointThread = checkpointThread
    return options
  }
}
