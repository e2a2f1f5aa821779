import Foundation
import Testing

/// The house rules that a program can check.
@Suite struct StyleTests {
  static let root = URL(filePath: #filePath).deletingLastPathComponent()
    .deletingLastPathComponent().deletingLastPathComponent()

  /// The modules in the order of the way of the data.
  static let modules = [
    "VolipPersistence", "VolipPool", "VolipMachine", "VolipWriteSet", "VolipCommit", "VolipWrap",
    "VolipHeap", "VolipMem", "VolipC", "VolipTool",
  ]

  struct SourceFile {
    let path: String
    let name: String
    let lines: [Substring]
    var text: String { lines.joined(separator: "\n") }
  }

  static func files(under folders: [String], endings: [String]) -> [SourceFile] {
    folders.flatMap { folder -> [SourceFile] in
      let directory = root.appending(path: folder)
      let paths = FileManager.default.enumerator(atPath: directory.path)?.compactMap {
        $0 as? String
      }
      return (paths ?? []).filter { path in
        endings.contains { path.hasSuffix($0) } && !path.contains(".build/")
      }.map { path in
        let url = directory.appending(path: path)
        let text = (try? String(contentsOf: url, encoding: .utf8)) ?? ""
        return SourceFile(
          path: "\(folder)/\(path)", name: url.lastPathComponent,
          lines: text.split(separator: "\n", omittingEmptySubsequences: false))
      }
    }
  }

  static let importPattern = #"^(@\w+(\(\w+\))? )*import \w+$"#
  static let functionPattern = #"^ *(\w+ |@\w+ )*(func|init|subscript)\b"#

  static let sources = files(under: ["Sources"], endings: [".swift"])
  static let everything = files(
    under: ["Sources", "CSupport", "Tests", "Examples", "Benchmarks"],
    endings: [".swift", ".c", ".h", ".cpp", ".hpp", ".S", ".py", ".sh"])

  @Test func thereAreFilesToCheck() {
    #expect(Self.sources.count > 25)
    #expect(Self.everything.count > 50)
  }

  @Test func modulesImportOnlyModulesAboveThem() {
    for file in Self.sources {
      let module = file.path.split(separator: "/")[1]
      guard let rank = Self.modules.firstIndex(of: String(module)) else {
        Issue.record("\(module) is not in the order of modules")
        continue
      }
      for line in file.lines where line.contains("import Volip") {
        let imported = String(line.split(separator: " ").last!)
        let other = Self.modules.firstIndex(of: imported)
        #expect(other != nil && other! < rank, "\(file.path): \(line)")
      }
    }
  }

  @Test func theCoreDependsOnNothingButLibpmemLibelfAndTheToolchain() {
    let allowed: Set<String> = [
      "Glibc", "Synchronization", "Swift", "CLibpmem", "CLibelf", "CVolipPersistence",
      "CVolipWriteSet", "CVolimem", "CVolip",
    ]
    let toolsAlso: Set<String> = ["ArgumentParser"]
    for file in Self.sources {
      for line in file.lines where line.contains("import ") && !line.hasPrefix("//") {
        guard let range = line.range(of: Self.importPattern, options: .regularExpression)
        else { continue }
        let module = String(line[range].split(separator: " ").last!)
        #expect(
          allowed.contains(module) || Self.modules.contains(module)
            || file.path.hasPrefix("Sources/VolipTool/") && toolsAlso.contains(module),
          "\(file.path): \(line)")
      }
    }
  }

  @Test func onlyVolipPersistenceFlushesOrFences() {
    for file in Self.sources where !file.path.hasPrefix("Sources/VolipPersistence") {
      for word in ["pmem_", "sfence", "clwb"] {
        #expect(!file.text.contains(word), "\(file.path): \(word)")
      }
    }
  }

  @Test func unsafeCodeStandsOnlyInFilesNamedSo() {
    let signs = ["Unsafe", "withMemoryRebound", "assumingMemoryBound", "unsafeBitCast"]
    for file in Self.sources where !file.name.hasSuffix("+Unsafe.swift") {
      for line in file.lines where !line.trimmingCharacters(in: .whitespaces).hasPrefix("//") {
        for sign in signs { #expect(!line.contains(sign), "\(file.path): \(line)") }
      }
    }
  }

  @Test func filesOfUnsafeCodeSayWhyItIsSafe() {
    for file in Self.sources where file.name.hasSuffix("+Unsafe.swift") {
      #expect(file.text.contains("SAFETY:"), "\(file.path)")
    }
  }

  @Test func filesStayBelow700LinesAnd100Columns() {
    for file in Self.everything {
      #expect(file.lines.count <= 700, "\(file.path) has \(file.lines.count) lines")
      for (number, line) in file.lines.enumerated() {
        #expect(line.count <= 100, "\(file.path):\(number + 1)")
      }
    }
  }

  @Test func examplesOfCollectionsStayBelow120Lines() {
    let examples = Self.files(under: ["Examples/Collections"], endings: [".swift"])
    #expect(examples.count >= 5)
    for file in examples { #expect(file.lines.count < 120, "\(file.path)") }
  }

  /// A function ends where a line closes with the indentation of its `func`.
  @Test func functionsStopAt70Lines() {
    for file in Self.sources {
      for (number, line) in file.lines.enumerated() {
        guard line.range(of: Self.functionPattern, options: .regularExpression) != nil
        else { continue }
        let indentation = line.prefix { $0 == " " }
        let end = file.lines[number...].firstIndex { $0 == indentation + "}" }
        #expect((end ?? number) - number < 70, "\(file.path):\(number + 1)")
      }
    }
  }

  @Test func nothingIsLeftForLater() {
    let signs = ["TO" + "DO", "FIX" + "ME", "XX" + "X", "[Nn]ot imple" + "mented"]
    for file in Self.everything {
      for sign in signs {
        let found = file.text.range(of: "\\b\(sign)\\b", options: .regularExpression)
        #expect(found == nil, "\(file.path): \(sign)")
      }
    }
  }

  @Test func everyFileOfTheCoreOpensWithWhatItOwns() {
    for file in Self.sources {
      let first = file.lines.prefix(12)
      #expect(first.contains { $0.hasPrefix("//") }, "\(file.path)")
    }
  }

  @Test func everyPublicDeclarationOfTheFaceIsDocumented() {
    for file in Self.sources where file.path.hasPrefix("Sources/VolipMem") {
      var previous: Substring = ""
      for (number, line) in file.lines.enumerated() {
        let text = line.trimmingCharacters(in: .whitespaces)
        if text.hasPrefix("public "), !text.hasPrefix("public init() {}") {
          let before = previous.trimmingCharacters(in: .whitespaces)
          #expect(before.hasPrefix("///") || before.hasPrefix("@"), "\(file.path):\(number + 1)")
        }
        previous = line
      }
    }
  }
}
