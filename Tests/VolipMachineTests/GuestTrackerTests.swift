import TestSupport
import Testing

/// Guest trackers against oracles. VOLIP_GUEST_ROUNDS=1000 and VOLIP_GUEST_SECTIONS=1000000 are the
/// long forms.
@Suite(.guest, .serialized, .timeLimit(.minutes(60))) struct GuestTrackerTests {
  /// Bytes compared and PAGEMAP_SCAN asked, in rounds of random writes by stores and system calls.
  @Test(arguments: Guest.trackers, [1, 2, 4])
  func noPageIsMissedInRandomRounds(tracker: String, threads: Int) async throws {
    var generator = SeededGenerator.forTest("rounds \(tracker) \(threads)")
    let rounds = Guest.count("VOLIP_GUEST_ROUNDS", short: 12)
    for bits in threads == 2 ? Guest.physicalBits : [0] {
      let seed = generator.next()
      let outcome = try await Guest.run(
        "guest-rounds", [tracker, "\(threads)", "\(rounds)", "\(seed)"], bits: bits)
      #expect(
        outcome.output == "missed 0 extra 0 written true\n",
        "bits \(bits): \(outcome.output) \(outcome.errors)")
    }
  }

  @Test(arguments: Guest.trackers, Guest.physicalBits)
  func noWriteOfAThreadThatStaysInTheGuestIsMissed(tracker: String, bits: Int) async throws {
    let rounds = Guest.count("VOLIP_GUEST_SPINS", short: 200)
    let outcome = try await Guest.run("guest-spinner", [tracker, "\(rounds)"], bits: bits)
    #expect(outcome.output == "missed 0 rounds \(rounds)\n", "\(outcome.errors)")
  }

  @Test(arguments: Guest.trackers, [1, 2, 4])
  func noCountOfAShortSectionIsLost(tracker: String, threads: Int) async throws {
    let directory = TemporaryDirectory()
    let sections = Guest.count("VOLIP_GUEST_SECTIONS", short: 1000)
    let outcome = try await Guest.run(
      "guest-short-sections",
      [directory.file("short.pool"), "\(sections)", "\(threads)", tracker],
      bits: threads == 2 ? 39 : 0)
    #expect(outcome.output == "sum \(sections) lost 0\n", "\(outcome.errors)")
  }

  /// Stores, system calls, announced writes, roll-backs, trims and growth of two pools in turn.
  @Test(arguments: Guest.trackers)
  func poolsHoldWhatTheirSectionsWroteWhateverBecomesOfTheirPages(tracker: String) async throws {
    let directory = TemporaryDirectory()
    var generator = SeededGenerator.forTest("lives \(tracker)")
    for bits in tracker == "dirty-log" ? Guest.physicalBits : [0] {
      let paths = ["one", "two"].map { directory.file("\($0)-\(bits).pool") }
      let outcome = try await Guest.run(
        "guest-pool-lives", [tracker, "\(generator.next())"] + paths, bits: bits)
      #expect(outcome.output == "wrong 0 grown true logged 0\n", "\(outcome.errors)")
    }
  }

  // MARK: KVM's log

  @Test(arguments: Guest.physicalBits)
  func poolsInOneMemorySlotDoNotDisturbEachOthersLog(bits: Int) async throws {
    var generator = SeededGenerator.forTest("log \(bits)")
    let outcome = try await Guest.run(
      "guest-log-pools", ["100", "\(generator.next())"], bits: bits)
    #expect(
      outcome.output == "missed [0, 0] extra [0, 0] slots 1 1 0\n",
      "\(outcome.output) \(outcome.errors)")
  }

  @Test func everyThreadLeavesTheGuestBeforeTheLogIsRead() async throws {
    let outcome = try await Guest.run("guest-log-leave", ["50"])
    #expect(outcome.output == "left 50 of 50\n", "\(outcome.output) \(outcome.errors)")
  }
}
