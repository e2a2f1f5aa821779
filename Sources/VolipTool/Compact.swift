// volip compact: as volip trim, after the heap's free end was taken out of use.

import ArgumentParser
import VolipMem

struct Compact: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Takes the free end of a pool's heap out of use, and trims it.",
    discussion: """
      Native pointers cannot move: free pages between blocks stay where they are, without blocks. \
      Exit status 3: recover the pool first.
      """)

  @Argument(help: "The pool file.", completion: .file())
  var path: String

  @OptionGroup var output: Output

  func run() throws {
    try output.run {
      let summary = try PoolCompaction.run(path, lowersHighWater: true)
      Trim.show(summary, path, output)
    }
  }
}
