import Foundation
import Glibc
import Subprocess
import TestSupport
import Testing
import VolipMem

/// Verbs that only look: create, info, check, dump; and recover.
@Suite struct ReadingTests {
  let directory = TemporaryDirectory()

  private func pool(_ name: String, sections: Int) async throws -> String {
    let path = directory.file(name)
    try await Tool.leavePool(path, sections: sections)
    return path
  }

  @Test func createMakesAPoolThatOpens() async throws {
    let path = directory.file("new.pool")
    let answer = try await Tool.run("create", path, "--size", "8M", "--log", "128K", "--json")
    #expect(answer.status == 0, "\(answer.errors)")
    let object = try answer.json()
    #expect(object["fileBytes"] as? UInt64 == 8 << 20)
    #expect(object["logBytes"] as? UInt64 == 128 << 10)
    let pool = try Pool.open(path)
    #expect(UInt64(UInt(bitPattern: pool.base)) == object["baseAddress"] as? UInt64)
    try pool.close()
    #expect(try await Tool.run("create", path, "--size", "8M").status == 1)
    #expect(try await Tool.run("create", path, "--size", "8Q").status == 64)
    #expect(try await Tool.run("create", directory.file("small"), "--size", "8K").status == 64)
  }

  @Test func infoShowsHeaderLogRootsAndHeapUse() async throws {
    let path = try await pool("left", sections: 8)
    let object = try await Tool.run("info", path, "--json").json()
    #expect(object["logRecords"] as? Int == 8)
    #expect(object["needsRecovery"] as? Bool == true && object["inUse"] as? Bool == false)
    #expect(object["fileBytes"] as? Int == 1 << 20)
    #expect(object["superblockCopies"] as? [String] == ["whole", "whole"])
    let roots = try #require(object["roots"] as? [[String: Any]])
    #expect(roots.map { $0["name"] as? String } == ["number", "root 0", "root 1", "root 2"])
    // Four roots, ten blocks, and one of each section.
    #expect(object["blocks"] as? Int == 4 + 10 + 8)
    let text = try await Tool.run("info", path)
    #expect(text.status == 0 && text.output.contains("needs recovery"))
  }

  @Test func readingVerbsChangeNoByteAndTakeNoLock() async throws {
    let path = try await pool("left", sections: 8)
    let before = FileBytes.read(path)
    for verb in [["info"], ["check"], ["check", "--quick"], ["dump", "--contents"]] {
      // A lock of ours that an opener for writing would wait for in vain.
      let descriptor = open(path, O_RDONLY | O_CLOEXEC)
      #expect(flock(descriptor, LOCK_SH | LOCK_NB) == 0)
      let answer = try await Tool.run(verb + [path])
      #expect(answer.status == 0, "\(verb) \(answer.errors)")
      #expect(try await Tool.run("recover", path).status == 4)
      close(descriptor)
    }
    #expect(FileBytes.read(path) == before)
  }

  @Test func checkTellsConsistentFromNotClosed() async throws {
    let left = try await pool("left", sections: 3)
    let closed = try await pool("closed", sections: 0)
    #expect(try await Tool.run("check", left).status == 0)
    #expect(try await Tool.run("check", left, "--closed").status == 3)
    #expect(try await Tool.run("check", closed, "--closed").status == 0)
    #expect(try await Tool.run("check", closed, "--closed", "--quick").status == 0)
    let object = try await Tool.run("check", left, "--json").json()
    #expect(object["verdict"] as? String == "consistent")
    #expect(object["needsRecovery"] as? Bool == true && object["logRecords"] as? Int == 3)
    #expect(try await Tool.run("recover", left).status == 0)
    #expect(try await Tool.run("check", left, "--closed").status == 0)
  }

  @Test func damageOfEachPartIsInconsistent() async throws {
    let path = try await pool("left", sections: 8)
    let whole = FileBytes.read(path)
    let geometry = try PoolView(path).superblock.geometry
    let image = Int(geometry.imageOffset)
    let log = Int(try #require(PoolView(path).records.first).fileOffset)
    func check(_ option: [String] = []) async throws -> Int32 {
      try await Tool.run(["check", path] + option).status
    }
    for place in [log + 8, image + 24, image + 4096 + 16, image + 4096 + 3 * 16] {
      FileBytes.write([whole[place] ^ 0x55], to: path, at: place)
      #expect(try await check() == 2, "byte \(place)")
      FileBytes.write([whole[place]], to: path, at: place)
    }
    #expect(try await check() == 0)
    // Quick looks at header and log, not at each page.
    FileBytes.write([whole[image + 24] ^ 1], to: path, at: image + 24)
    #expect(try await check(["--quick"]) == 2)
    FileBytes.write(whole, to: path)
    // One superblock copy suffices, but is to be repaired.
    FileBytes.write([0xFF], to: path, at: 4096 + 40)
    #expect(try await check() == 0)
    #expect(try await check(["--closed"]) == 3)
    FileBytes.write([0xFF], to: path, at: 40)
    #expect(try await check() == 2)
    FileBytes.write(whole, to: path)
    #expect(truncate(path, off_t(whole.count - 4096)) == 0)
    #expect(try await check() == 2)
  }

  @Test func whatIsNoPoolHasAStatusOfItsOwn() async throws {
    let path = directory.file("text")
    FileBytes.write(Array(repeating: 0x41, count: 16384), to: path)
    for verb in ["info", "check", "dump", "recover"] {
      #expect(try await Tool.run(verb, path).status == 6)
      #expect(try await Tool.run(verb, directory.path).status == 6)
      #expect(try await Tool.run(verb, directory.file("missing")).status == 1)
      #expect(try await Tool.run(verb).status == 64)
    }
    let object = try await Tool.run("check", path, "--json").json()
    #expect(object["status"] as? Int == 6)
    #expect(try #require(object["error"] as? String).contains("not a pool"))
  }

  @Test func aPoolInUseIsNotChecked() async throws {
    let path = try await pool("closed", sections: 0)
    let pool = try Pool.open(path)
    #expect(try await Tool.run("check", path).status == 4)
    #expect(try await Tool.run("dump", path).status == 4)
    #expect(try await Tool.run("recover", path).status == 4)
    let info = try await Tool.run("info", path, "--json")
    #expect(info.status == 0)
    #expect(try info.json()["inUse"] as? Bool == true)
    try pool.close()
    #expect(try await Tool.run("check", path).status == 0)
  }

  @Test func dumpShowsContentsOnlyWhenAskedTo() async throws {
    let path = directory.file("secret.pool")
    let pool = try Pool.create(path, byteCount: 1 << 20, options: .test())
    try pool.section { section in
      try pool.root("word", in: &section) { UInt64(0) }.pointee = 0x1122_3344_5566_7788
    }
    try pool.close()
    let plain = try await Tool.run("dump", path)
    #expect(plain.output == "root word 8 bytes at 0x3040\nblock 16 bytes at 0x3040\n")
    let shown = try await Tool.run("dump", path, "--contents")
    #expect(shown.output.contains("8877665544332211"))
    let object = try await Tool.run("dump", path, "--blocks", "--json").json()
    let blocks = try #require(object["blocks"] as? [[String: Any]])
    #expect(blocks.count == 1 && blocks[0]["byteCount"] as? Int == 16)
    #expect(blocks[0]["contents"] == nil && object["roots"] is NSNull)
  }

  @Test func dumpListsTheRecordsOfTheLog() async throws {
    let path = try await pool("left", sections: 5)
    let object = try await Tool.run("dump", path, "--records", "--json").json()
    let records = try #require(object["records"] as? [[String: Any]])
    let numbers = records.compactMap { $0["lsn"] as? Int }
    #expect(numbers.count == 5 && numbers == Array(numbers[0]..<numbers[0] + 5))
    #expect(records.allSatisfy { !($0["lines"] as! [Any]).isEmpty })
  }

  @Test func recoverAppliesTheLogAsAnOpenDoes() async throws {
    let path = try await pool("left", sections: 5)
    let object = try await Tool.run("recover", path, "--json").json()
    #expect(object["replayed"] as? Int == 5)
    #expect(try await Tool.run("recover", path, "--json").json()["replayed"] as? Int == 0)
    let pool = try Pool.open(path)
    #expect(try pool.root("number", as: UInt64.self)?.pointee == 5)
    try pool.close()
  }

  @Test func aNameThatIsATrickReachesTheTerminalAsText() async throws {
    let path = directory.file("trick.pool")
    let pool = try Pool.create(path, byteCount: 1 << 20, options: .test())
    try pool.section { section in
      _ = try pool.root("a\u{1B}[2J\nroot b", in: &section) { UInt64(0) }
    }
    try pool.close()
    for verb in ["info", "dump"] {
      let answer = try await Tool.run(verb, path)
      #expect(answer.status == 0 && !answer.output.contains("\u{1B}"))
      #expect(answer.output.contains("a\\u{1b}[2J\\u{a}root b"))
    }
    let object = try await Tool.run("info", path, "--json").json()
    let roots = try #require(object["roots"] as? [[String: Any]])
    #expect(roots[0]["name"] as? String == "a\u{1B}[2J\nroot b")
  }

  @Test func quietSaysNothing() async throws {
    let path = try await pool("left", sections: 1)
    for verb in ["info", "check", "dump", "recover"] {
      let answer = try await Tool.run(verb, path, "--quiet")
      #expect(answer.status == 0 && answer.output.isEmpty && answer.errors.isEmpty)
    }
  }
}
