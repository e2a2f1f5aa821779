// volip create: a new pool.

import ArgumentParser
import VolipMem

struct Create: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Makes a pool.",
    discussion: "The file is sparse: it takes room as memory is used.")

  @Argument(help: "A name that does not exist yet.", completion: .file())
  var path: String

  @Option(help: "Bytes of the file, 1M to 8T; K, M, G and T are powers of 1,024.")
  var size: ByteCount

  @Option(help: "First size of the log; 1/32 of the file, at most 32M, if not given.")
  var log: ByteCount?

  @Option(help: "What the log may grow to; 1/8 of the file, at most 1G, if not given.")
  var logMax: ByteCount?

  @OptionGroup var output: Output

  func run() throws {
    try output.run {
      var options = Pool.Options()
      options.logBytes = log?.bytes
      options.logBytesMax = logMax?.bytes
      let pool = try Pool.create(path, byteCount: size.bytes, options: options)
      let geometry = pool.engine.superblock.geometry
      try pool.close()
      output.show([
        ("path", .text(path)), ("fileBytes", Json(geometry.fileBytes)),
        ("baseAddress", Json(geometry.baseAddress)), ("logBytes", Json(geometry.logBytes)),
      ]) {
        ["\(path): \(ByteCount.text(geometry.fileBytes)) at \(hexadecimal(geometry.baseAddress))"]
      }
    }
  }
}
