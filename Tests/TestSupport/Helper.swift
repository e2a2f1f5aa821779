import Glibc
import Subprocess
import SystemPackage

/// Runs built programs of this package.
public enum Helper {
  /// The directory that the test bundle and the executables were built into.
  public static let productDirectory: String = {
    var path = [CChar](repeating: 0, count: Int(PATH_MAX))
    let count = readlink("/proc/self/exe", &path, path.count - 1)
    precondition(count > 0)
    let executable = String(decoding: path[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    if executable.contains("/.build/") {
      return String(executable[..<executable.lastIndex(of: "/")!])
    }
    // The toolchain's test runner loads the bundle: its path is the argument that ends in .xctest.
    for argument in CommandLine.arguments where argument.contains(".build/") {
      if let slash = argument.lastIndex(of: "/") { return String(argument[..<slash]) }
    }
    preconditionFailure("not run by swift test")
  }()

  public struct Outcome: Sendable {
    public let status: TerminationStatus
    public let output: String
    public let errors: String

    public init(status: TerminationStatus, output: String, errors: String) {
      (self.status, self.output, self.errors) = (status, output, errors)
    }
  }

  /// Runs a program of this package to its end.
  public static func run(
    _ program: String = "volip-test-helper", _ arguments: [String],
    environment: [String: String] = [:]
  ) async throws -> Outcome {
    try await runPath("\(productDirectory)/\(program)", arguments, environment: environment)
  }

  /// Runs any program to its end.
  public static func runPath(
    _ path: String, _ arguments: [String], environment: [String: String] = [:]
  ) async throws -> Outcome {
    let overrides = Dictionary(
      uniqueKeysWithValues: environment.map { (Environment.Key(stringLiteral: $0), Optional($1)) })
    let result = try await Subprocess.run(
      .path(FilePath(path)), arguments: Arguments(arguments),
      environment: .inherit.updating(overrides), output: .string(limit: 1 << 20),
      error: .string(limit: 1 << 20))
    return Outcome(
      status: result.terminationStatus, output: result.standardOutput,
      errors: result.standardError)
  }
}
