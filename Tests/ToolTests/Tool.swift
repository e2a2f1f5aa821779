import Foundation
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

  /// A pool that a process left with `sections` records in its log, or closed.
  static func leavePool(_ path: String, sections: Int) async throws {
    let outcome = try await Helper.run(
      "volip-test-helper", ["leave-log", path, "\(sections)"],
      environment: ["VOLIP_PERSISTENCE": "cache-line"])
    try #require(outcome.output == "left\n", "\(outcome)")
  }
}
