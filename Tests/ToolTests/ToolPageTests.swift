import Foundation
import TestSupport
import Testing

/// What the tool's page promises: its commands run as printed, and JSON has the keys that it lists.
@Suite struct ToolPageTests {
  static let root = URL(filePath: #filePath).deletingLastPathComponent()
    .deletingLastPathComponent().deletingLastPathComponent()
  let directory = TemporaryDirectory()

  private func page() throws -> [Substring] {
    let path = "Sources/VolipMem/VolipMem.docc/Tool.md"
    return try String(contentsOf: Self.root.appending(path: path), encoding: .utf8)
      .split(separator: "\n", omittingEmptySubsequences: false)
  }

  @Test func theCommandsOfThePageDoWhatItSays() async throws {
    let commands = try page().filter { $0.hasPrefix("$ ") }.map { $0.dropFirst(2) }
    #expect(commands.count > 15)
    for command in commands {
      let parts = command.split(separator: "# exit status ")
      let status = parts.count > 1 ? try #require(Int32(parts[1])) : 0
      let script =
        "cd '\(directory.path)' && PATH='\(Helper.productDirectory)':$PATH && \(parts[0])"
      let outcome = try await Helper.runPath("/bin/sh", ["-c", script])
      #expect(outcome.status == .exited(status), "\(command): \(outcome)")
    }
  }

  @Test func jsonHasTheKeysThatThePageLists() async throws {
    let pool = directory.file("left.pool")
    try await Tool.leavePool(pool, sections: 2)
    let (copy, export) = (directory.file("copy"), directory.file("export"))
    let calls: [(String, [String])] = [
      ("create", [directory.file("new.pool"), "--size", "1M"]), ("info", [pool]),
      ("check", [pool]), ("dump", [pool]), ("copy", [pool, copy]), ("export", [pool, export]),
      ("import", [export, directory.file("again.pool")]), ("recover", [pool]), ("trim", [pool]),
      ("compact", [pool]), ("doctor", []), ("bench", [directory.path, "--sections", "2"]),
    ]
    for (verb, arguments) in calls {
      let object = try await Tool.run([verb, "--json"] + arguments).json()
      #expect(try Set(object.keys) == listedKeys(of: verb), "\(verb)")
    }
    let plan = try await Tool.run("check", copy, "--closed", "--json").json()
    #expect(try Set(plan.keys) == listedKeys(of: "check"))
  }

  private func listedKeys(of verb: String) throws -> Set<String> {
    let lines = try page()
    let start = try #require(lines.firstIndex { $0 == "### \(verb)" }, "\(verb)")
    let line = try #require(lines[start...].first { $0.hasPrefix("JSON: ") })
    return Set(
      line.dropFirst(6).split(separator: ", ").map { $0.trimmingCharacters(in: ["`"]) })
  }

  @Test func everyVerbIsOnThePageAndHasAManPage() async throws {
    let outcome = try await Helper.runPath(
      Self.root.appending(path: "Scripts/man-pages.py").path,
      [Helper.productDirectory + "/volip", directory.path + "/man"])
    #expect(outcome.status == .exited(0), "\(outcome)")
    defer { try? FileManager.default.removeItem(atPath: directory.path + "/man") }
    let pages = directory.path + "/man/man/man1"
    let names = try FileManager.default.contentsOfDirectory(atPath: pages)
    let verbs = names.filter { $0 != "volip.1" }.map { $0.dropFirst(6).dropLast(2) }
    #expect(verbs.count >= 14)
    let text = try page().joined(separator: "\n")
    for verb in verbs {
      #expect(text.contains("### \(verb)\n") || verb == "run", "\(verb)")
      let manual = try String(contentsOfFile: "\(pages)/volip-\(verb).1", encoding: .utf8)
      #expect(manual.contains(".SH EXIT STATUS") && manual.contains(".SH OPTIONS"))
    }
    for name in [
      "bash-completion/completions/volip", "zsh/site-functions/_volip",
      "fish/vendor_completions.d/volip.fish",
    ] {
      let script = directory.path + "/man/" + name
      #expect(try String(contentsOfFile: script, encoding: .utf8).contains("compact"))
    }
  }

  @Test func textForPeopleIsPlainWhereNoTerminalIs() async throws {
    let pool = directory.file("plain.pool")
    try await Tool.leavePool(pool, sections: 1)
    for arguments in [["check", pool], ["copy", pool, directory.file("copy")]] {
      let answer = try await Tool.run(arguments)
      #expect(answer.status == 0 && answer.errors.isEmpty && !answer.output.contains("\u{1B}"))
    }
    // At a terminal: colour and progress, but for NO_COLOR and --quiet.
    func atTerminal(_ command: String) async throws -> String {
      let volip = Helper.productDirectory + "/volip"
      return try await Helper.runPath(
        "/usr/bin/script", ["-qec", "\(command) '\(volip)' check '\(pool)'", "/dev/null"]
      ).output
    }
    guard access("/usr/bin/script", X_OK) == 0 else { return print("skipped: no script(1)") }
    #expect(try await atTerminal("NO_COLOR= ").contains("\u{1B}[32mconsistent"))
    #expect(try await !atTerminal("NO_COLOR=1 ").contains("\u{1B}[32m"))
  }
}
