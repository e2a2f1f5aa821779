// volip copy: a whole pool of the state after one section, also while a program uses it.

import ArgumentParser
import VolipMem

struct Copy: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Copies a pool, also while a program uses it.",
    discussion: """
      The copy is the pool after one of its sections, whole or not there at all. The program does \
      not wait for it. One that fills its log faster than it can be read is not copied: exit \
      status 4.
      """)

  @Argument(help: "The pool file.", completion: .file())
  var path: String

  @Argument(help: "The copy: a name that does not exist yet.", completion: .file())
  var target: String

  @Option(
    help: "Save what /proc/PID/maps says of the program, for volip check --pointers.",
    completion: .file())
  var maps: String?

  @OptionGroup var output: Output

  func run() throws {
    try output.run {
      var progress = Progress("copying", output)
      defer { progress.end() }
      let copy = try PoolCopy(from: path, to: target) { progress.show($0, of: $1) }
      if let maps { try ForeignPointers.saveMaps(of: path, to: maps) }
      output.show([
        ("path", .text(path)), ("target", .text(target)), ("lastLsn", Json(copy.lastLsn)),
        ("copiedBytes", Json(copy.copiedBytes)), ("followedRecords", Json(copy.followedRecords)),
        ("attempts", Json(copy.attempts)),
      ]) {
        [
          "\(target): \(ByteCount.text(copy.copiedBytes)), up to section \(copy.lastLsn); "
            + "\(copy.followedRecords) records written meanwhile"
        ]
      }
    }
  }
}
