import ArgumentParser

@main
struct VolipBench: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "volip-bench",
    abstract: "Measures volipmem on this machine. Figures are medians of interleaved repetitions.",
    subcommands: [
      Hashmap.self, Collections.self, Lanes.self, Open.self, Replay.self, Allocate.self,
      LoggedBytes.self,
      All.self, FillLog.self,
      GuestPeerCommand.self, Primitives.self, CommitTime.self,
    ])
}

/// Every benchmark in one run.
struct All: ParsableCommand {
  static let configuration = CommandConfiguration(abstract: "Runs every benchmark.")

  @OptionGroup var runOptions: RunOptions
  @OptionGroup var configurations: ConfigurationOptions
  @OptionGroup var hashmap: HashmapOptions

  func run() throws {
    let report = Report(runOptions)
    try report.show(hashmapBenchmark(runOptions, configurations.list, hashmap))
    try report.show(collectionsBenchmark(runOptions))
    try report.show(lanesBenchmark(runOptions))
    try report.show(openBenchmark(runOptions))
    try report.show(replayBenchmark(runOptions))
    try report.show(allocateBenchmark(runOptions, configurations.list))
    try report.show(loggedBytesBenchmark(runOptions, configurations.list))
  }
}
