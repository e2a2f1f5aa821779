import Glibc
import Subprocess
import SystemPackage
import TestSupport
import Testing
import VolipMem

/// Real kills: a process that moves money is killed with SIGKILL at random times. The helper is a
/// debug build, so kills hit every phase of a section, of checkpoints and of recovery.
@Suite struct KillTests {
  @Test(arguments: TrackerKind.hostKinds)
  func noAcknowledgedTransferIsLostAndNoneIsHalfDone(_ kind: TrackerKind) async throws {
    var generator = SeededGenerator.forTest("kills \(kind.rawValue)")
    let directory = TemporaryDirectory()
    let path = directory.file("bank.pool")
    #expect(try await Helper.run("volip-test-helper", ["make-bank", path]).status == .exited(0))
    var acknowledged: UInt64 = 0
    for kill in 0..<12 {
      let transfers = UInt64.random(in: 0...400, using: &generator)
      guard let last = try await transferAndKill(transfers, path, kind) else {
        print("skipped: \(kind.rawValue) is unavailable")
        return
      }
      acknowledged = max(acknowledged, last)
      let audit = try await Helper.run("volip-test-helper", ["audit-bank", path])
      acknowledged = try transfersFound(by: audit, kill: kill, acknowledged: acknowledged)
    }
  }
}

/// The same for collections: a dictionary, an array and a tracked word that sections change
/// together.
@Suite struct CollectionKillTests {
  @Test(arguments: [true, false])
  func noAcknowledgedSectionIsLostAndNoneIsHalfDone(isAudited: Bool) async throws {
    var generator = SeededGenerator.forTest("collection kills \(isAudited)")
    let directory = TemporaryDirectory()
    let path = directory.file("ledger.pool")
    var acknowledged: UInt64 = 0
    for kill in 0..<16 {
      let sections = UInt64.random(in: 0...(isAudited ? 200 : 3000), using: &generator)
      let arguments = ["collection-work", path] + (isAudited ? ["audit"] : [])
      let last = try await workAndKill(sections, arguments)
      guard kill > 0 || (last ?? 0) > 0 else { continue }
      acknowledged = max(acknowledged, try #require(last))
      let audit = try await Helper.run("volip-test-helper", ["collection-audit", path])
      acknowledged = try transfersFound(by: audit, kill: kill, acknowledged: acknowledged)
    }
    #expect(acknowledged > 0)
  }
}

/// How many transfers an audit found: all that were acknowledged, one more at most, none half done.
func transfersFound(
  by audit: Helper.Outcome, kill: Int, acknowledged: UInt64
) throws -> UInt64 {
  let words = audit.output.split(whereSeparator: \.isWhitespace)
  try #require(words.count == 6, "kill \(kill): \(audit.output) \(audit.errors)")
  let found = try #require(UInt64(words[1]))
  #expect(found == acknowledged || found == acknowledged + 1, "kill \(kill)")
  #expect(words[3] == "0" && words[5] == "true", "kill \(kill): \(audit.output)")
  return found
}

/// Starts transfers, kills the process when `count` of them were acknowledged, returns the last
/// number that arrived; nil where the tracker does not work.
func transferAndKill(
  _ count: UInt64, _ path: String, _ kind: TrackerKind, environment: [String: String] = [:]
) async throws -> UInt64? {
  try await workAndKill(count, ["transfer", path, kind.rawValue], environment: environment)
}

/// The same for any verb of the helper that prints numbers of 8 bytes.
func workAndKill(
  _ count: UInt64, _ arguments: [String], environment: [String: String] = [:]
) async throws -> UInt64? {
  let overrides = Dictionary(
    uniqueKeysWithValues: environment.map { (Environment.Key(stringLiteral: $0), Optional($1)) })
  let result = try await Subprocess.run(
    .path(FilePath("\(Helper.productDirectory)/volip-test-helper")),
    arguments: Arguments(arguments),
    environment: .inherit.updating(overrides), input: .none, output: .sequence, error: .discarded
  ) { execution in
    var bytes: [UInt8] = []
    var isKilled = false
    if count == 0 {
      try execution.send(signal: .kill)
      isKilled = true
    }
    for try await buffer in execution.standardOutput {
      bytes.append(contentsOf: buffer.withUnsafeBytes { Array($0) })
      if !isKilled, bytes.count >= Int(count) * 8 {
        try execution.send(signal: .kill)
        isKilled = true
      }
    }
    return bytes
  }
  if result.terminationStatus == .exited(1) { return nil }
  #expect(result.terminationStatus == .signaled(SIGKILL))
  let bytes = result.closureResult
  guard bytes.count >= 8 else { return 0 }
  let last = bytes[(bytes.count / 8 - 1) * 8..<bytes.count / 8 * 8]
  return last.reversed().reduce(0) { $0 << 8 | UInt64($1) }
}
