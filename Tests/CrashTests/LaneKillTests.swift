import Glibc
import Subprocess
import SystemPackage
import TestSupport
import Testing

@testable import VolipPersistence

/// A checker of histories: four threads commit in lanes of their own, alone and under a lock, and
/// the process is killed. Each thread's sections are there up to the last that it acknowledged or
/// the one after it; sections under the lock are there in the order of the lock.
@Suite struct LaneKillTests {
  static let threads = 4

  @Test func eachThreadsAcknowledgedSectionsAreAPrefixOfWhatIsThere() async throws {
    var generator = SeededGenerator.forTest()
    let directory = TemporaryDirectory()
    let path = directory.file("lanes.pool")
    var last = [UInt64](repeating: 0, count: Self.threads)
    var points = KillPoint.ofLanes.shuffled(using: &generator)
    for kill in 0..<Guest.count("VOLIP_LANE_KILLS", short: 20) {
      var environment = ["SWIFT_BACKTRACE": "enable=no"]
      if kill % 2 == 1 {
        let point = points.removeLast()
        if points.isEmpty { points = KillPoint.ofLanes.shuffled(using: &generator) }
        let number = Int.random(in: 1...(point.isOfCheckpoint ? 3 : 300), using: &generator)
        environment[KillPoint.switchName] = "\(point.rawValue):\(number)"
      }
      let limit = UInt64.random(in: 1...3000, using: &generator)
      let acknowledged = try await work(path, environment, limit: limit)
      for thread in 0..<Self.threads { last[thread] = max(last[thread], acknowledged[thread]) }
      let audit = try await Helper.run("volip-test-helper", ["lane-audit", path])
      let lines = audit.output.split(separator: "\n")
      try #require(lines.count == 2, "kill \(kill): \(audit.output) \(audit.errors)")
      #expect(lines[1] == "whole", "kill \(kill)")
      let found = lines[0].split(separator: " ").map { UInt64($0)! }
      for thread in 0..<Self.threads {
        #expect(
          (last[thread]...last[thread] + 1).contains(found[thread]),
          "kill \(kill), thread \(thread): \(last[thread]) acknowledged, \(found[thread]) found")
        last[thread] = found[thread]
      }
    }
    #expect(last.allSatisfy { $0 > 0 })
  }

  /// Runs sections until the process dies, by itself or when it has printed `limit` numbers.
  /// Returns the last number of each thread.
  private func work(
    _ path: String, _ environment: [String: String], limit: UInt64
  ) async throws -> [UInt64] {
    let overrides = Dictionary(
      uniqueKeysWithValues: environment.map { (Environment.Key(stringLiteral: $0), Optional($1)) })
    let result = try await Subprocess.run(
      .path(FilePath("\(Helper.productDirectory)/volip-test-helper")),
      arguments: ["lane-work", path], environment: .inherit.updating(overrides), input: .none,
      output: .sequence, error: .discarded
    ) { execution in
      var bytes: [UInt8] = []
      var isKilled = false
      for try await buffer in execution.standardOutput {
        bytes.append(contentsOf: buffer.withUnsafeBytes { Array($0) })
        if !isKilled, bytes.count >= Int(limit) * 8 {
          isKilled = true
          try? execution.send(signal: .kill)
        }
      }
      return bytes
    }
    #expect(result.terminationStatus == .signaled(SIGKILL))
    var last = [UInt64](repeating: 0, count: Self.threads)
    let bytes = result.closureResult
    for index in 0..<bytes.count / 8 {
      let word = bytes[index * 8..<index * 8 + 8].reversed().reduce(0) { $0 << 8 | UInt64($1) }
      last[Int(word >> 56)] = word & (1 << 56 - 1)
    }
    return last
  }
}

extension KillPoint {
  fileprivate var isOfCheckpoint: Bool {
    [.checkpoint, .checkpointFlushed, .superblockCopy, .checkpointed].contains(self)
  }
}
