// volip import: a pool from such a file.

import ArgumentParser
import VolipMem

struct Import: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Makes a pool of a file that volip export wrote.",
    discussion: """
      The pool gets the address that it had, so that native pointers in it stay right.
      """)

  @Argument(help: "The exported file.", completion: .file())
  var path: String

  @Argument(help: "The pool: a name that does not exist yet.", completion: .file())
  var target: String

  @OptionGroup var output: Output

  func run() throws {
    try output.run {
      var progress = Progress("importing", output)
      defer { progress.end() }
      let summary = try PoolExport.read(path, to: target) { progress.show($0, of: $1) }
      output.show([
        ("path", .text(path)), ("target", .text(target)), ("pages", Json(summary.pages)),
        ("lastLsn", Json(summary.lastLsn)),
      ]) {
        ["\(target): \(ByteCount.text(summary.pages << 12)), up to section \(summary.lastLsn)"]
      }
    }
  }
}
