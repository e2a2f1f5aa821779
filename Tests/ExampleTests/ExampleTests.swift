// The demo as its users run it: a process, its table and its exit code.

import Glibc
import TestSupport
import Testing
import VolipMem

/// Fewer and shorter lives than `make demo` gives its workers: about three seconds in all.
private let fewKills = ["--kills", "5", "--lifetime", "800"]

/// The table's values by name, in the order printed.
private func table(_ output: String) -> [(name: String, value: String)] {
  output.split(separator: "\n").map { line in
    let words = line.split(separator: " ", maxSplits: 1)
    return (String(words[0]), words.count > 1 ? String(words[1]) : "")
  }
}

private func value(_ name: String, in output: String) -> String? {
  table(output).first { $0.name == name }?.value
}

/// Whether a tracker works here; says why when it does not.
private func isAvailable(_ tracker: TrackerKind) -> Bool {
  let directory = TemporaryDirectory()
  do {
    let path = directory.file("probe.pool")
    try Pool.create(path, byteCount: 1 << 20, options: .test(tracker: tracker)).close()
    return true
  } catch {
    print("skipped with \(tracker.rawValue): \(error)")
    return false
  }
}

// Each test runs two processes on two cores.
@Suite(.serialized) struct HashmapDemoTests {
  private func demo(_ arguments: [String]) async throws -> Helper.Outcome {
    let outcome = try await Helper.run("hashmap-demo", arguments)
    print(outcome.errors, terminator: "")  // names the seed
    return outcome
  }

  private func expectNothingLost(_ tracker: TrackerKind) async throws {
    let outcome = try await demo(fewKills + ["--tracker", tracker.rawValue])
    #expect(outcome.status == .exited(0))
    let names = [
      "mode", "tracker", "sections", "kills", "lost", "torn", "leaked", "commit_p50_us",
      "commit_p99_us", "updates_per_second",
    ]
    #expect(table(outcome.output).map(\.name) == names)
    #expect(value("mode", in: outcome.output) == "host")
    #expect(value("tracker", in: outcome.output) == tracker.rawValue)
    #expect(value("kills", in: outcome.output) == "5")
    for name in ["lost", "torn", "leaked"] { #expect(value(name, in: outcome.output) == "0") }
    for name in ["sections", "commit_p50_us", "commit_p99_us", "updates_per_second"] {
      let number = try #require(value(name, in: outcome.output).flatMap(Double.init))
      #expect(number > 0, "\(name)")
    }
  }

  @Test(
    .enabled(if: isAvailable(.pageMapScan), "needs PAGEMAP_SCAN and async userfaultfd, Linux 6.7"))
  func killedWorkersLoseNothingWithPageMapScan() async throws {
    try await expectNothingLost(.pageMapScan)
  }

  @Test func killedWorkersLoseNothingWithWriteProtect() async throws {
    try await expectNothingLost(.writeProtect)
  }

  @Test(arguments: ["lost", "torn", "leaked"])
  func damageOnPurposeIsFoundAndNamed(_ damage: String) async throws {
    let outcome = try await demo(fewKills + ["--sabotage", damage])
    #expect(outcome.status == .exited(1))
    for name in ["lost", "torn", "leaked"] {
      #expect(value(name, in: outcome.output) == (name == damage ? "1" : "0"))
    }
  }

  @Test func poolOfTheUsersIsKeptAndNeverOverwritten() async throws {
    let directory = TemporaryDirectory()
    let path = directory.file("mine.pool")
    let arguments = ["--kills", "1", "--lifetime", "100", "--pool", path]
    #expect(try await demo(arguments).status == .exited(0))
    let bytes = FileBytes.read(path)
    #expect(try await demo(arguments).status == .exited(1))
    #expect(FileBytes.read(path) == bytes)
  }
}
