import Foundation
import TestSupport
import Testing

/// Guest mode as a whole, in processes of their own.
@Suite(.guest) struct GuestTests {
  let directory = TemporaryDirectory()
  var path: String { directory.file("guest.pool") }

  @Test(arguments: Guest.physicalBits)
  func enteringReportsWhatTheMachineIs(bits: Int) async throws {
    let outcome = try await Guest.run("guest-facts", bits: bits)
    #expect(outcome.status == .exited(0) && outcome.errors.isEmpty, "\(outcome.errors)")
    let words = outcome.output.split(whereSeparator: \.isWhitespace)
    try #require(words.count == 8, "\(outcome.output)")
    #expect(words[1] == "true")
    #expect(bits == 0 || words[3] == "\(bits)")
    #expect(words[5] == (Int(words[3])! >= 48 ? "true" : "false"))
    #expect(words[7] == "0" || words[7] == "3")
  }

  /// Also shows that exits are counted: the call afterwards makes one.
  /// But for KVM's own log, which only the host can ask for.
  @Test(arguments: Guest.physicalBits, ["dirty-bits", "detect-on-write", "adaptive"])
  func aSectionThatNeedsNoLogGrowthAndNoRollbackMakesNoExit(
    bits: Int, tracker: String
  ) async throws {
    let outcome = try await Guest.run("guest-exits", [path, tracker], bits: bits)
    #expect(
      outcome.output == "sections 300 exits 0 call 1 lines true\n",
      "\(outcome.output) \(outcome.errors)")
  }

  @Test(arguments: Guest.physicalBits, Guest.trackers)
  func aStoreOutsideASectionIsReportedAndPutBack(bits: Int, tracker: String) async throws {
    let outcome = try await Guest.run("guest-stray", [path, tracker, "store"], bits: bits)
    #expect(outcome.output == "reported true word 1\nthen 11\n", "\(outcome.errors)")
  }

  @Test(arguments: Guest.physicalBits, Guest.trackers)
  func aSystemCallsWriteOutsideASectionIsReportedAndPutBack(
    bits: Int, tracker: String
  ) async throws {
    let outcome = try await Guest.run("guest-stray", [path, tracker, "call"], bits: bits)
    #expect(outcome.output == "reported true word 1\nthen 11\n", "\(outcome.errors)")
  }

  @Test func nothingIsReportedWhereNothingWasWritten() async throws {
    let outcome = try await Guest.run("guest-stray", [path, "dirty-bits", "nothing"])
    #expect(outcome.output == "not noticed\nthen 11\n", "\(outcome.errors)")
  }

  // MARK: Entering where that is not possible

  private func attempt(_ arguments: [String]) async throws -> String {
    let outcome = try await Helper.run("volip-test-helper", ["guest-twice"] + arguments)
    #expect(outcome.status == .exited(0), "\(outcome.errors)")
    return outcome.output
  }

  @Test func enteringTwiceIsAnError() async throws {
    #expect(try await attempt([]) == "entered alreadyEntered\n")
  }

  @Test func enteringWithAnotherThreadIsAnError() async throws {
    #expect(try await attempt(["with-thread"]) == "otherThreads(count: 1)\n")
  }

  @Test func enteringWithAnOpenPoolIsAnError() async throws {
    #expect(try await attempt(["with-pool", path]) == "poolsAreOpen(count: 1)\n")
  }

  /// With the fewest bits that are believed there are 4 windows of 1 GiB, of which 3 are taken.
  @Test func enteringWithTooFewPhysicalAddressesIsAnErrorAndChangesNothing() async throws {
    let outcome = try await Helper.run(
      "volip-test-helper", ["guest-twice"], environment: ["VOLIP_PHYS_BITS": "32"])
    #expect(
      outcome.output == "addressesExhausted addressesExhausted\n"
        || outcome.output == "unsupported unsupported\n",
      "\(outcome.output) \(outcome.errors)")
  }

  // MARK: Threads and children

  /// vCPUs of ended threads are used again: few are ever made.
  @Test(.timeLimit(.minutes(30)), arguments: Guest.physicalBits)
  func manyShortThreadsNeedFewProcessors(bits: Int) async throws {
    let count = Guest.count("VOLIP_GUEST_THREADS", short: 2000)
    let outcome = try await Guest.run("guest-threads", ["\(count)"], bits: bits)
    let words = outcome.output.split(whereSeparator: \.isWhitespace)
    try #require(words.count == 6, "\(outcome.output) \(outcome.errors)")
    #expect(words[1] == "\(count)" && words[5] == "true")
    #expect(Int(words[3])! <= 8, "\(outcome.output)")
  }

  @Test(arguments: Guest.physicalBits)
  func childrenGoOnOutsideTheGuest(bits: Int) async throws {
    let outcome = try await Guest.run("guest-children", bits: bits)
    #expect(
      outcome.output == """
        spawned
        spawned exit 0 signal 0
        executed
        executed exit 0 signal 0
        in the child: guest false
        forked exit 7 signal 0
        faulted exit 0 signal 11
        parent: guest true

        """, "\(outcome.errors)")
  }

  /// A server's worker, say: its parent's pools are not its own, and its machine neither.
  @Test(arguments: Guest.physicalBits)
  func aForkedChildEntersAGuestOfItsOwn(bits: Int) async throws {
    let outcome = try await Guest.run("guest-child-enters", [directory.path], bits: bits)
    #expect(
      outcome.output == """
        generation 1 guest false of 0
        generation 2 guest false of 0
        generation 2 counted 200 guest true
        ended 0 by 0
        generation 1 counted 200 guest true
        ended 0 by 0
        generation 0 counted 200 guest true

        """, "\(outcome.errors)")
    #expect(outcome.status == .exited(0))
  }

  /// Signals that were on their way when the program changed its mind ended it: those that find
  /// SIG_IGN on arrival, and those that the kernel drops when they are sent again.
  @Test func aSignalThatIsIgnoredByTheTimeItArrivesIsIgnored() async throws {
    let outcome = try await Guest.run("guest-ignored-signals")
    #expect(outcome.output == "ignored\n", "\(outcome)")
    #expect(outcome.status == .exited(0))
  }

  // MARK: Traces

  private func traceLines(_ kinds: String, _ verb: [String]) async throws -> [Substring] {
    let outcome = try await Guest.run(
      verb[0], Array(verb.dropFirst()), environment: ["VOLIP_TRACE": kinds])
    return outcome.errors.split(separator: "\n")
  }

  @Test func tracesPrintALineForEachCallAndExit() async throws {
    let calls = try await traceLines("syscalls", ["guest-facts"])
    #expect(calls.contains { $0.contains("] write(0x1, ") && $0.contains(") = ") })
    #expect(!calls.contains { $0.contains("exit, reason") })
    let exits = try await traceLines("exits", ["guest-facts"])
    #expect(exits.contains { $0.contains("exit, reason and instruction 0x") })
    #expect(!exits.contains { $0.contains("] write(") })
  }

  @Test func tracesPrintALineForEachFault() async throws {
    let lines = try await traceLines("faults", ["guest-fault", "null"])
    #expect(lines.contains { $0.contains("page fault, address and code 0x8 ") })
    let other = try await traceLines("", ["guest-fault", "null"])
    #expect(other.count == 1, "\(other)")
  }
}

/// System calls that fill memory (rule 16).
@Suite(.guest) struct GuestCallTests {
  let directory = TemporaryDirectory()
  var path: String { directory.file("guest.pool") }

  /// Every row of the table, its outputs in pool memory: nothing that the kernel wrote is lost.
  @Test(arguments: Guest.physicalBits, ["dirty-bits", "detect-on-write", "dirty-log"])
  func noCallsWritesToPoolMemoryAreLost(bits: Int, tracker: String) async throws {
    let outcome = try await Guest.run("guest-calls", [path, tracker], bits: bits)
    let lines = outcome.output.split(separator: "\n")
    let last = try #require(lines.last, "\(outcome.errors)")
    let found = last.hasPrefix("rows 104, lost 0, failed 0, unchanged 0, without a case 0,")
    #expect(found, "\(outcome.output) \(outcome.errors)")
    for line in lines where line.hasPrefix("cannot") { print(line) }
  }

  /// The same calls natively: the cases themselves are right.
  @Test func theCasesWorkOnTheHost() async throws {
    let outcome = try await Helper.run("volip-test-helper", ["guest-calls", path, "page-map-scan"])
    if outcome.output.contains("trackerUnavailable") { return print("skipped: \(outcome.output)") }
    let found = outcome.output.contains("lost 0, failed 0, unchanged 0, without a case 0,")
    #expect(found, "\(outcome.output) \(outcome.errors)")
  }

  @Test func ringsThroughWhichTheKernelWritesLaterAreRefused() async throws {
    let outcome = try await Guest.run("guest-refused")
    #expect(outcome.output == "io_uring_setup true\nio_setup true\n", "\(outcome.errors)")
  }

  @Test func anUnknownCallWithAPointerIntoAPoolEndsTheProcessWithItsNumber() async throws {
    let outcome = try await Guest.run("guest-unknown-call", [path])
    let lines = outcome.output.split(separator: "\n")
    try #require(lines.count == 2, "\(outcome.output)")
    #expect(lines[0] == "outside true")
    let address = lines[1].dropFirst("address ".count)
    #expect(outcome.status == .signaled(6))
    #expect(
      outcome.errors.contains(
        "system call 303 is not known, and its argument 3 points into a pool: \(address)\n"),
      "\(outcome.errors)")
  }
}
