import Subprocess
import SystemPackage
import TestSupport
import Testing

/// Each example of the collections is killed at random times, and what it keeps is whole.
@Suite struct CollectionExampleTests {
  @Test(arguments: ["bank", "cache", "orders", "document"])
  func anExampleThatIsKilledIsWhole(_ name: String) async throws {
    var generator = SeededGenerator.forTest("example \(name)")
    let directory = TemporaryDirectory()
    let path = directory.file("example.pool")
    var acknowledged = 0
    for kill in 0..<6 {
      let steps = Int.random(in: 1...600, using: &generator)
      acknowledged = max(acknowledged, try await runAndKill(name, path, after: steps))
      let outcome = try await Helper.run("collection-examples", [name, path, "check"])
      let words = outcome.output.split(whereSeparator: \.isWhitespace)
      try #require(words.count == 6, "kill \(kill): \(outcome.output) \(outcome.errors)")
      let found = try #require(Int(words[1]))
      #expect(found == acknowledged || found == acknowledged + 1, "kill \(kill)")
      #expect(words[5] == "true", "kill \(kill): \(outcome.output)")
      acknowledged = found
    }
    #expect(acknowledged > 0)
  }

  /// Kills the example when it has reported so many steps more; returns the last that arrived.
  private func runAndKill(_ name: String, _ path: String, after steps: Int) async throws -> Int {
    let result = try await Subprocess.run(
      .path(FilePath("\(Helper.productDirectory)/collection-examples")),
      arguments: [name, path],
      environment: .inherit.updating(["VOLIP_PERSISTENCE": "cache-line"]),
      input: .none, output: .sequence, error: .discarded
    ) { execution in
      var bytes: [UInt8] = []
      var isKilled = false
      for try await buffer in execution.standardOutput {
        bytes.append(contentsOf: buffer.withUnsafeBytes { Array($0) })
        if !isKilled, bytes.count >= steps * 8 {
          try execution.send(signal: .kill)
          isKilled = true
        }
      }
      return bytes
    }
    #expect(result.terminationStatus == .signaled(9))
    let bytes = result.closureResult
    let last = bytes[(bytes.count / 8 - 1) * 8..<bytes.count / 8 * 8]
    return Int(last.reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) })
  }
}
