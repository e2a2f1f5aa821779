// volip export: a pool in a file that can be sent anywhere.

import ArgumentParser
import VolipMem

struct Export: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Writes a pool to a portable file.",
    discussion: """
      The file has the pages in use, each chunk with a checksum. One without its end is refused by
      volip import.
      """)

  @Argument(help: "The pool file.", completion: .file())
  var path: String

  @Argument(help: "The exported file: a name that does not exist yet.", completion: .file())
  var target: String

  @OptionGroup var output: Output

  func run() throws {
    try output.run {
      var progress = Progress("exporting", output)
      defer { progress.end() }
      let summary = try PoolExport.write(path, to: target) { progress.show($0, of: $1) }
      output.show([
        ("path", .text(path)), ("target", .text(target)), ("pages", Json(summary.pages)),
        ("lastLsn", Json(summary.lastLsn)),
      ]) {
        ["\(target): \(ByteCount.text(summary.pages << 12)), up to section \(summary.lastLsn)"]
      }
    }
  }
}
