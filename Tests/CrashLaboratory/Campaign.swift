import Glibc
import TestBasics

/// Many recordings of all workloads, until enough crash images were different.
public struct Campaign: Sendable {
  public var workloads = Workload.all
  /// Different images in all, in equal shares of the workloads.
  public var distinct = 100_000
  public var seed: UInt64 = 1
  public var budget = Budget()
  /// Images at each moment of the program; a few at some moments, as many as spread a workload's
  /// share evenly, when nil.
  public var imagesPerPoint: Int?
  public var onlyPoint: Int?
  /// Starts no workload after one that failed.
  public var stopsAtFailure = false

  public init() {}

  private static let imagesPerPoint = 40

  /// Distinct images of each workload.
  private var quota: Int { (distinct + workloads.count - 1) / workloads.count }

  /// Runs one workload with this seed and those after it.
  public func run(_ workload: Workload) -> Findings {
    var findings = Findings()
    var seed = seed
    while findings.distinct < quota {
      findings.add(explore(workload, seed, distinctMax: quota - findings.distinct))
      if onlyPoint != nil || !findings.isClean { break }
      seed += 1
    }
    return findings
  }

  /// A workload that fails while it is recorded is a finding too.
  private func explore(_ workload: Workload, _ seed: UInt64, distinctMax: Int) -> Findings {
    do {
      let recording = try workload.record(seed: seed)
      var budget = budget
      budget.imagesPerPoint[0] = imagesPerPoint ?? Self.imagesPerPoint
      if imagesPerPoint == nil {
        let share = recording.pointCount * Self.imagesPerPoint / max(distinctMax, 1)
        budget.pointShare = UInt64(max(share, 1))
      }
      let explorer = try Explorer(recording, budget: budget)
      explorer.distinctMax = distinctMax
      explorer.onlyPoint = onlyPoint
      try explorer.run()
      return explorer.findings
    } catch {
      var findings = Findings()
      findings.unsound = 1
      findings.failures = ["\(workload.name), seed \(seed): \(error)"]
      return findings
    }
  }

  /// Runs all workloads, some at a time, and calls `report` as each ends.
  public func run(
    threads: Int, report: @Sendable @escaping (Workload, Findings) -> Void
  ) async -> Findings {
    await withTaskGroup(of: (Workload, Findings).self) { group in
      var waiting = workloads[...]
      func startNext() {
        guard let workload = waiting.popFirst() else { return }
        group.addTask { (workload, run(workload)) }
      }
      for _ in 0..<threads { startNext() }
      var total = Findings()
      while let (workload, findings) = await group.next() {
        report(workload, findings)
        total.add(findings)
        if total.isClean || !stopsAtFailure { startNext() }
      }
      return total
    }
  }
}

extension Findings {
  /// For people and programs: a word and a number a line.
  public var text: String {
    let numbers = [
      ("recordings", recordings), ("images", images), ("distinct", distinct),
      ("recoveries", recoveries), ("points", points),
      ("opened", opened), ("torn", torn), ("lost", lost), ("refused", refused),
      ("unstable", unstable), ("unsound", unsound),
    ]
    return numbers.map { "\($0.0) \($0.1)" }.joined(separator: "\n")
  }
}
