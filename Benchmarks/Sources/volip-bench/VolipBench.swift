import ArgumentParser

@main
struct VolipBench: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "volip-bench",
    abstract: "Measures volipmem on this machine. Figures are medians of interleaved repetitions.",
    subcommands: [
      Hashmap.self, Collections.self, Open.self, Replay.self, Allocate.self, LoggedBytes.self,
      All.self, FillLog.self,
      GuestPeerCommand.self, Primitives.self,
    ])
}

/// Every benchmark in one run.
struct All: ParsableCommand {
  static let configuration = CommandConfiguration(abstract: "Runs every benchmark.")

  @OptionGroup var runOptions: RunOptions
  @OptionGroup var configurations: ConfigurationOptions
  @OptionGroup var hashmap: HashmapOptions

  func run() throws {
    let report = Report(json: runOptions.json)
    report.show(try hashmapBenchmark(runOptions, configurations.list, hashmap))
    report.show(try collectionsBenchmark(runOptions))
    report.show(try openBenchmark(runOptions))
    report.show(try replayBenchmark(runOptions))
    report.show(try allocateBenchmark(runOptions, configurations.list))
    report.show(try loggedBytesBenchmark(runOptions, configurations.list))
  }
}
