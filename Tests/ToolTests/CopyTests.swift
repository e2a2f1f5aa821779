import Foundation
import TestSupport
import Testing
import VolipMem

/// `volip copy` of pools that a process writes as fast as it can.
@Suite(.timeLimit(.minutes(30))) struct CopyTests {
  let directory = TemporaryDirectory()

  /// What a copy says of itself, after an audit by the program that knows what must be there.
  private func audited(_ copy: String, by audit: String) async throws -> Int {
    #expect(try await Tool.run("check", copy, "--closed").status == 0)
    let outcome = try await Helper.run("volip-test-helper", [audit, copy])
    let words = outcome.output.split(whereSeparator: \.isWhitespace)
    try #require(words.count == 6, "\(outcome)")
    #expect(words[3] == "0" && words[5] == "true", "\(outcome.output)")
    return try #require(Int(words[1]))
  }

  /// Copies while `work` goes on: each is the pool after one of its sections, and a later one than
  /// the copy before.
  private func copies(_ count: Int, of path: String, work: [String], audit: String) async throws {
    let directory = directory
    try await Tool.whileWriting(work) {
      try await Tool.wait(for: path, sections: 100)
      var last = 0
      var followed = 0
      for number in 0..<count {
        let target = directory.file("copy-\(number)")
        let answer = try await Tool.run("copy", path, target, "--json")
        try #require(answer.status == 0, "\(answer.output) \(answer.errors)")
        let object = try answer.json()
        followed += try #require(object["followedRecords"] as? Int)
        let sections = try await audited(target, by: audit)
        #expect(sections > last)
        last = sections
        #expect(try await Tool.run("copy", path, target).status == 1)
        unlink(target)
      }
      #expect(followed > 0, "nothing was written while the copies were made")
      try await Tool.wait(for: path, sections: 3000)
    }
  }

  @Test func aCopyOfABankInUseIsTheBankAfterOneSection() async throws {
    let path = directory.file("bank.pool")
    #expect(try await Helper.run("volip-test-helper", ["make-bank", path]).status == .exited(0))
    let work = ["transfer", path, TrackerKind.pageMapScan.rawValue]
    try await copies(8, of: path, work: work, audit: "audit-bank")
  }

  /// Announced writes reach the image at checkpoints only.
  @Test func aCopyOfCollectionsInUseIsTheirsAfterOneSection() async throws {
    let path = directory.file("ledger.pool")
    try await copies(8, of: path, work: ["collection-work", path], audit: "collection-audit")
  }

  @Test func aCopyOfAPoolThatWasLeftHasWhatRecoveryFinds() async throws {
    let path = directory.file("left.pool")
    try await Tool.leavePool(path, sections: 8)
    let before = FileBytes.read(path)
    let copy = directory.file("copy")
    #expect(try await Tool.run("copy", path, copy, "--json").json()["followedRecords"] as? Int == 8)
    #expect(FileBytes.read(path) == before)
    let pool = try Pool.open(copy)
    #expect(try pool.root("number", as: UInt64.self)?.pointee == 8)
    #expect(pool.checkHeap().isConsistent)
    try pool.close()
    // A copy has the address, and with it the pointers, of the original.
    #expect(try PoolView(path).superblock.geometry == PoolView(copy).superblock.geometry)
  }

  @Test func aDamagedLogIsNotCopiedAsIfItEndedThere() async throws {
    let path = directory.file("left.pool")
    try await Tool.leavePool(path, sections: 8)
    let record = try #require(try PoolView(path).records.dropFirst(3).first)
    FileBytes.write([0xA5], to: path, at: Int(record.fileOffset) + 30)
    #expect(try await Tool.run("copy", path, directory.file("copy")).status == 2)
    #expect(access(directory.file("copy"), F_OK) != 0)
  }
}
