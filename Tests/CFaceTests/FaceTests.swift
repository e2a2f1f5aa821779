import TestSupport
import Testing

/// Every function of volip.h, in programs that know nothing of Swift.
@Suite struct FaceTests {
  private func check(
    _ source: String, _ compiler: Compiler, _ arguments: [String], options: [String] = []
  ) async throws {
    let installation = try await Installation.shared
    let directory = TemporaryDirectory()
    let program = directory.file("program")
    try await installation.compile(
      "Tests/CFaceTests/Programs/\(source)", with: compiler, options: options, to: program)
    let outcome = try await installation.run(program, [directory.path] + arguments)
    #expect(outcome.output == "0 failures\n", "\(outcome.errors)")
    #expect(outcome.status == .exited(0))
  }

  @Test(arguments: Compiler.ofC)
  func everyFunctionDoesWhatTheHeaderSays(_ compiler: Compiler) async throws {
    try await check("face.c", compiler, [])
  }

  @Test(arguments: zip(Compiler.ofCxx, ["c++20", "c++17"]))
  func containersRootsAndSectionsOfCxxDoSoToo(
    _ compiler: Compiler, _ standard: String
  ) async throws {
    try await check("face.cpp", compiler, [], options: ["-std=\(standard)"])
  }

  @Test(.guest) func containersOfCxxDoSoInTheGuest() async throws {
    let enter = "-include '\(Installation.root)/Tests/CFaceTests/Programs/enter.h'"
    try await check("face.cpp", .gxx, [], options: [enter])
  }

  /// A run of it, not its figures: those are for a quiet machine.
  @Test func theComparisonWithMallocRuns() async throws {
    let installation = try await Installation.shared
    let directory = TemporaryDirectory()
    let program = directory.file("containers")
    try await installation.compile("Benchmarks/Cxx/containers.cpp", with: .gxx, to: program)
    let outcome = try await installation.run(program, [directory.file("pool"), "1000"])
    #expect(outcome.status == .exited(0), "\(outcome.errors)")
    #expect(outcome.output.split(separator: "\n").count == 19, "\(outcome.output)")
  }

  @Test func everyFunctionDoesSoWithWriteProtection() async throws {
    try await check("face.c", .gcc, ["write-protect"])
  }

  @Test(.guest, arguments: [nil, "dirty-bits", "detect-on-write", "dirty-log"])
  func everyFunctionDoesSoInTheGuest(_ tracker: String?) async throws {
    try await check("face.c", .gcc, ["guest"] + (tracker.map { [$0] } ?? []))
  }
}
