import Glibc
import TestSupport
import Testing

@testable import CrashLaboratory

extension Workload: CustomTestStringConvertible {
  public var testDescription: String { name }
}

/// A slice of `make test-crash`: every workload, crashed at its moments.
@Suite struct CrashImageTests {
  /// More with `VOLIP_TEST_STEPS`; `VOLIP_TEST_SEED` replays.
  @Test(arguments: Workload.all)
  func everyCrashImageRecoversToAnAcknowledgedSectionOrTheOneInFlight(_ workload: Workload) {
    var campaign = Campaign()
    campaign.workloads = [workload]
    campaign.distinct = environment("VOLIP_TEST_STEPS") ?? 100
    campaign.seed = UInt64(environment("VOLIP_TEST_SEED") ?? 1)
    let findings = campaign.run(workload)
    #expect(findings.isClean, "\(findings.failures.joined(separator: "\n"))")
    #expect(findings.distinct >= campaign.distinct)
  }

  private func environment(_ name: String) -> Int? {
    getenv(name).flatMap { Int(String(cString: $0)) }
  }

  /// A replay is worth nothing otherwise.
  @Test(arguments: Workload.all)
  func theSameSeedMakesTheSameTrace(_ workload: Workload) throws {
    let one = try workload.record(seed: 7)
    let other = try workload.record(seed: 7)
    #expect(one.trace.content == other.trace.content && one.states == other.states)
    #expect(one.trace.events.map { "\($0)" } == other.trace.events.map { "\($0)" })
  }
}

/// What makes sure that the laboratory sees. `make test-mutants` breaks the product instead.
@Suite struct LaboratoryTests {
  /// Explores a recording from which the events that `isKept` rejects are missing.
  private func findings(
    _ name: String, without isRemoved: (Trace.Event) -> Bool
  ) throws -> Findings {
    let workload = Workload.all.first { $0.name == name }!
    let recording = try workload.record(seed: 3)
    var trace = recording.trace
    trace.events.removeAll(where: isRemoved)
    let broken = Recording(
      workload: name, seed: 3, trace: trace, states: recording.states)
    var budget = Budget()
    budget.imagesPerPoint[0] = 40
    let explorer = try Explorer(broken, budget: budget)
    explorer.distinctMax = 3000
    try explorer.run()
    return explorer.findings
  }

  @Test(arguments: ["many pages", "many pages, msync"])
  func aProgramThatNeverFencesLosesSections(_ name: String) throws {
    #expect(try findings(name) { if case .fence = $0 { true } else { false } }.lost > 0)
  }

  @Test(arguments: ["checkpoints in between", "checkpoints in between, msync"])
  func aProgramThatNeverFlushesLeavesTornOrLostSections(_ name: String) throws {
    let found = try findings(name) { if case .flush = $0 { true } else { false } }
    #expect(found.torn + found.lost > 0)
  }

  @Test func aFileWhoseLengthIsNotSyncedCannotBeOpened() throws {
    let found = try findings("the pool grows") {
      if case .lengthSynced = $0 { true } else { false }
    }
    #expect(found.refused > 0)
  }

  @Test func aWholeRecordingIsClean() throws {
    let found = try findings("many pages") { _ in false }
    #expect(found.isClean && found.distinct == 3000)
  }
}
