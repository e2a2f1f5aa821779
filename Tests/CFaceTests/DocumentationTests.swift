import Foundation
import TestSupport
import Testing

/// The programs of a page, and the commands that compile and run them, as they are printed.
struct Page {
  /// Code whose first line names its file, and lines for a shell, in the page's order.
  let blocks: [(language: String, text: String)]

  init(_ name: String) throws {
    let path = "\(Installation.root)/Sources/VolipMem/VolipMem.docc/\(name)"
    let text = try String(contentsOfFile: path, encoding: .utf8)
    blocks = text.matches(of: #/```(\w+)\n(.*?)```/#.dotMatchesNewlines()).map {
      (String($0.output.1), String($0.output.2))
    }
  }

  /// Writes the files into a directory and runs the shell's lines there, all in one shell.
  func run(
    _ installation: Installation, in directory: String, before: String = ""
  ) async throws -> Helper.Outcome {
    var lines = "PREFIX='\(installation.prefix)'\n" + before + "\n"
    for (language, text) in blocks {
      if language == "sh" {
        lines += text
        continue
      }
      let name = try #require(text.firstMatch(of: #/^(//|#) (\S+)\n/#)?.output.2)
      try text.write(toFile: "\(directory)/\(name)", atomically: true, encoding: .utf8)
    }
    return try await installation.shell(lines, in: directory)
  }
}

@Suite struct DocumentationTests {
  @Test func thePageOnCAndCxxDoesWhatItSays() async throws {
    let page = try Page("C.md")
    #expect(page.blocks.filter { $0.language != "sh" }.count == 4)
    let directory = TemporaryDirectory()
    let outcome = try await page.run(try await Installation.shared, in: directory.path)
    #expect(outcome.status == .exited(0), "\(outcome.errors)")
    #expect(outcome.output.hasPrefix("1 \n2 1 \n1 \n2 1 \n"), "\(outcome.output)")
    let tracker = outcome.output.split(separator: "\n").last
    #expect(tracker == (await Guest.whyUnavailable == nil ? "adaptive" : "page-map-scan"))
  }
}
