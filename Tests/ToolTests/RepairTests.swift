import Foundation
import TestSupport
import Testing
import VolipMem

/// `volip check --repair` and `--pointers`.
@Suite struct RepairTests {
  let directory = TemporaryDirectory()

  /// A pool of a process that died, damaged; what a repair makes of it.
  private func repaired(
    _ name: String, _ damage: (_ path: String, _ view: PoolView) throws -> Void
  ) async throws -> (path: String, answer: Tool.Answer) {
    let path = directory.file(name)
    try await Tool.leavePool(path, sections: 8)
    try damage(path, try PoolView(path))
    let before = FileBytes.read(path)
    let backup = directory.file(name + ".backup")
    let plan = try await Tool.run("check", path, "--repair", "--dry-run", "--json")
    #expect(plan.status == 2 && FileBytes.read(path) == before, "\(plan)")
    let answer = try await Tool.run("check", path, "--repair", "--backup", backup, "--json")
    if answer.status == 0 {
      #expect(FileBytes.read(backup) == before)
      #expect(try plan.json()["repairs"] as? [String] == answer.json()["repairs"] as? [String])
      #expect(try await Tool.run("check", path, "--closed").status == 0)
      #expect(try await Tool.run("check", path, "--repair", "--dry-run").status == 0)
    } else {
      #expect(FileBytes.read(path) == before && access(backup, F_OK) != 0, "\(answer)")
    }
    return (path, answer)
  }

  private func number(_ path: String) throws -> UInt64? {
    let pool = try Pool.open(path)
    defer { try? pool.close() }
    #expect(pool.checkHeap().isConsistent)
    return try pool.root("number", as: UInt64.self)?.pointee
  }

  @Test func aDamagedSuperblockCopyIsWrittenAnew() async throws {
    let (path, answer) = try await repaired("copy") { path, _ in
      FileBytes.write([0xEE], to: path, at: 40)
    }
    #expect(answer.status == 0, "\(answer)")
    #expect(try number(path) == 8)
  }

  @Test func aLogEndsAtItsDamagedRecord() async throws {
    let (path, answer) = try await repaired("log") { path, view in
      FileBytes.write([0xEE], to: path, at: Int(view.records[4].fileOffset) + 100)
    }
    #expect(answer.status == 0, "\(answer)")
    #expect(answer.output.contains("is lost"))
    #expect(try number(path) == 4)
  }

  @Test func listsAndCountsAreMadeAnew() async throws {
    for place in [320, 448, 4096 + 3 * 16 + 8, 4096 + 4 * 16 + 8, 3 * 4096 + 6] {
      let (path, answer) = try await repaired("lists \(place)") { path, view in
        // In the image, not in the log that comes over it.
        _ = try PoolRecovery.run(path)
        let image = Int(view.superblock.geometry.imageOffset)
        let old = FileBytes.read(path)[image + place]
        FileBytes.write([old ^ 0x03], to: path, at: image + place)
      }
      // A page's entry has a check of its own: the head of a run is believed or nothing is.
      let isEntry = (4096..<8192).contains(place)
      #expect(answer.status == (isEntry ? 2 : 0), "byte \(place): \(answer)")
      if !isEntry { #expect(try number(path) == 8) }
    }
  }

  @Test func whatCannotBeRepairedIsLeftAlone() async throws {
    let (_, heap) = try await repaired("heap") { path, view in
      FileBytes.write([0xEE], to: path, at: Int(view.superblock.geometry.imageOffset) + 24)
      FileBytes.write([0, 0, 0, 0], to: path, at: Int(view.records[0].fileOffset))
    }
    #expect(heap.status == 2)
    let (_, both) = try await repaired("both") { path, _ in
      for offset in [40, 4136] { FileBytes.write([0xEE], to: path, at: offset) }
    }
    #expect(both.status == 2)
  }

  @Test func repairNeedsABackupOrADryRun() async throws {
    let path = directory.file("left")
    try await Tool.leavePool(path, sections: 1)
    #expect(try await Tool.run("check", path, "--repair").status == 64)
    #expect(try await Tool.run("check", path, "--backup", "x").status == 64)
    #expect(try await Tool.run("check", path, "--repair", "--backup", path).status == 1)
    let pool = try Pool.open(path)
    #expect(try await Tool.run("check", path, "--repair", "--dry-run").status == 4)
    try pool.close()
    // A closed pool needs none, and gets no backup.
    let backup = directory.file("unused")
    #expect(try await Tool.run("check", path, "--repair", "--backup", backup).status == 0)
    #expect(access(backup, F_OK) != 0)
  }

  @Test func pointersIntoTheLastRunAreListed() async throws {
    let path = directory.file("dangling.pool")
    let pool = try Pool.create(path, byteCount: 1 << 20, options: .test())
    let volatile = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
    defer { volatile.deallocate() }
    try pool.section { section in
      let words = try pool.root("words", in: &section) { (UInt64(0), UInt64(0), UInt64(0)) }
      words.pointee.0 = UInt64(UInt(bitPattern: volatile))
      words.pointee.1 = UInt64(UInt(bitPattern: words))
      words.pointee.2 = 42
    }
    let maps = directory.file("maps")
    #expect(
      try await Tool.run("copy", path, directory.file("copy"), "--maps", maps).status == 0)
    try pool.close()
    #expect(try await Tool.run("copy", path, directory.file("c"), "--maps", maps).status == 1)
    let answer = try await Tool.run("check", path, "--pointers", "--maps", maps, "--json")
    #expect(answer.status == 2, "\(answer)")
    let problems = try #require(try answer.json()["problems"] as? [[String: Any]])
    #expect(problems.count == 1 && problems[0]["offset"] as? Int == 0x3040)
    let again = try Pool.open(path)
    try again.section { section in
      let words = try again.root("words", in: &section) { (UInt64(0), UInt64(0), UInt64(0)) }
      words.pointee.0 = 0
    }
    try again.close()
    #expect(try await Tool.run("check", path, "--pointers", "--maps", maps).status == 0)
    #expect(try await Tool.run("check", path, "--pointers").status == 64)
    #expect(try await Tool.run("check", path, "--pointers", "--maps", path).status == 1)
  }
}
