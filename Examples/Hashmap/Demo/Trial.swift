// Trial: the parent's part, from the first worker to the table.
//
//   worker -> kill -> (once in four: another worker, killed early) -> open, audit, close -> worker
//
// A worker's first report names the section that it found, so a recovery by a worker is judged like
// one by the parent. The last worker ends by itself and leaves a closed pool.

import Glibc
import VolipMem

struct Trial {
  private let pool: DemoPool
  private let worker: WorkerProcess
  private var sabotage: Sabotage?
  private var model: Model
  /// The last section that a worker reported as durable.
  private var acknowledged: UInt64 = 0
  private(set) var results: Results

  /// Sections of the worker that ends by itself.
  static let lastSections: UInt64 = 500

  init(pool: DemoPool, workload: Workload, sabotage: Sabotage?) {
    self.pool = pool
    self.sabotage = sabotage
    worker = WorkerProcess(pool: pool, seed: workload.seed)
    model = Model(workload)
    results = Results(workload)
  }

  /// Ends at the first finding: after it the model does not apply any more.
  mutating func run(kills: Int, seconds: Int, lifetimes: Lifetimes) async throws {
    var lifetimes = lifetimes
    let end = ContinuousClock.now + .seconds(seconds)
    let progress = Progress(total: kills)
    while results.kills < kills, ContinuousClock.now < end, results.findings.isClean {
      try await kill(after: lifetimes.next())
      if results.kills < kills, lifetimes.leavesRecoveryToWorker() {
        try await kill(after: lifetimes.early())
      }
      try audit()
      progress.show(results)
    }
    progress.clear()
    guard results.findings.isClean else { return }
    if results.kills < kills {
      printError("hashmap-demo: --seconds \(seconds) are over after \(results.kills) kills")
    }
    take(try await worker.run(sections: Self.lastSections))
    try audit()
  }

  private mutating func kill(after lifetime: Duration) async throws {
    let reports = try await worker.run(lifetime: lifetime)
    results.kills += 1
    take(reports)
  }

  /// The first report names what the worker found: that, or the section that was under way when
  /// the worker before was killed. Each further one is the next section.
  private mutating func take(_ reports: [Report]) {
    for (index, report) in reports.enumerated() {
      if report.section < acknowledged {
        results.findings.lost += acknowledged - report.section
        results.findings.remarks.append(
          "the worker found section \(report.section) after \(acknowledged) was acknowledged")
      } else if report.section - acknowledged > 1 || index > 0 && report.section == acknowledged {
        results.findings.noteTorn("a worker reported \(report.section) after \(acknowledged)")
      }
      acknowledged = report.section
      if index > 0 { results.add(report) }
    }
  }

  /// Opening the pool is the recovery.
  private mutating func audit() throws {
    guard results.findings.isClean else { return }
    do {
      let pool = try pool.open()
      if try sabotage?.strike(pool, acknowledged: acknowledged) == true { sabotage = nil }
      var audit = Audit(pool, acknowledged: acknowledged)
      try audit.run(&model)
      results.findings = audit.findings
      (results.sections, acknowledged) = (audit.section, audit.section)
      if let pool { results.tracker = pool.tracker.rawValue }
      try pool?.close()
    } catch let error as PoolError where error.exitCode != Self.hostUnsupported {
      results.findings.noteTorn("the pool after section \(acknowledged): \(error)")
    }
  }

  /// `PoolError.exitCode` of what says nothing about the pool.
  private static let hostUnsupported: Int32 = 5
}
