// volip extract: the plain file that a wrapped program's pool holds.

import ArgumentParser
import Glibc
import VolipWrap

struct Extract: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Writes the file that a pool of `volip run --pmap` holds.",
    discussion: "The pool stays as it is, but for its recovery. FILE is made, or overwritten.")

  @Argument(help: "The pool.")
  var pool: String

  @Argument(help: "The file to write.")
  var file: String

  @OptionGroup var output: Output

  func run() throws {
    try output.run {
      let target = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0o666)
      guard target >= 0 else {
        throw Refusal("\(file) cannot be opened: \(errorText(errno)).")
      }
      defer { close(target) }
      let opened = try FilePool.open(pool, options: EngineOptions())
      try opened.extract(to: target)
      try opened.engine.close()
      output.show([("path", .text(pool)), ("target", .text(file))]) { [] }
    }
  }
}
