import Foundation
import Subprocess
import SystemPackage
import TestSupport

/// Compiles programs as a package that depends on this one would, without building that again.
enum ExampleCompiler {
  private static let modules = [
    "VolipMem", "VolipHeap", "VolipCommit", "VolipWriteSet", "VolipMachine", "VolipPool",
    "VolipPersistence",
  ]
  private static let shims = ["CVolimem", "CVolipPersistence", "CVolipWriteSet"]

  /// Objects of the sources that there are: a build directory keeps those of others, too.
  private static var objects: [String] {
    let swift = modules.flatMap { module in
      sources("Sources/\(module)", ["swift"]).map { "\(module).build/\($0).o" }
    }
    let c = shims.flatMap { shim in
      sources("CSupport/\(shim)", ["c", "S"]).map { "\(shim).build/\($0).o" }
    }
    return (swift + c).map { Helper.productDirectory + "/" + $0 }
  }

  private static func sources(_ directory: String, _ suffixes: Set<String>) -> [String] {
    let start = Pages.root.appending(path: directory)
    let files = FileManager.default.enumerator(at: start, includingPropertiesForKeys: nil)
    return (files?.allObjects as? [URL] ?? []).filter { suffixes.contains($0.pathExtension) }
      .map(\.lastPathComponent)
  }

  /// The compiler's complaints, if there are any.
  static func compile(_ program: String, to executable: String) async throws -> String {
    let source = executable + ".main/main.swift"
    let directory = URL(filePath: source).deletingLastPathComponent()
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
    try program.write(toFile: source, atomically: true, encoding: .utf8)
    let products = Helper.productDirectory
    let maps = shims.flatMap {
      ["-Xcc", "-fmodule-map-file=\(products)/\($0).build/module.modulemap"]
    }
    let system = ["CLibpmem", "CLibelf"].flatMap {
      ["-I", Pages.root.appending(path: "CSupport/\($0)").path]
    }
    let outcome = try await run(
      "swiftc",
      ["-swift-version", "6", "-o", executable, source, "-I", products + "/Modules"] + maps + system
        + objects + ["-lpmem", "-lelf"], in: directory.path)
    return outcome.status == .exited(0) ? "" : outcome.errors + outcome.output
  }

  static func run(
    _ program: String, _ arguments: [String], environment: [String: String] = [:],
    in directory: String
  ) async throws -> Helper.Outcome {
    let overrides = Dictionary(
      uniqueKeysWithValues: environment.map { (Environment.Key(stringLiteral: $0), Optional($1)) })
    let result = try await Subprocess.run(
      program.contains("/") ? .path(FilePath(program)) : .name(program),
      arguments: Arguments(arguments), environment: .inherit.updating(overrides),
      workingDirectory: FilePath(directory),
      output: .string(limit: 1 << 20), error: .string(limit: 1 << 20))
    return Helper.Outcome(
      status: result.terminationStatus, output: result.standardOutput,
      errors: result.standardError)
  }
}
