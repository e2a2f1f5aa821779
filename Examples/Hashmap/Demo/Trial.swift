// Trial: the parent's part, from the first worker to the table.
//
//   worker -> kill -> another worker, recovering -> open, audit, close -> worker ...
//
// The recovering worker is killed early once in four times, so that the audit recovers what it
// left; otherwise it does a few sections more and leaves a closed pool. A worker's greeting names
// the section that it found, so its recovery is judged like the parent's. The parent is on the
// host: what guests leave is recovered by both. The last worker ends by itself.

import ArgumentParser
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

  init(_ worker: WorkerProcess, _ workload: Workload, sabotage: Sabotage?) {
    self.worker = worker
    self.sabotage = sabotage
    pool = DemoPool(path: worker.pool, tracker: worker.mode == .host ? worker.tracker : nil)
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
      if results.kills < kills, lifetimes.killsRecovery() {
        try await kill(after: lifetimes.early())
      } else {
        try take(await worker.run(.sections(lifetimes.fewSections())))
      }
      try audit()
      progress.show(results)
    }
    progress.clear()
    guard results.findings.isClean else { return }
    if results.kills < kills {
      printError("hashmap-demo: --seconds \(seconds) are over after \(results.kills) kills")
    }
    try take(await worker.run(.sections(Self.lastSections)))
    try audit()
  }

  private mutating func kill(after lifetime: Duration) async throws {
    let account = try await worker.run(.killed(after: lifetime))
    results.kills += 1
    try take(account)
  }

  private mutating func take(_ account: Account) throws {
    guard let greeting = account.greeting else { return }
    guard greeting.mode == worker.mode else {
      printError("hashmap-demo: the worker is in mode \(greeting.mode.rawValue)")
      throw ExitCode.failure
    }
    (results.mode, results.tracker) = (greeting.mode, greeting.tracker)
    take(section: greeting.section, isGreeting: true)
    for report in account.reports {
      take(section: report.section, isGreeting: false)
      results.add(report)
    }
  }

  /// A greeting names what the worker found: the last section, or that which was under way when the
  /// worker before was killed. Each report is of the next section.
  private mutating func take(section: UInt64, isGreeting: Bool) {
    if section < acknowledged {
      results.findings.lost += acknowledged - section
      results.findings.remarks.append(
        "the worker found section \(section) after \(acknowledged) was acknowledged")
    } else if section - acknowledged > 1 || !isGreeting && section == acknowledged {
      results.findings.noteTorn("a worker reported \(section) after \(acknowledged)")
    }
    acknowledged = section
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
      try pool?.close()
    } catch let error as PoolError where error.exitCode != PoolError.hostUnsupported {
      results.findings.noteTorn("the pool after section \(acknowledged): \(error)")
    }
  }
}

extension PoolError {
  /// `exitCode` of what says nothing about the pool.
  static let hostUnsupported: Int32 = 5
}
