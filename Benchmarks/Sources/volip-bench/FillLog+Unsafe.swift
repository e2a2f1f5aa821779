// fill-log: the child process of the replay benchmark. Fills a pool's log with committed sections
// and ends as a crash would, so that nothing is checkpointed.

import ArgumentParser
import Glibc
import VolipMem

struct FillLog: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Fills a log and ends without closing the pool.", shouldDisplay: false)

  @Option var path: String
  @Option var shape: RecordShape
  @Option var records: Int

  /// Where the records' lines are: larger than the caches near a core, small enough to fill fast.
  static let areaBytes = 32 << 20

  func run() throws {
    let pool = try Pool.open(path, options: PoolConfiguration.plain.options)
    let area = try pool.section { section in
      try pool.root("area", in: &section) { try pool.allocate(UInt64.self, count: areaWords) }
    }.pointee
    try pool.checkpoint()
    var generator = FastGenerator(seed: 0x10C)
    let slotWords = shape == .oneLine ? 8 : 64 * 1024 / 8
    let slots = UInt64(areaWords / slotWords)
    // Differs from what the fills before have left: a line that does not change has no record.
    let salt = UInt64.random(in: 0 ... .max) << 32
    for record in 0..<records {
      let slot = Int(generator.below(slots))
      try pool.section { _ in
        for line in 0..<shape.lineCount {
          // SAFETY: a slot has at least lineCount lines of 8 words, and the area has `slots` slots.
          area[slot * slotWords + line * 8] = salt ^ UInt64(record * 1024 + line)
        }
      }
    }
    _exit(0)
  }

  private var areaWords: Int { Self.areaBytes / 8 }

  /// Runs this command in a child and waits for its end.
  static func runInChild(_ path: String, _ shape: RecordShape, recordCount: Int) throws {
    let arguments = [
      "volip-bench", "fill-log", "--path", path, "--shape", shape.rawValue, "--records",
      "\(recordCount)",
    ]
    var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
    defer { for word in words { free(word) } }
    var child: pid_t = 0
    // SAFETY: argv is null-terminated and lives until the call returns.
    let result = posix_spawn(&child, "/proc/self/exe", nil, nil, &words, environ)
    guard result == 0 else { throw BenchError("posix_spawn failed with errno \(result)") }
    var status: Int32 = 0
    while waitpid(child, &status, 0) < 0 {
      guard errno == EINTR else { throw BenchError("waitpid failed with errno \(errno)") }
    }
    guard status == 0 else { throw BenchError("fill-log ended with status \(status)") }
  }
}
