import TestSupport
import Testing

/// Guest trackers against oracles. VOLIP_GUEST_ROUNDS=1000 and VOLIP_GUEST_SECTIONS=1000000 are the
/// long forms.
@Suite(.guest, .serialized, .timeLimit(.minutes(60))) struct GuestTrackerTests {
  /// Bytes compared and PAGEMAP_SCAN asked, in rounds of random writes by stores and system calls.
  @Test(arguments: ["dirty-bits", "detect-on-write", "adaptive"], [1, 2, 4])
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

  @Test(arguments: ["dirty-bits", "detect-on-write", "adaptive"], Guest.physicalBits)
  func noWriteOfAThreadThatStaysInTheGuestIsMissed(tracker: String, bits: Int) async throws {
    let rounds = Guest.count("VOLIP_GUEST_SPINS", short: 200)
    let outcome = try await Guest.run("guest-spinner", [tracker, "\(rounds)"], bits: bits)
    #expect(outcome.output == "missed 0 rounds \(rounds)\n", "\(outcome.errors)")
  }

  @Test(arguments: ["dirty-bits", "detect-on-write", "adaptive"], [1, 2, 4])
  func noCountOfAShortSectionIsLost(tracker: String, threads: Int) async throws {
    let directory = TemporaryDirectory()
    let sections = Guest.count("VOLIP_GUEST_SECTIONS", short: 1000)
    let outcome = try await Guest.run(
      "guest-short-sections",
      [directory.file("short.pool"), "\(sections)", "\(threads)", tracker],
      bits: threads == 2 ? 39 : 0)
    #expect(outcome.output == "sum \(sections) lost 0\n", "\(outcome.errors)")
  }
}
