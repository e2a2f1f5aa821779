import Foundation

/// The Markdown that users read, and what stands in it.
enum Pages {
  static let root = URL(filePath: #filePath).deletingLastPathComponent()
    .deletingLastPathComponent().deletingLastPathComponent()
  private static let catalogue = root.appending(path: "Sources/VolipMem/VolipMem.docc")

  struct Page: Sendable, CustomStringConvertible {
    let file: URL
    let text: String
    var description: String { file.lastPathComponent }
  }

  static let all: [Page] = {
    let top = ["README.md", "CONTRIBUTING.md"].map { root.appending(path: $0) }
    let names = (try? FileManager.default.contentsOfDirectory(atPath: catalogue.path)) ?? []
    let pages = names.filter { $0.hasSuffix(".md") }.sorted().map { catalogue.appending(path: $0) }
    return (top + pages).compactMap { file in
      (try? String(contentsOf: file, encoding: .utf8)).map { Page(file: file, text: $0) }
    }
  }()

  /// A block between fences.
  struct Block: Sendable, CustomStringConvertible {
    let page: String
    let line: Int
    let language: String
    let text: String
    /// A plain block right behind it: what it prints.
    var output: String?
    var description: String { "\(page):\(line)" }
  }

  static let blocks: [Block] = all.flatMap { page in
    var result: [Block] = []
    var open: (line: Int, language: String, lines: [Substring])?
    var isBehindBlock = false
    for (index, line) in page.text.split(separator: "\n", omittingEmptySubsequences: false)
      .enumerated()
    {
      guard line.hasPrefix("```") else {
        if open != nil { open!.lines.append(line) } else if !line.isEmpty { isBehindBlock = false }
        continue
      }
      guard let block = open else {
        open = (index + 1, String(line.dropFirst(3)), [])
        continue
      }
      let text = block.lines.map { $0 + "\n" }.joined()
      if block.language.isEmpty, isBehindBlock {
        result[result.count - 1].output = text
      } else {
        result.append(
          Block(page: page.description, line: block.line, language: block.language, text: text))
      }
      isBehindBlock = !block.language.isEmpty
      open = nil
    }
    return result
  }

  static func blocks(_ language: String) -> [Block] { blocks.filter { $0.language == language } }

  /// Every string between two others.
  static func matches(_ pattern: String, in text: String) -> [String] {
    guard let expression = try? NSRegularExpression(pattern: pattern) else { return [] }
    return expression.matches(in: text, range: NSRange(text.startIndex..., in: text)).compactMap {
      Range($0.range(at: 1), in: text).map { String(text[$0]) }
    }
  }
}
