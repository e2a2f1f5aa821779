import TestSupport
import Testing

/// System calls that another thread makes, and instructions that were replaced on the way there.
@Suite(.guest) struct CompanionTests {
  static let ways = ["auto", "companion"]

  private func run(_ arguments: [String], way: String = "companion") async throws -> Helper.Outcome
  {
    let outcome = try await Guest.run(
      "guest-companion", arguments, environment: ["VOLIP_SYSCALLS": way])
    #expect(outcome.errors.isEmpty, "\(outcome.errors)")
    return outcome
  }

  @Test func eachRowsCallIsMadeByWhoMayMakeItWithTheResultThatItHasNatively() async throws {
    let native = try await Helper.run("volip-test-helper", ["guest-ways"])
    let guest = try await Guest.run("guest-ways", environment: ["VOLIP_SYSCALLS": "companion"])
    let expected = native.output.split(separator: "\n"), found = guest.output.split(separator: "\n")
    #expect(expected.count > 100 && expected.count == found.count, "\(guest.errors)")
    for (one, other) in zip(expected, found) { #expect(one == other) }
  }

  @Test func aBrokenPipesSignalGoesToTheThreadThatWrites() async throws {
    #expect(try await run(["broken-pipe"]).output == "each once, in its thread\n")
  }

  @Test(arguments: ways) func aBlockingWriteIsWholeHoweverLittleRoomThereIs(way: String)
    async throws
  {
    #expect(try await run(["long-write"], way: way).output == "short 0 wrong 0 total true\n")
  }

  @Test func aWriteWhoseRestFindsNoReaderSaysHowMuchWasWrittenAndSendsNoSignal() async throws {
    #expect(try await run(["half-write"]).output == "signals 0 wrong 0\n")
  }

  @Test(arguments: ways) func signalsOnACallsWayLoseNothingAndMakeNothingTwice(way: String)
    async throws
  {
    #expect(try await run(["signals"], way: way).output == "wrong 0 left 0\n")
  }

  @Test(arguments: [1, 4]) func threadsHandNumbersToAndFro(pairs: Int) async throws {
    #expect(try await run(["threads", "\(pairs)"]).output == "wrong 0\n")
  }

  @Test func aPathToTheThreadItselfNamesTheThread() async throws {
    #expect(try await run(["thread-self"]).output == "wrong 0\n")
  }

  @Test func afterACallThatSetsTheOnlyThreadApartTheCompanionIsACopyOfIt() async throws {
    #expect(try await run(["apart"]).output == "result 0 tasks 2 wrong 0\n")
  }

  @Test func aSignalDescriptorEndsTheCompanion() async throws {
    #expect(try await run(["alone"]).output == "served 0\n")
  }

  @Test func theProcessEndsWithItsLastThread() async throws {
    let outcome = try await run(["last-thread"])
    #expect(outcome.output == "last\n" && outcome.status == .exited(7), "\(outcome)")
  }

  @Test func aProgramMayUseGsForItself() async throws {
    #expect(try await run(["segment-base"]).output == "before 0 result 0 true wrong 0\n")
  }

  @Test func codeThatTheProgramMakesWritableIsItsOwnAgain() async throws {
    let output = try await run(["changed-code"]).output
    // On a processor whose SYSCALL is its own nothing is replaced.
    #expect(
      ["replaced true", "replaced false"].contains {
        output == "\($0) 0 move true number 110 changed true back true\n"
      }, "\(output)")
  }

  @Test func childrenHaveTheProgramAsItWas() async throws {
    #expect(try await run(["children"]).output == "wrong 0\n")
  }
}
