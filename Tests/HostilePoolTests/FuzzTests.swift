import Glibc
import TestSupport
import Testing

@testable import VolipMem

/// Nothing that a file holds ends the process: each mutant is refused, or opens and can be used.
///
/// Mutants are opened in helper processes, many in each; a helper that dies names the mutant, whose
/// file is kept. `VOLIP_FUZZ_MUTANTS` sets how many, `VOLIP_TEST_SEED` replays.
@Suite struct FuzzTests {
  static let batch = 50
  let directory = TemporaryDirectory()

  static var mutantCount: Int {
    getenv("VOLIP_FUZZ_MUTANTS").flatMap { Int(String(cString: $0)) } ?? 2000
  }

  @Test func everyMutantIsRefusedUntouchedOrWorks() async throws {
    var sources: [CraftedPool] = []
    for sections in [0, 8, 40] {
      sources.append(try await CraftedPool.make(in: directory, sections: sections))
    }
    sources.append(try await CraftedPool.make(in: directory, sections: 0, isFull: true))
    var mutator = Mutator(generator: SeededGenerator.forTest(), sources: sources)
    var outcomes: [Outcome: Int] = [:]
    for first in stride(from: 0, to: Self.mutantCount, by: Self.batch) {
      var mutants: [CraftedPool] = []
      for _ in 0..<min(Self.batch, Self.mutantCount - first) {
        mutants.append(try mutator.mutant())
      }
      for outcome in try await open(mutants, first: first) {
        outcomes[outcome, default: 0] += 1
      }
    }
    print("\(Self.mutantCount) mutants: \(outcomes.sorted { $0.value > $1.value })")
    #expect(outcomes[.died, default: 0] == 0)
    #expect(outcomes[.opened, default: 0] > 0 || Self.mutantCount < 500)
    #expect(outcomes.count > 6 || Self.mutantCount < 500, "the mutants reach too little")
  }

  enum Outcome: Hashable, CustomStringConvertible {
    case opened
    case openedWithProblems
    case refused(String)
    case died

    var description: String {
      switch self {
      case .opened: "opened"
      case .openedWithProblems: "opened with problems"
      case .refused(let name): name
      case .died: "died"
      }
    }
  }

  /// Opens a batch; goes on behind a mutant that a helper died of.
  private func open(_ mutants: [CraftedPool], first: Int) async throws -> [Outcome] {
    let paths = mutants.indices.map { directory.file("mutant-\(first + $0)") }
    for (path, mutant) in zip(paths, mutants) { FileBytes.write(mutant.bytes, to: path) }
    defer { for path in paths { unlink(path) } }
    var outcomes: [Outcome] = []
    while outcomes.count < mutants.count {
      let helper = try await Helper.run(
        "volip-test-helper", ["open-each"] + paths[outcomes.count...],
        environment: ["SWIFT_BACKTRACE": "enable=no", PersistencePath.switchName: "cache-line"])
      for line in helper.output.split(separator: "\n") where !line.hasPrefix("open ") {
        guard line != "end" else { break }
        let index = outcomes.count
        outcomes.append(outcome(line))
        checkUntouched(mutants[index], paths[index], outcomes[index], "mutant \(first + index)")
      }
      guard outcomes.count < mutants.count else { break }
      let kept = "/tmp/volip-mutant-\(first + outcomes.count)"
      FileBytes.write(mutants[outcomes.count].bytes, to: kept)
      Issue.record("mutant \(first + outcomes.count), kept as \(kept): \(helper)")
      outcomes.append(.died)
    }
    return outcomes
  }

  private func outcome(_ line: Substring) -> Outcome {
    switch line {
    case "opened": .opened
    case "opened with problems": .openedWithProblems
    default: .refused(String(line.split(separator: " ")[1]))
    }
  }

  /// The heap is looked at after recovery: its refusal alone comes from an open that has applied
  /// the log.
  private func checkUntouched(
    _ mutant: CraftedPool, _ path: String, _ outcome: Outcome, _ comment: Comment
  ) {
    guard case .refused(let name) = outcome, name != "damagedHeap" else { return }
    #expect(isEqual(FileBytes.read(path), mutant.bytes), comment)
  }
}
