import Glibc
import TestSupport
import Testing
import VolipMem

/// No file stops a verb: each answers with a status of its own, and leaves the file as it was.
@Suite(.timeLimit(.minutes(30))) struct HostileFileTests {
  static let verbs = [
    ["info"], ["info", "--json"], ["check"], ["check", "--quick"], ["dump", "--contents"],
    ["check", "--repair", "--dry-run"],
  ]
  let directory = TemporaryDirectory()

  @Test func anyDamageIsMetByAnyVerb() async throws {
    let path = directory.file("hostile.pool")
    try await Tool.leavePool(path, sections: 8)
    let whole = FileBytes.read(path)
    let image = Int(try PoolView(path).superblock.geometry.imageOffset)
    var generator = SeededGenerator.forTest()
    let parts = [
      0..<256, 4096..<4352, 8192..<16384, image..<image + 1100, image + 4096..<image + 5000,
    ]
    for round in 0..<12 {
      var bytes = whole
      for _ in 0..<3 {
        let part = parts.randomElement(using: &generator)!
        bytes[Int.random(in: part, using: &generator)] = UInt8.random(
          in: 0...255, using: &generator)
      }
      if round % 6 == 5 { bytes.removeLast(Int.random(in: 1..<bytes.count, using: &generator)) }
      unlink(path)
      FileBytes.write(bytes, to: path)
      for verb in Self.verbs {
        let answer = try await Tool.run(verb + [path])
        #expect((0...6).contains(answer.status), "round \(round) \(verb): \(answer)")
      }
      for verb in ["copy", "export"] {
        let target = directory.file(verb)
        let answer = try await Tool.run(verb, path, target)
        #expect((0...6).contains(answer.status), "round \(round) \(verb): \(answer)")
        #expect((answer.status == 0) == (access(target, F_OK) == 0))
        unlink(target)
      }
      #expect(FileBytes.read(path) == bytes, "round \(round)")
      for verb in ["recover", "trim", "compact"] {
        let answer = try await Tool.run(verb, path)
        #expect((0...6).contains(answer.status), "round \(round) \(verb): \(answer)")
      }
    }
  }

  @Test func aQuickCheckOfALargeSparsePoolGivesItNoBlocks() async throws {
    let path = directory.file("large.pool")
    #expect(try await Tool.run("create", path, "--size", "10G", "--log", "1M").status == 0)
    let before = try blocks(of: path)
    #expect(try await Tool.run("check", path, "--quick").status == 0)
    #expect(try blocks(of: path) == before && before < 1 << 20)
  }

  private func blocks(of path: String) throws -> Int {
    var status = stat()
    try #require(stat(path, &status) == 0)
    return Int(status.st_blocks)
  }
}
