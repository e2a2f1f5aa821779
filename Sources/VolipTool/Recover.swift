// volip recover: what an open does to the file, without a program.

import ArgumentParser
import VolipMem

struct Recover: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Applies what a killed program left in the log.",
    discussion: "Every open does the same: a pool need not be recovered before it is used.")

  @Argument(help: "The pool file.", completion: .file())
  var path: String

  @OptionGroup var output: Output

  func run() throws {
    try output.run {
      let summary = try PoolRecovery.run(path)
      output.show([
        ("path", .text(path)), ("replayed", Json(summary.replayed)),
        ("lastLsn", Json(summary.lastLsn)),
      ]) {
        ["\(path): \(summary.replayed) records applied, up to section \(summary.lastLsn)"]
      }
    }
  }
}
