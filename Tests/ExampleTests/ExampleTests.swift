// The demo as its users run it: a process, its table and its exit code.

import Glibc
import TestSupport
import Testing
import VolipMem

/// Fewer and shorter lives than `make demo` gives its workers: about three seconds in all.
private let fewKills = ["--kills", "5", "--lifetime", "800", "--no-comparison"]

/// Whether workers can be virtual machines here; says why when they cannot.
private let canBeGuest: Bool = {
  do throws(MachineError) {
    try VirtualMachine.checkDevice()
    return true
  } catch {
    print("skipped in guest mode: \(error)")
    return false
  }
}()

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
  private func demo(
    _ arguments: [String], environment: [String: String] = [:]
  ) async throws -> Helper.Outcome {
    let outcome = try await Helper.run("hashmap-demo", arguments, environment: environment)
    print(outcome.errors, terminator: "")  // names the seed
    return outcome
  }

  private func expectNothingLost(
    _ arguments: [String], mode: String, tracker: TrackerKind
  ) async throws {
    let outcome = try await demo(fewKills + arguments)
    #expect(outcome.status == .exited(0))
    let names = [
      "mode", "tracker", "sections", "kills", "lost", "torn", "leaked", "commit_p50_us",
      "commit_p99_us", "updates_per_second",
    ]
    #expect(table(outcome.output).map(\.name) == names)
    #expect(value("mode", in: outcome.output) == mode)
    #expect(value("tracker", in: outcome.output) == tracker.rawValue)
    #expect(value("kills", in: outcome.output) == "5")
    for name in ["lost", "torn", "leaked"] { #expect(value(name, in: outcome.output) == "0") }
    for name in ["sections", "commit_p50_us", "commit_p99_us", "updates_per_second"] {
      let number = try #require(value(name, in: outcome.output).flatMap(Double.init))
      #expect(number > 0, "\(name)")
    }
  }

  private func expectFound(_ damage: String, _ arguments: [String]) async throws {
    let outcome = try await demo(fewKills + arguments + ["--sabotage", damage])
    #expect(outcome.status == .exited(1))
    for name in ["lost", "torn", "leaked"] {
      #expect(value(name, in: outcome.output) == (name == damage ? "1" : "0"))
    }
  }

  // MARK: On the host

  @Test(
    .enabled(if: isAvailable(.pageMapScan), "needs PAGEMAP_SCAN and async userfaultfd, Linux 6.7"))
  func killedWorkersLoseNothingWithPageMapScan() async throws {
    try await expectNothingLost(
      ["--host", "--tracker", "page-map-scan"], mode: "host", tracker: .pageMapScan)
  }

  @Test func killedWorkersLoseNothingWithWriteProtect() async throws {
    try await expectNothingLost(
      ["--host", "--tracker", "write-protect"], mode: "host", tracker: .writeProtect)
  }

  @Test(arguments: ["lost", "torn", "leaked"])
  func damageOnPurposeIsFoundAndNamed(_ damage: String) async throws {
    try await expectFound(damage, ["--host"])
  }

  @Test func withoutKvmItRunsOnTheHostAndSaysWhy() async throws {
    let outcome = try await demo(
      ["--kills", "1", "--lifetime", "100", "--no-comparison"],
      environment: [VirtualMachine.deviceSwitch: "/nowhere"])
    #expect(outcome.status == .exited(0))
    #expect(value("mode", in: outcome.output) == "host")
    #expect(outcome.errors.contains(MachineError.noDevice(errorNumber: ENOENT).description))
  }

  /// /dev/null can be opened and is no KVM.
  @Test func fallingBackToTheHostIsAFailureUnlessAskedFor() async throws {
    let arguments = ["--kills", "1", "--lifetime", "100", "--no-comparison"]
    let environment = [VirtualMachine.deviceSwitch: "/dev/null"]
    let refused = try await demo(arguments, environment: environment)
    #expect(refused.status == .exited(1))
    #expect(refused.output.isEmpty)
    #expect(refused.errors.contains("Guest mode does not work on this machine"))
    let asked = try await demo(arguments + ["--host"], environment: environment)
    #expect(asked.status == .exited(0))
    #expect(value("mode", in: asked.output) == "host")
  }

  @Test func trackersOfGuestModeAreRefusedOnTheHost() async throws {
    let outcome = try await demo(["--kills", "0", "--host", "--tracker", "adaptive"])
    #expect(outcome.status == .exited(5))
    #expect(outcome.output.isEmpty)
  }

  // MARK: In guest mode

  @Test(.enabled(if: canBeGuest, "needs /dev/kvm"), arguments: TrackerKind.guestKinds)
  func killedVirtualMachinesLoseNothing(_ tracker: TrackerKind) async throws {
    try await expectNothingLost(["--tracker", tracker.rawValue], mode: "guest", tracker: tracker)
  }

  @Test(.enabled(if: canBeGuest, "needs /dev/kvm"))
  func guestModeWithItsAdaptiveTrackerIsTheFirstChoice() async throws {
    try await expectNothingLost([], mode: "guest", tracker: .adaptive)
  }

  @Test(.enabled(if: canBeGuest, "needs /dev/kvm"), arguments: ["lost", "torn", "leaked"])
  func damageOnPurposeIsFoundInGuestModeToo(_ damage: String) async throws {
    try await expectFound(damage, [])
  }

  /// Opening a pool once took write permission from its neighbours for a moment, and one start in
  /// five ended in a triple fault: where the exception stack was such a neighbour.
  @Test(.enabled(if: canBeGuest, "needs /dev/kvm"))
  func virtualMachinesStartWhereverTheirMemoryLies() async throws {
    let directory = TemporaryDirectory()
    for start in 0..<40 {
      let outcome = try await demo([
        "worker", "--mode", "guest", "--pool", directory.file("start.pool"), "--seed", "1",
        "--sections", "1",
      ])
      #expect(outcome.status == .exited(0), "start \(start)")
    }
  }

  // MARK: What users see

  /// Scripts read names and values before it; its lines begin so that they cannot be taken for one.
  @Test func comparisonFollowsTheTableAndHasALineForEachTracker() async throws {
    let outcome = try await demo(["--kills", "1", "--lifetime", "100"])
    #expect(outcome.status == .exited(0))
    let lines = outcome.output.split(separator: "\n", omittingEmptySubsequences: false)
    let table = lines.prefix { !$0.isEmpty }
    #expect(table.count == 10)
    let comparison = lines.dropFirst(table.count + 1).filter { !$0.isEmpty }
    #expect(comparison.allSatisfy { $0.hasPrefix("# ") })
    let measured = comparison.dropFirst(2).map {
      $0.split(separator: " ")[1...2].joined(separator: " ")
    }
    let guest = TrackerKind.guestKinds.map { "guest \($0.rawValue)" }
    let host = TrackerKind.hostKinds.map { "host \($0.rawValue)" }
    #expect(measured == (canBeGuest ? guest : []) + host)
  }

  @Test func poolOfTheUsersIsKeptAndNeverOverwritten() async throws {
    let directory = TemporaryDirectory()
    let path = directory.file("mine.pool")
    let arguments = ["--kills", "1", "--lifetime", "100", "--no-comparison", "--pool", path]
    #expect(try await demo(arguments).status == .exited(0))
    let bytes = FileBytes.read(path)
    #expect(try await demo(arguments).status == .exited(1))
    #expect(FileBytes.read(path) == bytes)
  }
}
