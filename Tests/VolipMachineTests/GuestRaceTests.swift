import TestSupport
import Testing

/// What threads, signals and children may do to each other in guest mode.
@Suite(.guest, .serialized, .timeLimit(.minutes(30))) struct GuestRaceTests {
  /// Where a page is granted while another thread takes and arms it.
  @Test(arguments: Guest.trackers)
  func nothingIsLostInPagesWhoseLockWordsOtherThreadsWrite(tracker: String) async throws {
    let directory = TemporaryDirectory()
    let sections = Guest.count("VOLIP_GUEST_RACES", short: 150)
    let outcome = try await Guest.run(
      "guest-lock-words", [directory.file("lock.pool"), tracker, "\(sections)"])
    #expect(
      outcome.output == "sum \(sections) lost 0 errors 0\n", "\(outcome.output) \(outcome.errors)")
  }

  private func signals(_ what: String) async throws -> Helper.Outcome {
    try await Guest.run("guest-signals", [what])
  }

  @Test func threadsGoOnWhenTheFirstOneHasEnded() async throws {
    let outcome = try await signals("first-thread-ended")
    #expect(outcome.output == "handled 2\n", "\(outcome.errors)")
    #expect(outcome.status == .exited(0))
  }

  @Test func noChildInheritsAMaskThatTheProgramHasNotSet() async throws {
    #expect(try await signals("children-under-fire").output == "wrong 0\n")
  }

  @Test func aChildHearsASignalThatComesBeforeItHasBegun() async throws {
    #expect(try await signals("children-killed-early").output == "deaf 0\n")
  }

  @Test func theSignalMaskOutlivesTheGrowthOfTheStack() async throws {
    #expect(try await signals("mask-over-stack-growth").output == "kept true depth 100\n")
  }

  @Test func aFaultInItsOwnHandlerEndsTheProcess() async throws {
    let outcome = try await signals("fault-in-its-handler")
    #expect(outcome.output == "handler 1\n", "\(outcome.output)")
    #expect(outcome.status == .signaled(11))
  }

  @Test func aWaitForAllSignalsDoesNotSeeTheKick() async throws {
    #expect(try await signals("wait-for-all").output == "came false\n")
  }

  @Test func aKickDoesNotEndAWait() async throws {
    #expect(try await signals("kick-in-a-wait").output == "interrupted 0\n")
  }

  @Test func aChildKeepsTheSegmentBase() async throws {
    #expect(try await signals("segment-base-in-child").output == "wrong 0\n")
  }
}
