import Foundation
import Subprocess
import SystemPackage
import TestSupport
import Testing

/// The `volip` command as a user starts it.
enum Tool {
  struct Answer {
    let status: Int32
    let output: String
    let errors: String

    /// The object that --json prints.
    func json() throws -> [String: Any] {
      let parsed = try JSONSerialization.jsonObject(with: Data(output.utf8))
      let object = try #require(parsed as? [String: Any], "\(output)")
      #expect(object["format"] as? Int == 1)
      return object
    }
  }

  /// Runs a verb to its end; a death by a signal is status 128 + n, as in a shell.
  static func run(
    _ arguments: String..., environment: [String: String] = [:]
  ) async throws -> Answer {
    try await run(arguments, environment: environment)
  }

  static func run(
    _ arguments: [String], environment: [String: String] = [:]
  ) async throws -> Answer {
    let outcome = try await Helper.run(
      "volip", arguments, environment: ["SWIFT_BACKTRACE": "enable=no"].merging(environment) { $1 })
    let status: Int32 =
      switch outcome.status {
      case .exited(let code): code
      case .signaled(let number): 128 + number
      }
    return Answer(status: status, output: outcome.output, errors: outcome.errors)
  }

  /// Runs `body` while a helper process does a verb for ever, which is killed then.
  static func whileWriting(
    _ arguments: [String], _ body: @Sendable () async throws -> Void
  ) async throws {
    let result = try await Subprocess.run(
      .path(FilePath("\(Helper.productDirectory)/volip-test-helper")),
      arguments: Arguments(arguments), input: .none, output: .discarded, error: .discarded
    ) { execution in
      do {
        try await body()
      } catch {
        try execution.send(signal: .kill)
        throw error
      }
      try execution.send(signal: .kill)
    }
    #expect(result.terminationStatus == .signaled(9))
  }

  /// Waits until the writer of a pool has done so many sections.
  static func wait(for path: String, sections: Int) async throws {
    var seen = 0
    while seen < sections {
      let answer = try await run("stat", path, "--json", "--interval", "0.01")
      if answer.status == 0 { seen = try answer.json()["sections"] as? Int ?? 0 }
    }
  }

  /// A pool that a process left with `sections` records in its log, or closed.
  static func leavePool(_ path: String, sections: Int) async throws {
    let outcome = try await Helper.run(
      "volip-test-helper", ["leave-log", path, "\(sections)"],
      environment: ["VOLIP_PERSISTENCE": "cache-line"])
    try #require(outcome.output == "left\n", "\(outcome)")
  }
}
