// volip check: whether a pool is consistent. Changes nothing and locks nothing.

import ArgumentParser
import VolipMem

struct Check: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Says whether a pool is consistent.",
    discussion: """
      Looks at both superblocks, every record of the log, and the heap as it is when they are \
      applied; the file stays as it is. Exit status: 0 consistent, 2 inconsistent, 3 consistent \
      but not closed (with --closed), 4 in use, 6 no pool. So it can be the checker of pmreorder.
      """)

  @Argument(help: "The pool file.", completion: .file())
  var path: String

  @Flag(help: "Superblocks, log, heap header and roots; not each page and block.")
  var quick = false

  @Flag(help: "A pool that recovery would change is not all right: exit status 3.")
  var closed = false

  @Flag(help: "Repair what can be repaired; needs --backup or --dry-run.")
  var repair = false

  @Option(help: "Where the file is copied to before it is repaired: a new name.")
  var backup: String?

  @Flag(help: "Say what --repair would do, and change nothing.")
  var dryRun = false

  @Flag(
    help: """
      List words of blocks that hold an address of the last run's other memory: needs --maps. Exit \
      status 2 if there are any.
      """)
  var pointers = false

  @Option(
    help: "What /proc/PID/maps of the program said (volip copy --maps saves it).",
    completion: .file())
  var maps: String?

  @OptionGroup var output: Output

  func validate() throws {
    guard pointers == (maps != nil) else {
      throw ValidationError("--pointers and --maps go together.")
    }
    guard repair == (dryRun || backup != nil), !(dryRun && backup != nil) else {
      throw ValidationError("--repair goes with one of --backup FILE and --dry-run.")
    }
    guard !(repair && (quick || pointers)) else {
      throw ValidationError("--repair looks at everything but pointers.")
    }
    guard !(quick && pointers) else { throw ValidationError("--pointers looks at each block.") }
  }

  func run() throws {
    try output.run {
      guard try !PoolView.isInUse(path) else { throw PoolError.inUse(path: path) }
      let repairs = repair ? try PoolRepair.run(path, backup: backup) : []
      if dryRun, !repairs.isEmpty { return try showPlan(repairs) }
      let view = try PoolView(path)
      var report = quick ? try view.checkQuickly() : try fullCheck(view)
      if let maps {
        let found = try ForeignPointers.find(in: view, report, mapsFile: maps)
        report = HeapReport(report, adding: found)
      }
      try view.requireUndisturbed()
      let verdict = Verdict(report, needsRecovery: view.needsRecovery, mustBeClosed: closed)
      show(view, report, verdict, repairs)
      guard verdict == .consistent else { throw verdict.status }
    }
  }

  /// All metadata, then every page in use.
  private func fullCheck(_ view: PoolView) throws -> HeapReport {
    let report = try view.check()
    guard report.isConsistent else { return report }
    return HeapReport(report, adding: try unreadablePages(view))
  }

  private func unreadablePages(_ view: PoolView) throws -> [HeapProblem] {
    var problems: [HeapProblem] = []
    var progress = Progress("checking", output)
    defer { progress.end() }
    let runs = try view.runs().filter { !$0.isFree }
    let total = runs.reduce(0) { $0 + $1.pages.count }
    var done = 0
    for run in runs {
      for first in stride(from: run.pages.lowerBound, to: run.pages.upperBound, by: 16384) {
        let part = first..<min(first + 16384, run.pages.upperBound)
        if let page = view.unreadablePage(in: part) {
          let offset = PoolOffset(bytes: UInt64(page) << 12)
          problems.append(HeapProblem(offset: offset, reason: "page cannot be read"))
        }
        done += part.count
        progress.show(UInt64(done), of: UInt64(total))
      }
    }
    return problems
  }

  /// A pool that would be repaired is not consistent.
  private func showPlan(_ repairs: [String]) throws {
    output.show([
      ("path", .text(path)), ("verdict", .text(Verdict.inconsistent.rawValue)),
      ("quick", .bool(false)), ("problems", .list([])), ("needsRecovery", .null),
      ("logRecords", .null), ("lastLsn", .null), ("blocks", .null),
      ("allocatedBlockBytes", .null), ("repairs", .list(repairs.map { .text($0) })),
    ]) { repairs.map { "\(path): would be repaired: \($0)" } }
    throw ExitStatus.inconsistent
  }

  private func show(
    _ view: PoolView, _ report: HeapReport, _ verdict: Verdict, _ repairs: [String]
  ) {
    let problems = report.problems.map { problem in
      Json.object([("offset", Json(problem.offset.bytes)), ("reason", .text(problem.reason))])
    }
    let word = output.verdict(verdict.rawValue, isGood: verdict == .consistent)
    let log = view.needsRecovery ? "; \(view.records.count) records to be recovered" : ""
    let heap = quick ? "" : ", \(report.blocks.count) blocks"
    let line = "\(Output.printable(path)): \(word)\(heap)\(log)"
    let fields: [(String, Json)] = [
      ("path", .text(path)), ("verdict", .text(verdict.rawValue)), ("quick", .bool(quick)),
      ("problems", .list(problems)), ("needsRecovery", .bool(view.needsRecovery)),
      ("logRecords", Json(view.records.count)), ("lastLsn", Json(view.lastLsn)),
      ("blocks", quick ? .null : Json(report.blocks.count)),
      ("allocatedBlockBytes", quick ? .null : Json(report.allocatedBytes)),
      ("repairs", .list(repairs.map { .text($0) })),
    ]
    output.show(fields, verdict: line) {
      repairs.map { "\(path): repaired: \($0)" } + report.problems.map { "\(path): \($0)" }
    }
  }
}

enum Verdict: String {
  case consistent
  case inconsistent
  case needsRecovery = "needs recovery"

  init(_ report: HeapReport, needsRecovery: Bool, mustBeClosed: Bool) {
    self =
      !report.isConsistent
      ? .inconsistent : needsRecovery && mustBeClosed ? .needsRecovery : .consistent
  }

  var status: ExitCode {
    switch self {
    case .consistent: ExitCode(0)
    case .inconsistent: ExitStatus.inconsistent
    case .needsRecovery: ExitStatus.needsRecovery
    }
  }
}
