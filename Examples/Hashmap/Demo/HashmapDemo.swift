// hashmap-demo: kills a program with SIGKILL again and again and looks whether its hash map in a
// pool lost anything. `check` is the parent and the default, `worker` the program that is killed.

import ArgumentParser
import SystemPackage
import VolipMem

@main
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
  var seconds = 150

  @Option(help: "Milliseconds that a worker lives at most.")
  var lifetime = 4000

  @Option(help: "Which tracker finds the writes; the first that works by default.")
  var tracker: TrackerKind?

  @Option(help: "A pool file to make and keep; by default one in memory, removed at the end.")
  var pool: String?

  @Option(help: "Replays the sections of an earlier run; kills come at other instants.")
  var seed: UInt64?

  @Option(help: .hidden)
  var sabotage: Sabotage?

  func validate() throws {
    guard kills >= 0, seconds >= 0, lifetime >= Lifetimes.earlyMillisecondsMax else {
      throw ValidationError("--lifetime is at least \(Lifetimes.earlyMillisecondsMax).")
    }
  }

  func run() async throws {
    var system = SystemRandomNumberGenerator()
    let seed = seed ?? system.next()
    printError("hashmap-demo: --seed \(seed)")
    let place = try PoolPlace(given: pool)
    defer { place.remove() }
    let demoPool = DemoPool(path: place.path, tracker: tracker)
    var trial = Trial(pool: demoPool, workload: Workload(seed: seed), sabotage: sabotage)
    do {
      try await trial.run(kills: kills, seconds: seconds, lifetimes: Lifetimes(lifetime, seed))
    } catch let error as PoolError {
      printError("hashmap-demo: \(error)")
      throw ExitCode(error.exitCode)
    }
    trial.results.findings.remarks.forEach { printError("hashmap-demo: \($0)") }
    print(trial.results.table)
    guard trial.results.findings.isClean else { throw ExitCode.failure }
  }
}

func printError(_ line: String) {
  writeError(line + "\n")
}

/// Text on standard error, unbuffered; there is nobody to tell when that fails.
func writeError(_ text: String) {
  _ = try? FileDescriptor.standardError.writeAll(text.utf8)
}
