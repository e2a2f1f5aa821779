import Foundation
import TestSupport
import Testing

/// Inputs that the fuzzer kept because each of them reached something new (`make fuzz`).
@Suite struct CorpusTests {
  static let corpus = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Corpus")

  @Test func everyInputOfTheCorpusIsMet() async throws {
    let names = try FileManager.default.contentsOfDirectory(atPath: Self.corpus.path).sorted()
    #expect(names.count > 50)
    let paths = names.map { Self.corpus.appending(path: $0).path }
    let outcome = try await Helper.run(
      "volip-test-helper", ["meet-each"] + paths, environment: ["SWIFT_BACKTRACE": "enable=no"])
    #expect(outcome.status == .exited(0))
    #expect(outcome.output.hasSuffix("end\n"), "\(outcome.output.suffix(300)) \(outcome.errors)")
    let results = outcome.output.split(separator: "\n").filter { !$0.hasPrefix("input ") }
    #expect(Set(results).count > 6, "the corpus reaches too little: \(Set(results))")
  }
}

/// Single bits of what the library itself reads. `VOLIP_FLIP_STEP=1` flips all of them
/// (`make test-flips`), in ordinary runs each 97th, from another one each time.
@Suite struct BitFlipTests {
  @Test(.timeLimit(.minutes(60))) func noFlippedBitIsBelieved() async throws {
    var generator = SeededGenerator.forTest()
    let step = Guest.count("VOLIP_FLIP_STEP", short: 97)
    let first = Int.random(in: 0..<step, using: &generator)
    let outcome = try await Helper.run(
      "volip-test-helper", ["flip-bits", "\(first)", "\(step)"],
      environment: ["SWIFT_BACKTRACE": "enable=no"])
    print(outcome.output)
    #expect(outcome.status == .exited(0), "\(outcome.errors)")
    #expect(outcome.output.hasSuffix(" believed 0\n"), "\(outcome.output)")
    #expect(!outcome.output.contains("flips 0 "))
  }
}
