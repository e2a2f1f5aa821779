// volip bench: what sections cost on this machine and file system, in a few seconds. The package's
// own benchmarks (make bench) measure more, and compare.
//
// SAFETY: words are stored inside a block of wordCount words that the pool gave.

import ArgumentParser
import Glibc
import VolipMem

struct Bench: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Measures sections on this machine and file system.",
    discussion: """
      In a pool of its own, which is removed again. Medians of whole sections: their writes and \
      their commit.
      """)

  @Argument(help: "A directory on the file system to be measured.", completion: .directory)
  var directory = "."

  @Option(help: "Sections for each line.")
  var sections = 2000

  @OptionGroup var output: Output

  private static let wordCount = 1 << 20

  func validate() throws {
    guard (1...10_000_000).contains(sections) else { throw ValidationError("1 to 10000000.") }
  }

  func run() throws {
    try output.run {
      let path = "\(directory)/volip-bench-\(getpid()).pool"
      let pool = try Pool.create(path, byteCount: 128 << 20)
      unlink(path)  // whatever ends this process, nothing is left
      let (tracked, announced) = try pool.section { section in
        let count = Self.wordCount
        return (
          try pool.allocate(UInt64.self, count: count),
          try section.allocateAnnounced(byteCount: count * 8).bindMemory(
            to: UInt64.self, capacity: count)
        )
      }
      var results: [Result] = []
      for updates in [1, 100] {
        results.append(
          try measure("found by the tracker", updates) { random in
            try pool.section { _ in
              for _ in 0..<updates { tracked[random.next()] &+= 1 }
            }
          })
        results.append(
          try measure("announced", updates) { random in
            try pool.section(.announced) { section in
              for _ in 0..<updates {
                let word = announced + random.next()
                word.pointee &+= 1
                section.announce(word, byteCount: 8)
              }
            }
          })
      }
      show(results, pool)
      try pool.close()
    }
  }

  private struct Result {
    let writes: String
    let updates: Int
    let sectionNanoseconds: Double

    var updatesPerSecond: Double { (Double(updates) * 1e9 / sectionNanoseconds).rounded() }
  }

  /// Places that repeat from run to run.
  private struct Places {
    private var state: UInt64 = 1

    mutating func next() -> Int {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int(state >> 40) % Bench.wordCount
    }
  }

  private func measure(
    _ writes: String, _ updates: Int, _ section: (inout Places) throws -> Void
  ) throws -> Result {
    var progress = Progress("measuring", output)
    defer { progress.end() }
    var random = Places()
    let clock = ContinuousClock()
    var times: [Double] = []
    for number in 0..<sections {
      let time = try clock.measure { try section(&random) }
      times.append(time / .nanoseconds(1))
      progress.show(UInt64(number), of: UInt64(sections))
    }
    times.sort()
    return Result(writes: writes, updates: updates, sectionNanoseconds: times[times.count / 2])
  }

  private func show(_ results: [Result], _ pool: Pool) {
    output.show([
      ("tracker", .text(pool.tracker.rawValue)),
      ("persistence", .text(pool.persistencePath.rawValue)),
      (
        "results",
        .list(
          results.map {
            .object([
              ("writes", .text($0.writes)), ("updates", Json($0.updates)),
              ("sectionNs", .decimal($0.sectionNanoseconds.rounded())),
              ("updatesPerSecond", .decimal($0.updatesPerSecond)),
            ])
          })
      ),
    ]) {
      table(
        [
          ("tracker", pool.tracker.rawValue), ("persistence", pool.persistencePath.rawValue),
        ]
          + results.map {
            (
              "\($0.updates) updates, \($0.writes)",
              "\(Int($0.sectionNanoseconds) / 100 * 100) ns a section, "
                + "\(Int($0.updatesPerSecond)) updates/s"
            )
          })
    }
  }
}
