import Glibc
import TestSupport
import Testing

@testable import VolipMem
@testable import VolipPool

/// Files that are no pool, or no longer a whole one: refused by name, untouched.
@Suite struct BadFileTests {
  let directory = TemporaryDirectory()

  @Test func whatIsNoPoolIsRefused() {
    let text = Array("not a pool at all\n".utf8)
    let files: [(String, [UInt8])] = [
      ("empty", []), ("one byte", [0]), ("text", text), ("short", .init(repeating: 0, count: 8191)),
      ("zeros", .init(repeating: 0, count: 1 << 20)),
      ("long text", (0..<65536).map { text[$0 % text.count] }),
    ]
    for (name, bytes) in files {
      let (path, error) = CraftedPool(bytes: bytes).refusal(in: directory)
      guard case .notAPool(path, 0, let reason) = error else {
        Issue.record("\(name): \(String(describing: error))")
        continue
      }
      #expect(!reason.isEmpty && error?.exitCode == 6)
    }
  }

  @Test func aDirectoryOrADeviceIsNoPool() {
    for path in [directory.path, "/dev/null"] {
      let error = #expect(throws: PoolError.self) { try Pool.open(path) }
      guard case .notAPool(path, 0, _) = error else {
        Issue.record("\(path): \(String(describing: error))")
        continue
      }
    }
    #expect(throws: PoolError.notFound(path: directory.file("none"))) {
      try Pool.open(directory.file("none"))
    }
  }

  @Test func aTruncatedPoolIsRefusedWhereverItWasCut() async throws {
    let whole = try await CraftedPool.make(in: directory, sections: 3)
    let full = UInt64(whole.bytes.count)
    for count in [256, 4096, 8191, 8192, 65536, 500_000, (1 << 20) - 1] {
      let cut = CraftedPool(bytes: Array(whole.bytes[..<count]))
      let (path, error) = cut.refusal(in: directory)
      #expect(
        error == .truncated(path: path, expectedBytes: full, actualBytes: UInt64(count)))
      #expect(error?.exitCode == 2)
    }
    let longer = CraftedPool(bytes: whole.bytes + [UInt8](repeating: 1, count: 5000))
    try longer.open(in: directory).pool.expectUsable()
  }

  @Test func aForeignVersionIsRefused() async throws {
    var pool = try await CraftedPool.make(in: directory, sections: 0)
    for copy in Superblock.copyOffsets { pool.bytes[copy + 8] = 9 }
    let (path, error) = pool.refusal(in: directory)
    #expect(
      error == .foreignVersion(path: path, fileOffset: 8, found: 9, supported: Superblock.version))
    #expect(error?.exitCode == 6)
  }

  @Test func anUnknownFeatureInEitherCopyIsRefused() async throws {
    let whole = try await CraftedPool.make(in: directory, sections: 0)
    for copies in [[0], [1], [0, 1]] {
      var pool = whole
      var superblock = try whole.superblock
      superblock.incompatibleFeatures = 1 << 63
      pool.set(superblock, copies: copies)
      let (path, error) = pool.refusal(in: directory)
      let offset = UInt64(Superblock.copyOffsets[copies[0]] + 24)
      #expect(error == .unknownFeatures(path: path, fileOffset: offset, bits: 1 << 63))
      #expect(error?.exitCode == 6)
    }
  }

  /// Whole again after one open, with what the log held replayed.
  @Test(arguments: [0, 1])
  func oneDamagedSuperblockIsRepairedFromTheOther(copy: Int) async throws {
    let whole = try await CraftedPool.make(in: directory, sections: 5)
    for byte in [0, 8, 32, 40, 64, 104, 120, 200, 255] {
      var damaged = whole
      damaged.bytes[Superblock.copyOffsets[copy] + byte] ^= 0x10
      let (path, pool) = try damaged.open(in: directory)
      #expect(try pool.sectionNumber == 5)
      try pool.expectUsable()
      try pool.close()
      let repaired = CraftedPool(bytes: FileBytes.read(path))
      let copies = try Superblock.copyOffsets.map {
        try Superblock.decode(repaired.words(at: $0, count: 32))
      }
      #expect(copies[0] == copies[1])
      #expect(copies[0].generation > (try whole.superblock.generation))
    }
  }

  /// A crash between the two writes of a checkpoint: either copy alone leads to the same state.
  @Test func anOlderSecondCopyChangesNothing() async throws {
    let whole = try await CraftedPool.make(in: directory, sections: 5)
    for copy in [0, 1] {
      var pool = whole
      var newer = try whole.superblock
      newer.sequence += 1
      newer.generation += 1
      newer.appliedLsn = try #require(try whole.records.last).header.lsn
      newer.logTail = 0
      pool.set(newer, copies: [copy])
      #expect(try pool.open(in: directory).pool.checkHeap().problems == [])
    }
  }

  @Test func bothSuperblocksDamagedIsRefused() async throws {
    let whole = try await CraftedPool.make(in: directory, sections: 2)
    for byte in [12, 32, 48, 100, 255] {
      var damaged = whole
      for copy in Superblock.copyOffsets { damaged.bytes[copy + byte] ^= 1 }
      let (path, error) = damaged.refusal(in: directory)
      #expect(
        error == .damagedSuperblock(path: path, fileOffset: 0, reason: "checksum"))
      #expect(error?.exitCode == 2)
    }
  }

  @Test func impossiblePartsInBothSuperblocksAreRefused() async throws {
    let whole = try await CraftedPool.make(in: directory, sections: 0)
    var superblock = try whole.superblock
    superblock.geometry.imageBytes += 1 << 30
    var pool = whole
    pool.set(superblock)
    let (_, error) = pool.refusal(in: directory)
    guard case .damagedSuperblock(_, 0, let reason) = error else {
      Issue.record("\(String(describing: error))")
      return
    }
    #expect(reason.contains("image"))
  }
}
