import Foundation
import TestSupport
import Testing
import VolipMem

/// The command and the views, of a pool whose log is divided into lanes.
@Suite struct LaneViewTests {
  let directory = TemporaryDirectory()
  private static var options: Pool.Options {
    var options = Pool.Options.test()
    options.engine.audit = false
    return options
  }

  /// A pool that was left with records in two lanes; returns the blocks that it had in use.
  private func pool(_ name: String, sections: Int) async throws -> (path: String, blocks: Int) {
    let path = directory.file(name)
    let outcome = try await Helper.run(
      "volip-test-helper", ["leave-lanes", path, "\(sections)"],
      environment: ["SWIFT_BACKTRACE": "enable=no"])
    let words = outcome.output.split(whereSeparator: { $0 == " " || $0 == "\n" })
    try #require(words.count == 2 && words[1] == "true", "\(outcome)")
    return (path, try #require(Int(words[0])))
  }

  @Test func recordsOfAllLanesAreShownInTheirOrder() async throws {
    let (path, blocks) = try await pool("left", sections: 9)
    let before = FileBytes.read(path)
    let view = try PoolView(path)
    #expect(view.records.count == 9)
    let lsns = view.records.map(\.lsn)
    #expect(lsns == lsns.sorted())
    let geometry = view.superblock.geometry
    let table = try #require(view.superblock.lanes)
    let bytes = table.laneBytes(logBytes: geometry.logBytes)
    let lanes = view.records.map { ($0.fileOffset - geometry.logOffset) / bytes }
    #expect(Set(lanes) == [0, 1])
    let object = try await Tool.run("info", path, "--json").json()
    #expect(object["logRecords"] as? Int == 9 && object["needsRecovery"] as? Bool == true)
    #expect(object["blocks"] as? Int == blocks)
    #expect(object["lanes"] as? Int == table.count)
    let dump = try await Tool.run("dump", path, "--records", "--json").json()
    let records = try #require(dump["records"] as? [[String: Any]])
    #expect(records.map { $0["fileOffset"] as? UInt64 } == view.records.map(\.fileOffset))
    for record in records {
      // A header of the log: its position is where it stands.
      let offset = Int(try #require(record["fileOffset"] as? UInt64))
      #expect(before[offset..<offset + 8].contains { $0 != 0 })
    }
    let check = try await Tool.run("check", path, "--json").json()
    #expect(check["verdict"] as? String == "consistent" && check["blocks"] as? Int == blocks)
    #expect(try await Tool.run("check", path, "--closed").status == 3)
    #expect(FileBytes.read(path) == before)
  }

  @Test func aPoolThatWasLeftWithEmptyLanesWasNotClosed() async throws {
    let (path, _) = try await pool("empty", sections: 0)
    let pool = try Pool.open(path, options: Self.options)
    try pool.section(.concurrent) { _ in }
    let view = try PoolView(path)
    #expect(view.superblock.lanes != nil && view.records.isEmpty && view.needsRecovery)
    try pool.close()
    #expect(try !PoolView(path).needsRecovery)
  }

  @Test func aCopyOfAPoolWithLanesHasWhatRecoveryFinds() async throws {
    let (path, blocks) = try await pool("left", sections: 10)
    let copy = directory.file("copy")
    let answer = try await Tool.run("copy", path, copy, "--json")
    #expect(try answer.json()["followedRecords"] as? Int == 10, "\(answer)")
    let pool = try Pool.open(copy)
    let names = try #require(
      try pool.root("names", of: PersistentDictionary<UInt64, PersistentString>.self))
    for number in 0..<12 as Range<UInt64> {
      let text = names.value.withValue(forKey: number) { String($0) }
      #expect(text == (number < 10 ? "\(number)" : "first"))
    }
    #expect(pool.checkHeap().isConsistent && pool.checkHeap().blocks.count == blocks)
    try pool.close()
  }

  @Test func aDamagedRecordOfALaneEndsThatLaneInARepair() async throws {
    let (path, _) = try await pool("damaged", sections: 10)
    let view = try PoolView(path)
    FileBytes.write([0xA5], to: path, at: Int(view.records[2].fileOffset) + 70)
    #expect(try await Tool.run("check", path).status == 2)
    let answer = try await Tool.run(
      "check", path, "--repair", "--backup", directory.file("backup"))
    #expect(answer.status == 0, "\(answer)")
    #expect(try await Tool.run("check", path, "--closed").status == 0)
  }

  @Test func countsOfConcurrentSectionsAreShown() async throws {
    let path = directory.file("counts.pool")
    let pool = try Pool.create(path, byteCount: 8 << 20, options: Self.options)
    let array = try pool.section { section in
      try pool.root("array", in: &section) { section in
        try PersistentArray<Int>(repeatElement(0, count: 8), in: &section)
      }
    }
    let before = try pool.statistics().committed
    for number in 0..<20 {
      try pool.section(.concurrent) { section in array.value.set(0, to: number, in: &section) }
    }
    let object = try await Tool.run("stat", path, "--json", "--interval", "0.01").json()
    let statistics = try pool.statistics()
    #expect(statistics.committed >= before + 20)
    #expect(object["sections"] as? Int == statistics.committed)
    #expect(try #require(object["logUsedBytes"] as? Int) >= 20 * 64)
    try pool.section { _ in }
    let again = try await Tool.run("stat", path, "--json", "--interval", "0.01").json()
    #expect(again["sections"] as? Int == (try pool.statistics().committed))
    try pool.close()
  }

  /// Lanes and the log as a whole in turn, in four threads.
  @Test func aCopyOfLanesInUseIsOneOfTheirStates() async throws {
    let path = directory.file("work.pool")
    let directory = directory
    try await Tool.whileWriting(["lane-work", path]) {
      try await Tool.wait(for: path, sections: 500)
      for number in 0..<6 {
        let copy = directory.file("copy \(number)")
        let answer = try await Tool.run("copy", path, copy, "--json")
        try #require(answer.status == 0, "\(answer)")
        let audit = try await Helper.run("volip-test-helper", ["lane-audit", copy])
        let lines = audit.output.split(separator: "\n")
        #expect(lines.count == 2 && lines[1] == "whole", "\(audit)")
      }
    }
  }
}
