// volip trim: blocks of free pages go back to the file system.

import ArgumentParser
import VolipMem

struct Trim: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Gives the blocks of free pages back to the file system.",
    discussion: """
      No byte in use moves, and addresses stay what they are. \
      Exit status 3: recover the pool first.
      """)

  @Argument(help: "The pool file.", completion: .file())
  var path: String

  @OptionGroup var output: Output

  func run() throws {
    try output.run {
      let summary = try PoolCompaction.run(path, lowersHighWater: false)
      Self.show(summary, path, output)
    }
  }

  static func show(_ summary: PoolCompaction.Summary, _ path: String, _ output: Output) {
    let freed = summary.before > summary.after ? summary.before - summary.after : 0
    output.show([
      ("path", .text(path)), ("allocatedBytesBefore", Json(summary.before)),
      ("allocatedBytes", Json(summary.after)), ("loweredPages", Json(summary.loweredPages)),
    ]) {
      ["\(path): \(ByteCount.text(freed)) given back, \(ByteCount.text(summary.after)) left"]
    }
  }
}
