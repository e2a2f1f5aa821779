import TestSupport
import Testing

/// Epochs of wrapped programs: all or nothing, at moments at which nobody is in the middle.
@Suite(.serialized) struct EpochTests {
  /// Two threads change pairs of words, one of them with a lock held over its waits; whenever they
  /// are killed, each pair is whole.
  @Test(arguments: Place.all)
  func nothingHalfDoneIsDurable(_ place: Place) async throws {
    var generator = SeededGenerator.forTest("wrapped changes")
    var last = 0
    for _ in 0..<Guest.count("VOLIP_WRAP_KILLS", short: 4) {
      let wrapped = Wrapped(place: place)
      let time = Int.random(in: 20_000..<200_000, using: &generator)
      let outcome = try await wrapped.run(["changes", wrapped.file, "\(time)"])
      #expect(outcome.status == .signaled(9), "\(outcome.errors)")
      let words = try await wrapped.words()
      #expect(words.count == 4)
      #expect(words[0] == words[1] && words[2] == words[3], "\(words)")
      last = max(last, words[0], words[2])
    }
    #expect(last > 0, "no epoch was committed")
  }

  /// What the documentation warns of, shown: the first half of a change is durable alone.
  @Test(arguments: Place.all)
  func aProgramThatWaitsInTheMiddleOfAChangeIsCutThere(_ place: Place) async throws {
    let wrapped = Wrapped(place: place)
    _ = try await wrapped.run(["breaks", wrapped.file])
    #expect(try await wrapped.words() == [1, 0, 0, 0])
  }

  @Test(arguments: Place.all)
  func aHandlerThatInterruptsAWaitIsNotCut(_ place: Place) async throws {
    let wrapped = Wrapped(place: place)
    let outcome = try await wrapped.run(["handles", wrapped.file, "150000"])
    #expect(outcome.status == .signaled(9), "\(outcome.errors)")
    let words = try await wrapped.words()
    #expect(words[0] == words[1] && words[0] > 0, "\(words)")
  }

  @Test(arguments: Place.all)
  func aThreadThatComputesIsWaitedForWithABound(_ place: Place) async throws {
    let wrapped = Wrapped(place: place)
    let outcome = try await wrapped.run(["computes", wrapped.file])
    #expect(outcome.output == "went on\n", "\(outcome.errors)")
    let skipped = outcome.errors.split(separator: " skipped ").dropFirst().first?.prefix {
      $0.isNumber
    }
    #expect(skipped.flatMap { Int($0) } ?? 0 > 0, "\(outcome.errors)")
    #expect(try await wrapped.words()[1] == 1)
  }

  @Test(arguments: ["return", "_exit", "exec", "munmap", "thread"], Place.all)
  func theEndOfAProgramCommits(_ end: String, _ place: Place) async throws {
    var wrapped = Wrapped(place: place)
    wrapped.options += ["--commit-every", "60s"]
    let outcome = try await wrapped.run(["ends", wrapped.file, end])
    #expect(outcome.status == (end == "munmap" ? .signaled(9) : .exited(0)), "\(outcome.errors)")
    #expect(try await wrapped.words() == [7, 7, 0, 0])
  }

  @Test(arguments: Place.all)
  func aChildHasNoPoolsAndItsParentKeepsThem(_ place: Place) async throws {
    let wrapped = Wrapped(place: place)
    let outcome = try await wrapped.run(["forks", wrapped.file])
    #expect(outcome.output == "child: signal 11\n", "\(outcome.errors)")
    #expect(try await wrapped.words() == [1, 1, 0, 0])
  }

  /// msync and its kin commit what was written before them, and nothing else does.
  @Test(arguments: ["msync", "fsync", "fdatasync"], Place.all)
  func anAtomicSyncCommitsWhatCameBeforeIt(_ call: String, _ place: Place) async throws {
    var wrapped = Wrapped(place: place)
    wrapped.options = ["--atomic-msync", "file"]
    let outcome = try await wrapped.run(["syncs", wrapped.file, call])
    #expect(outcome.output == "0\n", "\(outcome.errors)")
    #expect(try await wrapped.words() == [1, 1, 0, 0])
  }

  /// Under epochs msync waits for one.
  @Test(arguments: Place.all)
  func aSyncUnderEpochsCommits(_ place: Place) async throws {
    var wrapped = Wrapped(place: place)
    wrapped.options += ["--commit-every", "60s"]
    let outcome = try await wrapped.run(["syncs", wrapped.file, "msync"])
    #expect(outcome.output == "0\n", "\(outcome.errors)")
    #expect(try await wrapped.words() == [1, 1, 0, 0])
  }
}
