import Subprocess
import SystemPackage
import TestSupport
import Testing

/// The examples in C and C++, as a user builds them; killed and recovered.
@Suite struct KilledExampleTests {
  struct Example: Sendable, CustomTestStringConvertible {
    let source: String
    let compiler: Compiler
    var testDescription: String { "\(source) with \(compiler.rawValue)" }
  }

  static let examples =
    Compiler.ofC.map { Example(source: "Examples/C/list.c", compiler: $0) }
    + Compiler.ofCxx.flatMap {
      [
        Example(source: "Examples/Cxx/list.cpp", compiler: $0),
        Example(source: "Examples/Cxx/bank.cpp", compiler: $0),
      ]
    }

  @Test(arguments: examples)
  func anExampleThatIsKilledHasWhatWasAcknowledged(_ example: Example) async throws {
    let installation = try await Installation.shared
    let directory = TemporaryDirectory()
    let program = directory.file("example")
    try await installation.compile(example.source, with: example.compiler, to: program)
    try await killAndCheck(installation, [program], directory.file("example.pool"), kills: 8)
  }

  /// The program enters by itself, before its main.
  @Test(.guest) func aListThatIsAVirtualMachineHasWhatWasAcknowledged() async throws {
    let installation = try await Installation.shared
    let directory = TemporaryDirectory()
    let program = directory.file("list")
    let enter = "-include '\(Installation.root)/Tests/CFaceTests/Programs/enter.h'"
    try await installation.compile(
      "Examples/C/list.c", with: .gcc, options: [enter], to: program)
    try await killAndCheck(installation, [program], directory.file("list.pool"), kills: 6)
  }

  /// Here the library is in a guest that it knows nothing of.
  @Test(.guest) func aListThatIsRunAsAVirtualMachineHasWhatWasAcknowledged() async throws {
    let installation = try await Installation.shared
    let directory = TemporaryDirectory()
    let program = directory.file("list")
    try await installation.compile("Examples/C/list.c", with: .gcc, to: program)
    let command = ["\(installation.prefix)/bin/volip", "run", "--", program]
    try await killAndCheck(installation, command, directory.file("list.pool"), kills: 4)
  }

  /// Kills it as often, each time after another number of sections, and asks it what is there.
  private func killAndCheck(
    _ installation: Installation, _ command: [String], _ pool: String, kills: Int
  ) async throws {
    var generator = SeededGenerator.forTest("killed example \(command[0])")
    var acknowledged = 0
    for kill in 0..<kills {
      let sections = Int.random(in: 1...500, using: &generator)
      let last = try await runAndKill(installation, command + [pool, "0"], killAfter: sections)
      #expect(last > acknowledged, "kill \(kill)")
      let outcome = try await installation.run(command[0], command.dropFirst() + [pool])
      let words = outcome.output.split(whereSeparator: \.isWhitespace)
      try #require(words.count == 2, "kill \(kill): \(outcome)")
      let found = try #require(Int(words[0]))
      // One section more may be durable than was told.
      #expect(found == last || found == last + 1, "kill \(kill)")
      #expect(words[1] == "whole", "kill \(kill)")
      acknowledged = found
    }
  }

  /// Kills the program when it has printed so many lines; returns the number on the last that came.
  private func runAndKill(
    _ installation: Installation, _ command: [String], killAfter lines: Int
  ) async throws -> Int {
    let overrides = Dictionary(
      uniqueKeysWithValues: installation.environment.map {
        (Environment.Key(stringLiteral: $0), Optional($1))
      })
    let result = try await Subprocess.run(
      .path(FilePath(command[0])), arguments: Arguments(Array(command.dropFirst())),
      environment: .inherit.updating(overrides), input: .none, output: .sequence,
      error: .discarded
    ) { execution in
      var bytes: [UInt8] = []
      var (seen, isKilled) = (0, false)
      for try await buffer in execution.standardOutput {
        let more = buffer.withUnsafeBytes { Array($0) }
        bytes += more
        seen += more.count { $0 == UInt8(ascii: "\n") }
        if !isKilled, seen >= lines {
          try execution.send(signal: .kill)
          isKilled = true
        }
      }
      return bytes
    }
    #expect(result.terminationStatus == .signaled(9))
    // A line that the kill cut was not told.
    let bytes = result.closureResult
    let end = try #require(bytes.lastIndex(of: UInt8(ascii: "\n")), "nothing was told")
    let last = bytes[..<end].split(separator: UInt8(ascii: "\n")).last ?? []
    return try #require(Int(String(decoding: last, as: UTF8.self)))
  }
}
