import Foundation
import TestSupport
import Testing
import VolipMem

/// Verbs that make files or change them: export, import, trim, compact.
@Suite struct ChangingTests {
  let directory = TemporaryDirectory()

  /// A closed pool with a list through native pointers, some blocks of which were freed.
  private func pool(_ name: String) throws -> String {
    let path = directory.file(name)
    let pool = try Pool.create(path, byteCount: 32 << 20, options: .test(logBytes: 8 << 20))
    try pool.section { section in
      var head: UnsafeMutablePointer<Int>?
      let root = try pool.root("head", in: &section) { UnsafeMutablePointer<Int>?.none }
      var freed: [UnsafeMutableRawPointer] = []
      for number in 0..<100 {
        freed.append(try pool.allocate(byteCount: 65536))
        memset(freed[number], 0x5A, 65536)
        let node = try pool.allocate(Int.self, count: 2)
        node[0] = number
        node[1] = Int(bitPattern: head)
        head = node
      }
      for block in freed { try pool.deallocate(block) }
      root.pointee = head
    }
    try pool.close()
    return path
  }

  private func listSum(_ path: String) throws -> Int {
    let pool = try Pool.open(path, options: .test())
    defer { try? pool.close() }
    #expect(pool.checkHeap().isConsistent)
    var node = try pool.root("head", as: UnsafeMutablePointer<Int>?.self)?.pointee
    var sum = 0
    while let present = node {
      sum += present[0]
      node = UnsafeMutablePointer(bitPattern: present[1])
    }
    return sum
  }

  @Test func anImportedPoolIsTheExportedOne() async throws {
    let path = try pool("list.pool")
    let before = FileBytes.read(path)
    let (exported, imported) = (directory.file("list.export"), directory.file("again.pool"))
    let answer = try await Tool.run("export", path, exported, "--json")
    #expect(answer.status == 0, "\(answer.errors)")
    #expect(FileBytes.read(path) == before)
    // Freed blocks are not in it.
    #expect(FileBytes.read(exported).count < 1 << 20)
    #expect(try await Tool.run("import", exported, imported).status == 0)
    #expect(try await Tool.run("check", imported, "--closed").status == 0)
    #expect(try listSum(imported) == 4950)
    #expect(try PoolView(imported).superblock.geometry == PoolView(path).superblock.geometry)
    #expect(try await Tool.run("export", path, exported).status == 1)
    #expect(try await Tool.run("import", exported, imported).status == 1)
  }

  @Test func noDamagedExportIsImported() async throws {
    let path = try pool("list.pool")
    let exported = directory.file("list.export")
    #expect(try await Tool.run("export", path, exported).status == 0)
    let whole = FileBytes.read(exported)
    var generator = SeededGenerator.forTest()
    var places = (0..<12).map { _ in Int.random(in: 0..<whole.count, using: &generator) }
    places += [0, 8, 16, 40, 64, 72, 100, whole.count - 64, whole.count - 1]
    for place in places {
      FileBytes.write([whole[place] ^ 0x10], to: exported, at: place)
      let status = try await Tool.run("import", exported, directory.file("bad.pool")).status
      #expect(status == 2 || status == 6, "byte \(place)")
      FileBytes.write([whole[place]], to: exported, at: place)
    }
    for count in [whole.count - 1, whole.count - 64, 500, 64, 63, 0] {
      #expect(truncate(exported, off_t(count)) == 0)
      let status = try await Tool.run("import", exported, directory.file("bad.pool")).status
      #expect(status == 2, "\(count) bytes")
    }
    #expect(access(directory.file("bad.pool"), F_OK) != 0)
    FileBytes.write(whole, to: exported)
    #expect(try await Tool.run("import", exported, directory.file("good.pool")).status == 0)
    #expect(try await Tool.run("import", path, directory.file("bad.pool")).status == 6)
  }

  @Test(arguments: ["trim", "compact"])
  func freePagesGiveTheirBlocksBack(_ verb: String) async throws {
    let path = try pool("list.pool")
    let object = try await Tool.run(verb, path, "--json").json()
    let before = try #require(object["allocatedBytesBefore"] as? Int)
    let after = try #require(object["allocatedBytes"] as? Int)
    #expect(before - after > 5 << 20)
    #expect(verb == "trim" || object["loweredPages"] as? Int ?? 0 > 0)
    #expect(try await Tool.run("check", path, "--closed").status == 0)
    #expect(try listSum(path) == 4950)
    // What was free is allocated and used again.
    let pool = try Pool.open(path, options: .test())
    try pool.section { _ in
      for _ in 0..<50 { memset(try pool.allocate(byteCount: 65536), 1, 65536) }
    }
    try pool.close()
    #expect(try listSum(path) == 4950)
  }

  @Test func whatIsNotClosedIsLeftAlone() async throws {
    let path = directory.file("left.pool")
    try await Tool.leavePool(path, sections: 8)
    let before = FileBytes.read(path)
    for verb in ["trim", "compact"] {
      let answer = try await Tool.run(verb, path)
      #expect(answer.status == 3 && answer.errors.contains("recover"))
    }
    #expect(FileBytes.read(path) == before)
    let pool = try Pool.open(path)
    for verb in ["trim", "compact"] { #expect(try await Tool.run(verb, path).status == 4) }
    #expect(try await Tool.run("export", path, directory.file("export")).status == 4)
    try pool.close()
  }
}
