import Glibc
import TestSupport
import Testing

/// Programs that a wrapper may easily get wrong.
@Suite(.serialized) struct HostileProgramTests {
  /// Pages between those that change always are written while an epoch is collected.
  @Test(arguments: Place.all)
  func aWriteDuringACommitIsInOneOfTheEpochs(_ place: Place) async throws {
    var wrapped = Wrapped(place: place)
    wrapped.options = ["--atomic-msync", "file"]
    let outcome = try await wrapped.run(["gaps", wrapped.file])
    #expect(outcome.status == .signaled(9), "\(outcome.errors)")
    #expect(try await wrapped.run(["lost", wrapped.file]).output == "0 lost\n")
  }

  @Test(arguments: ["daemon", "after"], Place.all)
  func aChildThatOpensAPoolHasEpochs(_ how: String, _ place: Place) async throws {
    let wrapped = Wrapped(place: place)
    let outcome = try await wrapped.run(["daemons", wrapped.file, how])
    #expect(outcome.output == "done\n", "\(outcome.errors)")
    #expect(try await wrapped.words() == [3, 3, 0, 0])
  }

  @Test(arguments: ["serves", "crowds"], Place.all)
  func whatTheKernelDoesNotTakeIsTriedAgain(_ verb: String, _ place: Place) async throws {
    var wrapped = Wrapped(place: place)
    wrapped.options += ["--acks", "durable", "--commit-every", "60s"]
    let outcome = try await wrapped.run([verb, wrapped.file])
    #expect(outcome.output == (verb == "serves" ? "1 answered\n" : "1 read\n"))
  }

  @Test(arguments: ["close", "close_range", "closefrom", "syscall"], Place.all)
  func heldOutputGoesToItsOwnPeer(_ call: String, _ place: Place) async throws {
    var wrapped = Wrapped(place: place)
    wrapped.options += ["--acks", "durable"]
    let outcome = try await wrapped.run(["closes", wrapped.file, call])
    #expect(outcome.output == "the same number\nb, 1048576\n", "\(outcome.errors)")
  }

  @Test(arguments: Place.all)
  func aHandlerThatInterruptsAChangeHasNoSafePoints(_ place: Place) async throws {
    let wrapped = Wrapped(place: place)
    let outcome = try await wrapped.run(["interrupts", wrapped.file])
    #expect(outcome.status == .signaled(9), "\(outcome.errors)")
    let words = try await wrapped.words()
    #expect(words[0] == words[1] && words[0] > 0, "\(words)")
  }

  @Test(arguments: Place.all)
  func aCancelledThreadLeavesNothingLocked(_ place: Place) async throws {
    var wrapped = Wrapped(place: place)
    wrapped.options += ["--acks", "durable"]
    let outcome = try await wrapped.run(["cancels", wrapped.file])
    #expect(outcome.output.hasSuffix("done\n"), "\(outcome.errors)")
  }

  @Test(arguments: Place.all)
  func threadsAndLocksOfC11AreCounted(_ place: Place) async throws {
    var generator = SeededGenerator.forTest("c11")
    for _ in 0..<Guest.count("VOLIP_WRAP_KILLS", short: 3) {
      let wrapped = Wrapped(place: place)
      let time = Int.random(in: 50_000..<200_000, using: &generator)
      let outcome = try await wrapped.run(["c11", wrapped.file, "\(time)"])
      #expect(outcome.status == .signaled(9), "\(outcome.errors)")
      let words = try await wrapped.words()
      #expect(words[0] == words[1] && words[2] == words[3], "\(words)")
      #expect(words[0] > 0 && words[2] > 0, "no epoch was committed")
    }
  }

  @Test(arguments: Place.all)
  func aSemaphoreThatIsFreeIsNoWait(_ place: Place) async throws {
    var wrapped = Wrapped(place: place)
    wrapped.options += ["--commit-every", "at-wait"]
    let outcome = try await wrapped.run(["semaphores", wrapped.file])
    #expect(outcome.status == .signaled(9), "\(outcome.errors)")
    #expect(try await wrapped.words() == [0, 0, 0, 0])
  }

  @Test(arguments: Place.all)
  func aHandlerForOneSignalRunsOnce(_ place: Place) async throws {
    let wrapped = Wrapped(place: place)
    let outcome = try await wrapped.run(["resets", wrapped.file])
    #expect(outcome.output == "200 handled\n", "\(outcome.errors)")
    #expect(outcome.status == .signaled(SIGUSR1))
  }

  @Test(arguments: Place.all)
  func whatCleansUpBehindACancelledWaitIsNotCut(_ place: Place) async throws {
    let wrapped = Wrapped(place: place)
    let outcome = try await wrapped.run(["cleans", wrapped.file])
    #expect(outcome.status == .signaled(9), "\(outcome.errors)")
    #expect(try await wrapped.words() == [0, 0, 0, 0])
  }

  @Test(arguments: Place.all)
  func aClientThatDoesNotReadKeepsNobodyFromEnding(_ place: Place) async throws {
    var wrapped = Wrapped(place: place)
    wrapped.options += ["--acks", "durable"]
    let outcome = try await wrapped.run(["lingers", wrapped.file])
    #expect(outcome.status == .exited(0), "\(outcome.errors)")
    #expect(outcome.errors.contains("were not sent"))
    #expect(try await wrapped.words() == [4, 4, 0, 0])
  }

  @Test(arguments: Place.all)
  func locksOnAFileStayWhenItBecomesAPool(_ place: Place) async throws {
    let wrapped = Wrapped(place: place)
    #expect(try await wrapped.run(["locks-file", wrapped.file]).output == "held\n")
  }
}
