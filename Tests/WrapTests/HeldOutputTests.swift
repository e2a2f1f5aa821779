import TestSupport
import Testing

/// With `--acks durable` nothing is said outside before what it says is durable.
@Suite(.serialized) struct HeldOutputTests {
  @Test(arguments: Place.all)
  func noAnswerLeavesBeforeItsEpochIsDurable(_ place: Place) async throws {
    var generator = SeededGenerator.forTest("held answers")
    var said = 0
    for _ in 0..<Guest.count("VOLIP_WRAP_KILLS", short: 4) {
      var wrapped = Wrapped(place: place)
      wrapped.options += ["--acks", "durable"]
      let time = Int.random(in: 20_000..<150_000, using: &generator)
      let outcome = try await wrapped.run(["answers", wrapped.file, "\(time)"])
      #expect(outcome.status == .signaled(9), "\(outcome.errors)")
      let numbers = outcome.output.split(separator: "\n", omittingEmptySubsequences: false)
        .dropLast().compactMap { Int($0) }
      #expect(numbers == Array(1..<numbers.count + 1), "out of order")
      let words = try await wrapped.words()
      #expect(words[0] == words[1] && words[0] >= numbers.count, "\(words), \(numbers.count)")
      said = max(said, numbers.count)
    }
    #expect(said > 0, "nothing was ever said")
  }

  @Test(arguments: Place.all)
  func theEndLetsOutWhatWasHeldInItsOrder(_ place: Place) async throws {
    var wrapped = Wrapped(place: place)
    wrapped.options += ["--acks", "durable", "--commit-every", "60s"]
    let outcome = try await wrapped.run(["farewell", wrapped.file])
    #expect(outcome.output == "one\ntwo\nthree\n", "\(outcome.errors)")
    #expect(outcome.status == .exited(0))
    #expect(try await wrapped.words() == [5, 5, 0, 0])
  }
}
