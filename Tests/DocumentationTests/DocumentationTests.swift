import Foundation
import TestSupport
import Testing

/// What the documentation shows works as it stands there, and what it names is there.
@Suite struct DocumentationTests {
  /// tmpfs behaves like persistent memory.
  private let environment = ["VOLIP_PERSISTENCE": "cache-line"]

  @Test func thereIsSomethingToCheck() {
    #expect(Pages.all.count > 12 && Self.programs.count >= 4)
    #expect(Pages.blocks("console").contains { $0.page == "GettingStarted.md" })
  }

  static let programs = Pages.blocks("swift").filter { $0.text.hasPrefix("import VolipMem\n") }

  @Test(arguments: programs) func aProgramCompilesAndPrintsWhatThePageSays(_ block: Pages.Block)
    async throws
  {
    let directory = TemporaryDirectory()
    let executable = directory.file("example")
    let complaints = try await ExampleCompiler.compile(block.text, to: executable)
    try #require(complaints.isEmpty, "\(block): \(complaints)")
    let outcome = try await ExampleCompiler.run(
      executable, [], environment: environment, in: directory.path)
    #expect(outcome.status == .exited(0), "\(block): \(outcome.errors)")
    if let expected = block.output { #expect(outcome.output == expected, "\(block)") }
  }

  /// What is no program is a part of one: of a source of the repository, line by line.
  @Test(arguments: Pages.blocks("swift").filter { !$0.text.hasPrefix("import VolipMem\n") })
  func anExcerptIsWhatTheSourceSays(_ block: Pages.Block) {
    let lines = block.text.split(separator: "\n").map(Self.bare).filter { !$0.isEmpty }
    let isThere = Self.sources.contains { source in lines.allSatisfy(source.contains) }
    #expect(isThere, "\(block) is in no source file")
  }

  private static func bare(_ line: Substring) -> String {
    let code = line.firstRange(of: "//").map { line[..<$0.lowerBound] } ?? line
    return code.trimmingCharacters(in: .whitespaces)
  }

  private static let sources: [Set<String>] = ["Sources", "Tests", "Examples"].flatMap { name in
    let start = Pages.root.appending(path: name)
    let files = FileManager.default.enumerator(at: start, includingPropertiesForKeys: nil)
    return (files?.allObjects as? [URL] ?? []).filter { $0.pathExtension == "swift" }.compactMap {
      (try? String(contentsOf: $0, encoding: .utf8)).map {
        Set($0.split(separator: "\n").map(bare))
      }
    }
  }

  /// In a directory that looks like a fresh checkout, with what this test run was built with.
  @Test(arguments: Pages.blocks("console")) func commandsDoWhatThePageSays(_ block: Pages.Block)
    async throws
  {
    let directory = TemporaryDirectory()
    let files = FileManager.default
    for name in try files.contentsOfDirectory(atPath: Pages.root.path) where name != ".build" {
      try files.createSymbolicLink(
        atPath: directory.file(name), withDestinationPath: Pages.root.path + "/" + name)
    }
    let outcome = try await ExampleCompiler.run(
      "bash", ["-euo", "pipefail", "-c", block.text],
      environment: [
        "HOME": directory.path, "BUILD": Helper.productDirectory,
        "SWIFT": "true", "MAKEFLAGS": "s",
      ].merging(environment) { $1 }, in: directory.path)
    #expect(outcome.status == .exited(0), "\(block): \(outcome.errors)")
    if let expected = block.output { #expect(outcome.output == expected, "\(block)") }
  }

  // MARK: Names

  @Test(arguments: Pages.all) func linksLeadSomewhere(_ page: Pages.Page) {
    let directory = page.file.deletingLastPathComponent()
    let catalogue = Set(Pages.all.map(\.description))
    for name in Pages.matches(#"<doc:(\w+)>"#, in: page.text) {
      #expect(catalogue.contains(name + ".md"), "\(page): <doc:\(name)>")
    }
    for target in Pages.matches(#"\]\(([^)#]+)\)"#, in: page.text)
    where !target.contains("://") && !target.hasPrefix("<doc:") {
      let isPicture = !target.contains("/") && !target.contains(".")
      let path = isPicture ? "Resources/\(target).svg" : target
      let file = directory.appending(path: path).path
      #expect(FileManager.default.fileExists(atPath: file), "\(page): \(target)")
    }
  }

  @Test(arguments: Pages.all) func makeTargetsAreThere(_ page: Pages.Page) throws {
    let makefile = try String(
      contentsOf: Pages.root.appending(path: "Makefile"), encoding: .utf8)
    for target in Pages.matches(#"`make ([a-z-]+)"#, in: page.text) {
      #expect(makefile.contains("\n\(target):"), "\(page): make \(target)")
    }
  }

  @Test func environmentVariablesAreRead() throws {
    var sources = ""
    for name in ["Sources", "CSupport", "Tests", "Scripts", "Makefile", "Examples", "Python"] {
      let start = Pages.root.appending(path: name)
      let files = FileManager.default.enumerator(at: start, includingPropertiesForKeys: nil)
      for file in [start] + (files?.allObjects as? [URL] ?? []) where file.pathExtension != "md" {
        sources += (try? String(contentsOf: file, encoding: .utf8)) ?? ""
      }
    }
    for page in Pages.all {
      for name in Pages.matches(#"`(VOLIP_[A-Z_]+)"#, in: page.text) {
        #expect(sources.contains("\"\(name)\"") || sources.contains("\(name)"), "\(page): \(name)")
      }
    }
  }

  private static let declared: Set<String> = {
    let text = sources.map { $0.joined(separator: "\n") }.joined(separator: "\n")
    return Set(Pages.matches(#"(?:struct|class|enum|func) `?(\w+)"#, in: text))
  }()

  /// Names of tests in tables of promises.
  @Test(arguments: Pages.all) func testsThatHoldAPromiseAreThere(_ page: Pages.Page) {
    for name in Pages.matches(#"`(?:\w+Tests)?\.([a-z]\w+[A-Z]\w+)`"#, in: page.text)
    where name.count > 20 {
      #expect(Self.declared.contains(name), "\(page): \(name)")
    }
    for suite in Pages.matches(#"`(\w+Tests)[`.]"#, in: page.text) {
      let isTarget = FileManager.default.fileExists(
        atPath: Pages.root.appending(path: "Tests/\(suite)").path)
      #expect(isTarget || Self.declared.contains(suite), "\(page): \(suite)")
    }
  }
}
