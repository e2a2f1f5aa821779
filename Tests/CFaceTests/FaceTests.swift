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

  @Test func everyFunctionDoesSoWithWriteProtection() async throws {
    try await check("face.c", .gcc, ["write-protect"])
  }

  @Test(.guest, arguments: [nil, "dirty-bits", "detect-on-write"])
  func everyFunctionDoesSoInTheGuest(_ tracker: String?) async throws {
    try await check("face.c", .gcc, ["guest"] + (tracker.map { [$0] } ?? []))
  }
}
