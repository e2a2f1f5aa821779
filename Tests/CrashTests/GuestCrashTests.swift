import Glibc
import TestSupport
import Testing
import VolipMem

/// Kills and other ends of processes in guest mode, and what is left of their pools.
@Suite(.guest) struct GuestCrashTests {
  let directory = TemporaryDirectory()
  var path: String { directory.file("test.pool") }

  /// Audited on the host and in the guest by turns: both recover.
  @Test(arguments: TrackerKind.guestKinds, Guest.physicalBits)
  func aKillInGuestModeLosesNothingAndTearsNothing(_ kind: TrackerKind, bits: Int) async throws {
    var generator = SeededGenerator.forTest("guest kills \(kind.rawValue) \(bits)")
    let made = try await Guest.run("make-bank", [path], bits: bits)
    #expect(made.status == .exited(0), "\(made.errors)")
    var acknowledged: UInt64 = 0
    for kill in 0..<6 {
      let transfers = UInt64.random(in: 0...200, using: &generator)
      let last = try #require(
        try await transferAndKill(transfers, path, kind, environment: Guest.environment(bits)))
      acknowledged = max(acknowledged, last)
      let audit =
        kill % 2 == 0
        ? try await Helper.run("volip-test-helper", ["audit-bank", path])
        : try await Guest.run("audit-bank", [path], bits: bits)
      acknowledged = try transfersFound(by: audit, kill: kill, acknowledged: acknowledged)
    }
    #expect(acknowledged > 0)
  }

  /// Announced memory is released by the guest's trackers, and not looked at.
  @Test(arguments: TrackerKind.guestKinds)
  func aKillInGuestModeLosesNoCollection(_ kind: TrackerKind) async throws {
    var generator = SeededGenerator.forTest("guest collections \(kind.rawValue)")
    var acknowledged: UInt64 = 0
    for kill in 0..<6 {
      let sections = UInt64.random(in: 1...1500, using: &generator)
      let last = try #require(
        try await workAndKill(
          sections, ["collection-work", path, kind.rawValue],
          environment: Guest.environment(Guest.physicalBits[0])))
      acknowledged = max(acknowledged, last)
      let audit =
        kill % 2 == 0
        ? try await Helper.run("volip-test-helper", ["collection-audit", path])
        : try await Guest.run("collection-audit", [path])
      acknowledged = try transfersFound(by: audit, kill: kill, acknowledged: acknowledged)
    }
    #expect(acknowledged > 0)
  }

  /// What has a test of its own on the host holds in the guest as well.
  @Test(arguments: [
    ("cancelled-commit", "cancelled true memory 2\n"),
    ("locked-memory", "value 1\nvalue 3\n"),
    ("fork-while-opening", "open nothing\n"),
  ])
  func aPoolSurvivesInTheGuestWhatItSurvivesOnTheHost(verb: String, output: String) async throws {
    let outcome = try await Guest.run(verb, [path])
    #expect(
      outcome.output == output || outcome.output.hasPrefix("skipped"),
      "\(outcome.output) \(outcome.errors)")
  }

  @Test(arguments: [
    ("grow-on-full-disk", "grow failed\nconsistent true\nblocks true true\n"),
    ("reopen-on-full-disk", "grow diskFull\nopen nothing\nconsistent true\n"),
  ])
  func aFullDiskIsMetInTheGuestAsOnTheHost(verb: String, output: String) async throws {
    let outcome = try await Guest.run(verb, [directory.path])
    #expect(
      outcome.output == output || outcome.output.hasPrefix("skipped"),
      "\(outcome.output) \(outcome.errors)")
  }

  @Test(arguments: [
    ("fork-child", ["pstart", "checkpoint", "close"], SIGSEGV),
    ("fork-in-section", ["pstart", "pcommit", "pabort", "pend", "pend again"], 0),
  ])
  func aForkedChildHasNothingOfThePool(verb: String, calls: [String], signal: Int32) async throws {
    #expect(try await Guest.run("leave-log", [path, "3"]).status == .exited(0))
    let outcome = try await Guest.run(verb, [path])
    let refusals = calls.map { "\($0) forkedChild\n" }.joined()
    #expect(outcome.output == refusals + "signal \(signal)\n", "\(outcome.errors)")
    let check = try await Guest.run("open-each", [path])
    #expect(check.output.contains("\nopened\n"), "\(check.output)")
  }

  /// The upper levels of the page table protect what the heap does not use yet: opening is cheap.
  @Test(.timeLimit(.minutes(30)), arguments: Guest.physicalBits)
  func aSparsePoolOfManyChunksOpensInTheGuest(bits: Int) async throws {
    let outcome = try await Guest.run("huge-pool", [path, "\(40 << 30)"], bits: bits)
    #expect(outcome.output == "root 42\n", "\(outcome.errors)")
  }
}
