// volip stat: what a program does with a pool, now. The program publishes counts in the pool's file
// (LiveStatistics); nothing is asked of it. Of a wrapped program, ProcessStat.swift.

import ArgumentParser
import CVolipPersistence
import Glibc
import VolipMem

struct Stat: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Shows what a program does with a pool, or in its epochs.",
    discussion: """
      Sections, pages and lines a second, the log's use, and what the tracker costs. Exit status \
      1 where no program uses the pool. With the number of a process that `volip run --pmap` \
      wraps: its epochs, and how long their commits took.
      """)

  @Argument(help: "The pool file, or a wrapped program's process.", completion: .file())
  var path: String

  @Option(help: "Seconds between two looks.")
  var interval = 1.0

  @Option(help: "How often to look; each is a line.")
  var samples = 1

  @OptionGroup var output: Output

  func validate() throws {
    guard interval > 0, interval <= 3600, samples > 0 else {
      throw ValidationError("An interval up to an hour and a number of samples above 0.")
    }
  }

  func run() throws {
    try output.run {
      if let process = pid_t(path), access(path, F_OK) != 0 {
        return try ProcessStat(process: process, output: output).run(samples, interval)
      }
      var before = try Sample(path)
      for _ in 0..<samples {
        usleep(UInt32(interval * 1e6))
        let now = try Sample(path)
        show(now, since: before)
        before = now
        fflush(nil)
      }
    }
  }

  private struct Sample {
    let statistics: LiveStatistics
    let time = ContinuousClock.now
    let ticks = cvp_ticks()

    init(_ path: String) throws {
      guard try PoolView.isInUse(path), let found = try LiveStatistics.read(path) else {
        _ = try PoolView(path)  // another reason, perhaps
        throw Refusal("\(path) is used by no program.")
      }
      statistics = found
    }
  }

  /// The counts are what somebody wrote to a file: any number.
  private func whole(_ value: Double) -> String {
    Int(exactly: value.rounded()).map { "\($0)" } ?? "?"
  }

  private func show(_ now: Sample, since before: Sample) {
    let (one, other) = (now.statistics, before.statistics)
    let seconds = (now.time - before.time) / .seconds(1)
    let ticksPerNanosecond = Double(now.ticks - before.ticks) / (seconds * 1e9)
    func rate(_ field: KeyPath<LiveStatistics, UInt64>) -> Double {
      let (now, before) = (one[keyPath: field], other[keyPath: field])
      // Another program, whose counts begin at zero.
      let isSame = one.generation == other.generation && now >= before
      return (Double(isSame ? now - before : now) / seconds).rounded()
    }
    func nanoseconds(_ ticks: UInt64) -> Double { (Double(ticks) / ticksPerNanosecond).rounded() }
    let logUsed = one.logHead >= one.logTail ? one.logHead - one.logTail : 0
    let tracker = one.tracker?.rawValue
    output.show([
      ("path", .text(path)), ("process", Json(Int(one.process))),
      ("sectionsPerSecond", .decimal(rate(\.committed))),
      ("rolledBackPerSecond", .decimal(rate(\.rolledBack))),
      ("pagesPerSecond", .decimal(rate(\.pages))), ("linesPerSecond", .decimal(rate(\.lines))),
      ("logBytesPerSecond", .decimal(rate(\.logHead))), ("sections", Json(one.committed)),
      ("logUsedBytes", Json(logUsed)), ("logBytes", Json(one.logBytes)),
      ("lastLsn", Json(one.lastLsn)), ("tracker", tracker.map { .text($0) } ?? .null),
      ("trapNs", .decimal(nanoseconds(one.trapTicks))),
      ("comparisonNs", .decimal(nanoseconds(one.comparisonTicks))),
    ]) {
      [
        "\(whole(rate(\.committed))) sections/s, \(whole(rate(\.rolledBack))) rolled back/s, "
          + "\(whole(rate(\.pages))) pages/s, \(whole(rate(\.lines))) lines/s, log "
          + "\(whole(Double(logUsed) / Double(max(one.logBytes, 1)) * 100)) % of "
          + "\(ByteCount.text(one.logBytes)), \(tracker ?? "no tracker"): trap "
          + "\(whole(nanoseconds(one.trapTicks))) ns, comparison "
          + "\(whole(nanoseconds(one.comparisonTicks))) ns"
      ]
    }
  }
}
