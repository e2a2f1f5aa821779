import Glibc
import Subprocess
import SystemPackage
import TestSupport
import Testing

@testable import VolipMem
@testable import VolipPersistence

/// A process that is killed at random times and at every named point, over and over, with every
/// tracker of the host and of the guest: no acknowledged section is lost and none is torn.
///
/// `VOLIP_KILLS` sets how many (`make test-kills`); the end of each line on standard output counts.
@Suite struct KillSoakTests {
  struct Tally {
    var kills = 0
    var lost = 0
    var torn = 0
    var points: [String: Int] = [:]

    mutating func add(_ other: Tally) {
      kills += other.kills
      lost += other.lost
      torn += other.torn
      points.merge(other.points, uniquingKeysWith: +)
    }
  }

  /// Kills after which a new pool begins: its log grows only once, itself ten times.
  static let killsPerPool = 40

  @Test func noAcknowledgedSectionIsLostAndNoneIsTornWhereverTheProcessDies() async throws {
    let generator = SeededGenerator.forTest()
    let kills = Guest.count("VOLIP_KILLS", short: 60)
    let reason = await Guest.whyUnavailable
    if let reason { print("kills in guest mode skipped: \(reason)") }
    let kinds = TrackerKind.hostKinds + (reason == nil ? TrackerKind.guestKinds : [])
    let tally = try await withThrowingTaskGroup(of: Tally.self) { group in
      for (index, kind) in kinds.enumerated() {
        let share = (kills + kinds.count - 1 - index) / kinds.count
        var own = generator
        for _ in 0..<index { _ = own.next() as UInt64 }
        let seeded = SeededGenerator(seed: own.next())
        group.addTask { try await soak(kind, kills: share, seeded) }
      }
      var sum = Tally()
      for try await each in group { sum.add(each) }
      return sum
    }
    print("killed at \(tally.points.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" })")
    print("kills \(tally.kills)\nlost \(tally.lost)\ntorn \(tally.torn)")
    #expect(tally.kills == kills || reason != nil)
    #expect(tally.lost == 0 && tally.torn == 0)
    if kills >= 1000 {
      let unreached = KillPoint.ofExclusiveSections.filter { tally.points[$0.rawValue] == nil }
      #expect(unreached == [])
    }
  }

  private func soak(
    _ kind: TrackerKind, kills: Int, _ seeded: SeededGenerator
  ) async throws -> Tally {
    var generator = seeded
    let isGuest = TrackerKind.guestKinds.contains(kind)
    let base = isGuest ? Guest.environment(0) : ["SWIFT_BACKTRACE": "enable=no"]
    var tally = Tally()
    var points = KillPoint.ofExclusiveSections.shuffled(using: &generator)
    var acknowledged: UInt64 = 0
    var directory = TemporaryDirectory()
    for kill in 0..<kills {
      var environment = base
      var point: KillPoint?
      if kill % 4 != 0 {
        point = points.removeLast()
        if points.isEmpty { points = KillPoint.ofExclusiveSections.shuffled(using: &generator) }
        let most = Self.passesMax(point!)
        environment[KillPoint.switchName] =
          "\(point!.rawValue):\(Int.random(in: 1...most, using: &generator))"
      }
      // A log grows in its first minutes alone.
      if kill % Self.killsPerPool == 0 || point == .logGrown {
        directory = TemporaryDirectory()
        acknowledged = 0
      }
      let path = directory.file("bank.pool")
      if access(path, F_OK) != 0 {
        let made = try await Helper.run("volip-test-helper", ["make-bank", path])
        try #require(made.status == .exited(0), "\(made.errors)")
      }
      // An audit leaves nothing to recover: what dies in recovery needs a kill before.
      if [.recovery, .recoverySecured, .replayed, .recovered].contains(point) {
        let before = try await run(
          path, kind, base, limit: UInt64.random(in: 5...40, using: &generator))
        acknowledged = max(acknowledged, before.last)
      }
      let limit = UInt64.random(in: point == nil ? 0...300 : 150...300, using: &generator)
      let end = try await run(path, kind, environment, limit: limit)
      acknowledged = max(acknowledged, end.last)
      tally.kills += 1
      tally.points[end.isOurs || point == nil ? "random" : point!.rawValue, default: 0] += 1
      try await judge(path, isGuest && kill % 4 == 1 ? base : [:], kill, &acknowledged, &tally)
    }
    return tally
  }

  /// How often a point is passed in the time that it is given, about.
  private static func passesMax(_ point: KillPoint) -> Int {
    switch point {
    case .recovery, .recoverySecured, .recovered, .imageGrown, .logGrown: 1
    case .replayed, .rollBack: 3
    case .checkpoint, .checkpointFlushed, .superblockCopy, .checkpointed: 12
    default: 120
    }
  }

  /// Runs transfers until the process dies, by itself or when it has acknowledged `limit` of them.
  private func run(
    _ path: String, _ kind: TrackerKind, _ environment: [String: String], limit: UInt64
  ) async throws -> (last: UInt64, isOurs: Bool) {
    let overrides = Dictionary(
      uniqueKeysWithValues: environment.map { (Environment.Key(stringLiteral: $0), Optional($1)) })
    let result = try await Subprocess.run(
      .path(FilePath("\(Helper.productDirectory)/volip-test-helper")),
      arguments: ["transfer", path, kind.rawValue],
      environment: .inherit.updating(overrides), input: .none, output: .sequence,
      error: .discarded
    ) { execution in
      var bytes: [UInt8] = []
      var isOurs = false
      for try await buffer in execution.standardOutput {
        bytes.append(contentsOf: buffer.withUnsafeBytes { Array($0) })
        if !isOurs, bytes.count >= Int(limit) * 8 {
          isOurs = true
          try? execution.send(signal: .kill)
        }
      }
      return (bytes, isOurs)
    }
    let (bytes, isOurs) = result.closureResult
    let isStopped = environment[KillPoint.switchName]?.hasPrefix("pageFault") == true
    #expect(result.terminationStatus == .signaled(SIGKILL) || isStopped)
    guard bytes.count >= 8 else { return (0, isOurs) }
    let last = bytes[(bytes.count / 8 - 1) * 8..<bytes.count / 8 * 8]
    return (last.reversed().reduce(0) { $0 << 8 | UInt64($1) }, isOurs)
  }

  private func judge(
    _ path: String, _ environment: [String: String], _ kill: Int, _ acknowledged: inout UInt64,
    _ tally: inout Tally
  ) async throws {
    let audit = try await Helper.run(
      "volip-test-helper", ["audit-bank", path], environment: environment)
    let words = audit.output.split(whereSeparator: \.isWhitespace)
    try #require(words.count == 6, "kill \(kill): \(audit.output) \(audit.errors)")
    let found = try #require(UInt64(words[1]))
    if found < acknowledged { tally.lost += 1 }
    if found > acknowledged + 1 || words[3] != "0" || words[5] != "true" {
      tally.torn += 1
      print("kill \(kill): acknowledged \(acknowledged), \(audit.output)")
    }
    acknowledged = found
  }
}
