import Foundation
import Subprocess
import SystemPackage
import TestSupport

/// What a user of the C face has: the package installed under a prefix, and a compiler.
struct Installation: Sendable {
  static let root = URL(filePath: #filePath).deletingLastPathComponent()
    .deletingLastPathComponent().deletingLastPathComponent().path
  /// Goes with the test run.
  private static let directory: String = {
    let path = TemporaryDirectory().path
    try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    _ = atexit { try? FileManager.default.removeItem(atPath: Installation.directory) }
    return path
  }()

  let prefix: String

  /// `make install` of what this test run was built with; once for all tests.
  static var shared: Installation {
    get async throws { try await made.value }
  }

  private static let made = Task {
    let prefix = directory + "/prefix"
    let outcome = try await Self.run(
      "make",
      [
        "-C", root, "--no-print-directory", "--old-file=installable", "install", "PREFIX=\(prefix)",
        "BUILD=\(Helper.productDirectory)",
      ])
    guard outcome.status == .exited(0) else { throw Failure(text: outcome.errors) }
    return Installation(prefix: prefix)
  }

  struct Failure: Error {
    let text: String
  }

  /// What finds headers, library and command here, and makes tmpfs behave like persistent memory.
  var environment: [String: String] {
    [
      "PKG_CONFIG_PATH": "\(prefix)/lib/pkgconfig", "LD_LIBRARY_PATH": "\(prefix)/lib",
      "VOLIP_PERSISTENCE": "cache-line",
    ]
  }

  static func run(
    _ program: String, _ arguments: [String], environment: [String: String] = [:],
    in directory: String? = nil
  ) async throws -> Helper.Outcome {
    let overrides = Dictionary(
      uniqueKeysWithValues: environment.map { (Environment.Key(stringLiteral: $0), Optional($1)) })
    let result = try await Subprocess.run(
      program.contains("/") ? .path(FilePath(program)) : .name(program),
      arguments: Arguments(arguments), environment: .inherit.updating(overrides),
      workingDirectory: directory.map { FilePath($0) },
      output: .string(limit: 1 << 20), error: .string(limit: 1 << 20))
    return Helper.Outcome(
      status: result.terminationStatus, output: result.standardOutput,
      errors: result.standardError)
  }

  /// Runs a program, or a command line in a shell, as a user of the installation.
  func run(
    _ program: String, _ arguments: [String], in directory: String? = nil
  ) async throws -> Helper.Outcome {
    try await Self.run(program, arguments, environment: environment, in: directory)
  }

  func shell(_ line: String, in directory: String) async throws -> Helper.Outcome {
    try await run("/bin/sh", ["-ec", line], in: directory)
  }

  /// Compiles a source file of the package with all warnings as errors; throws what the compiler
  /// says.
  func compile(
    _ source: String, with compiler: Compiler, options: [String] = [], to program: String
  ) async throws {
    let line =
      "\(compiler.rawValue) \(compiler.standard) \(options.joined(separator: " ")) "
      + "-Wall -Wextra -Werror -pedantic -O2 -pthread "
      + "'\(Self.root)/\(source)' $(pkg-config --cflags --libs volip) -o '\(program)'"
    let outcome = try await shell(line, in: "/")
    guard outcome.status == .exited(0) else { throw Failure(text: line + "\n" + outcome.errors) }
  }
}

/// The compilers that programs are built with. Those of Swift's toolchain stand in for clang.
enum Compiler: String, CaseIterable, Sendable {
  case gcc
  case clang
  case gxx = "g++"
  case clangxx = "clang++"

  static let ofC = [Compiler.gcc, .clang].filter(\.isThere)
  static let ofCxx = [Compiler.gxx, .clangxx].filter(\.isThere)

  private var isThere: Bool {
    let path = ProcessInfo.processInfo.environment["PATH"] ?? ""
    let isThere = path.split(separator: ":").contains {
      FileManager.default.isExecutableFile(atPath: "\($0)/\(rawValue)")
    }
    if !isThere { print("skipped with \(rawValue): it is not installed") }
    return isThere
  }

  var standard: String {
    self == .gcc || self == .clang ? "-std=c99" : "-std=c++17"
  }
}
