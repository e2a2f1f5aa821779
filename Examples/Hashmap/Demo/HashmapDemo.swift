// hashmap-demo: kills a program with SIGKILL again and again and looks whether its hash map in a
// pool lost anything. `check` is the parent and the default, `worker` the program that is killed.
// The worker is a virtual machine where there is /dev/kvm; the parent always stays on the host.

import ArgumentParser
import Dispatch
import SystemPackage
import VolipMem

/// Guest mode is entered before a second thread exists, and an asynchronous main may have started
/// some before its first line: so the worker's main is an ordinary function.
@main enum Program {
  static func main() {
    let arguments = CommandLine.arguments.dropFirst()
    if arguments.first == Worker.configuration.commandName {
      return Worker.main(Array(arguments.dropFirst()))
    }
    Task {
      await HashmapDemo.main()
      HashmapDemo.exit()
    }
    dispatchMain()
  }
}

struct HashmapDemo: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "hashmap-demo",
    abstract: "A persistent hash map that survives kill -9.",
    subcommands: [Check.self, Worker.self], defaultSubcommand: Check.self)
}

extension TrackerKind: ExpressibleByArgument {}

struct Check: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Runs and kills the worker, reopens the pool and compares it with a model.")

  @Option(help: "How often the worker is killed.")
  var kills = 50

  @Option(help: "Seconds after which no further worker is started.")
  var seconds = 140

  @Option(help: "Milliseconds that a worker lives at most.")
  var lifetime = 4000

  @Flag(help: "Stays on the host where guest mode would be possible.")
  var host = false

  @Option(help: "Which tracker finds the writes; the mode's first choice by default.")
  var tracker: TrackerKind?

  @Flag(inversion: .prefixedNo, help: "Compares the trackers of this machine at the end.")
  var comparison = true

  @Option(help: "A pool file to make and keep; by default one in memory, removed at the end.")
  var pool: String?

  @Option(help: "Replays the sections of an earlier run; kills come at other instants.")
  var seed: UInt64?

  @Option(help: .hidden)
  var sabotage: Sabotage?

  func validate() throws {
    guard kills >= 0, seconds >= 0, lifetime > 0 else {
      throw ValidationError("--kills and --seconds are not negative, --lifetime is at least 1.")
    }
  }

  func run() async throws {
    let mode = Mode.chosen(isHostAsked: host)
    if let tracker, !mode.trackers.contains(tracker) {
      let advice = mode == .guest ? ": add --host" : ""
      printError("hashmap-demo: mode \(mode.rawValue) has no tracker \(tracker.rawValue)\(advice)")
      throw ExitCode(PoolError.hostUnsupported)
    }
    var system = SystemRandomNumberGenerator()
    let seed = seed ?? system.next()
    printError("hashmap-demo: --seed \(seed)")
    do {
      try await run(mode, Workload(seed: seed))
    } catch let error as PoolError {
      printError("hashmap-demo: \(error)")
      throw ExitCode(error.exitCode)
    }
  }

  private func run(_ mode: Mode, _ workload: Workload) async throws {
    let place = try PoolPlace(given: pool)
    defer { place.remove() }
    let worker = WorkerProcess(
      pool: place.path, seed: workload.seed, mode: mode, tracker: tracker)
    var trial = Trial(worker, workload, sabotage: sabotage)
    try await trial.run(
      kills: kills, seconds: seconds, lifetimes: Lifetimes(lifetime, workload.seed, mode))
    trial.results.findings.remarks.forEach { printError("hashmap-demo: \($0)") }
    print(trial.results.table)
    guard trial.results.findings.isClean else { throw ExitCode.failure }
    if comparison { try await print(Comparison(workload, on: mode).run()) }
  }
}

func printError(_ line: String) {
  writeError(line + "\n")
}

/// Text on standard error, unbuffered; there is nobody to tell when that fails.
func writeError(_ text: String) {
  _ = try? FileDescriptor.standardError.writeAll(text.utf8)
}
