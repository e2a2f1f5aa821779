import Foundation
import Subprocess
import SystemPackage
import TestSupport
import Testing

/// Programs that must not compile, each with what the compiler has to say about it.
@Suite struct WrongProgramTests {
  struct WrongProgram: Sendable {
    let name: String
    let body: String
    let diagnostic: String
  }

  static let programs: [WrongProgram] = [
    WrongProgram(
      name: "a change without a section",
      body: "func f(_ a: borrowing PersistentArray<Int>) throws { try a.append(1) }",
      diagnostic: "missing argument for parameter 'in' in call"),
    WrongProgram(
      name: "a change with a section that is only read",
      body: """
        func f(_ a: borrowing PersistentArray<Int>, _ s: borrowing Section) throws {
          try a.append(1, in: &s)
        }
        """,
      diagnostic: "cannot pass immutable value as inout argument"),
    WrongProgram(
      name: "a section that is kept",
      body: "nonisolated(unsafe) var kept: Section?\nfunc f(_ s: inout Section) { kept = s }",
      diagnostic: "implicit conversion to 'Section?' is consuming"),
    WrongProgram(
      name: "a section that is copied",
      body: "func f(_ s: inout Section) { let t = s; _ = t.pool }",
      diagnostic: "missing reinitialization of inout parameter 's' after consume"),
    WrongProgram(
      name: "a section in a task",
      body: """
        func f(_ p: Pool, _ a: Ref<PersistentArray<Int>>) throws {
          try p.section { s in Task { try a.value.append(1, in: &s) } }
        }
        """,
      diagnostic: "escaping closure captures 'inout' parameter 's'"),
    WrongProgram(
      name: "a section that is made up",
      body: "func f(_ p: Pool) { var s = Section(pool: p); _ = s.pool }",
      diagnostic: "'Section' initializer is inaccessible"),
    WrongProgram(
      name: "a class as an element",
      body: "final class C {}\nfunc f(_ a: borrowing PersistentArray<C>) {}",
      diagnostic: "type 'C' does not conform to protocol 'Persistable'"),
    WrongProgram(
      name: "a class that says it is persistable",
      body: "final class C: Persistable {}",
      diagnostic: "type 'C' does not conform to protocol 'Persistable'"),
    WrongProgram(
      name: "a closure as an element",
      body: "func f(_ a: borrowing PersistentArray<() -> Void>) {}",
      diagnostic: "type '() -> Void' does not conform to protocol 'Persistable'"),
    WrongProgram(
      name: "a raw pointer as an element",
      body: "func f(_ a: borrowing PersistentArray<UnsafeRawPointer>) {}",
      diagnostic: "type 'UnsafeRawPointer' does not conform to protocol 'Persistable'"),
    WrongProgram(
      name: "a string of the standard library as a value",
      body: "func f(_ d: borrowing PersistentDictionary<Int, String>) {}",
      diagnostic: "type 'String' does not conform to protocol 'Persistable'"),
    WrongProgram(
      name: "a key that has no hash",
      body: "func f(_ d: borrowing PersistentDictionary<Double, Int>) {}",
      diagnostic: "type 'Double' does not conform to protocol 'PersistentKey'"),
    WrongProgram(
      name: "a collection that is copied by assignment",
      body: "func f(_ a: borrowing PersistentArray<Int>) { let b = a; _ = b.count }",
      diagnostic: "'a' is borrowed and cannot be consumed"),
    WrongProgram(
      name: "an element that is assigned",
      body: "func f(_ a: borrowing PersistentArray<Int>) { a[0] = 1 }",
      diagnostic: "cannot assign through subscript"),
  ]

  @Test func wrongProgramsDoNotCompile() async throws {
    // The passes after type checking, which know what is consumed, run only where that is right.
    let errors =
      try await Self.errors(of: Self.programs.map(\.body).filter { !Self.isForLaterPasses($0) })
      + Self.errors(of: Self.programs.map(\.body).filter(Self.isForLaterPasses))
    #expect(errors.count == Self.programs.count)
    for program in Self.programs {
      let found = errors.first { $0.body == program.body }?.errors ?? []
      #expect(
        found.contains { $0.contains(program.diagnostic) }, "\(program.name): \(found)")
    }
  }

  private static func isForLaterPasses(_ body: String) -> Bool {
    programs.contains {
      $0.body == body && ($0.diagnostic.contains("consume") || $0.diagnostic.contains("escaping"))
    }
  }

  @Test func aRightProgramCompiles() async throws {
    let body = """
      struct Account: BitwiseCopyable, Persistable { var balance: Int }
      func f(_ p: Pool, _ a: Ref<PersistentArray<Account>>) throws {
        try p.section { s in try a.value.append(Account(balance: 1), in: &s) }
        print(a.value[0].balance, a.value.span.count)
      }
      """
    let errors = try await Self.errors(of: [body])
    #expect(errors[0].errors.isEmpty, "\(errors)")
  }

  /// What the compiler says about each of some files that import VolipMem, in one run.
  private static func errors(
    of bodies: [String]
  ) async throws -> [(body: String, errors: [String])] {
    let directory = TemporaryDirectory()
    var sources: [String] = []
    for (index, body) in bodies.enumerated() {
      let source = directory.file("program\(index).swift")
      // Names of their own: the files are one module.
      let text = body.replacing("func f(", with: "func f\(index)(")
        .replacing("class C", with: "class C\(index)").replacing("<C>", with: "<C\(index)>")
      try ("import VolipMem\n" + text + "\n").write(
        toFile: source, atomically: true, encoding: .utf8)
      sources.append(source)
    }
    let result = try await Subprocess.run(
      .name("swiftc"), arguments: Arguments(try flags() + sources),
      output: .string(limit: 1 << 20), error: .string(limit: 1 << 20))
    // What is about no file is about the way this test calls the compiler.
    let lines = (result.standardError + result.standardOutput).split(separator: "\n")
    let others = lines.filter { $0.contains("error: ") && !$0.contains("/program") }
    #expect(others.allSatisfy { $0.contains("|") }, "\(others)")
    return bodies.indices.map { index in
      let own = lines.filter {
        $0.contains("/program\(index).swift:") && $0.contains("error: ")
      }
      return (
        bodies[index], own.map { String($0).replacing("'C\(index)'", with: "'C'") }
      )
    }
  }

  private static func flags() throws -> [String] {
    // Where it is in truth: the modules' cache goes by names.
    let products = URL(filePath: Helper.productDirectory).resolvingSymlinksInPath().path
    let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent().path
    var flags = [
      "-emit-sil", "-wmo", "-o", "/dev/null", "-swift-version", "6", "-parse-as-library",
      "-module-name", "Programs", "-I", "\(products)/Modules",
      "-module-cache-path", "\(products)/ModuleCache",
    ]
    for module in ["CVolipPersistence", "CVolipWriteSet", "CVolimem"] {
      flags += ["-Xcc", "-fmodule-map-file=\(products)/\(module).build/module.modulemap"]
      flags += ["-Xcc", "-I\(root)/CSupport/\(module)/include"]
    }
    for module in ["CLibpmem", "CLibelf"] {
      flags += ["-Xcc", "-fmodule-map-file=\(root)/CSupport/\(module)/module.modulemap"]
    }
    return flags
  }
}
