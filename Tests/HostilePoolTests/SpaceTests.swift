import Glibc
import TestSupport
import Testing

@testable import VolipMem
@testable import VolipPool

/// No room: in the address space, in the pool, in the log, on the disk.
@Suite struct SpaceTests {
  let directory = TemporaryDirectory()

  @Test func aTakenBaseAddressIsRefusedAndTheFileUntouched() async throws {
    let crafted = try await CraftedPool.make(in: directory, sections: 3)
    let geometry = try crafted.superblock.geometry
    let last = geometry.baseAddress + geometry.imageBytes - 4096
    for address in [geometry.baseAddress, last] {
      let wanted = UnsafeMutableRawPointer(bitPattern: UInt(address))
      let noReplace: Int32 = 0x100000
      let taken = mmap(wanted, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | noReplace, -1, 0)
      try #require(taken == wanted)
      let (_, error) = crafted.refusal(in: directory)
      munmap(taken, 4096)
      #expect(
        error == .addressTaken(address: geometry.baseAddress, bytes: geometry.imageBytes))
      #expect(error?.exitCode == 5)
    }
    try crafted.open(in: directory).pool.expectUsable()
  }

  @Test func aPoolIsNotCreatedWhereItsForcedBaseIsTaken() async throws {
    let path = directory.file("a.pool")
    let outcome = try await Helper.run(
      "volip-test-helper", ["create-at-taken-base", path],
      environment: [AddressMap.switchName: "0x583412345000"])
    #expect(outcome.output == "create addressTaken\ncreated true\n", "\(outcome)")
  }

  /// Wherever in open the address space ends: the file's mapping, the working copy, the tables.
  @Test func anExhaustedAddressSpaceIsRefusedAndTheFileUntouched() async throws {
    let path = directory.file("a.pool")
    let byteCount: UInt64 = 64 << 30
    let options = Pool.Options.test(logBytes: 64 << 10, logBytesMax: 1 << 20)
    try Pool.create(path, byteCount: byteCount, options: options).close()
    let before = digest(path)
    let mapped = 2 * byteCount
    for extra in [1 << 30, byteCount + (1 << 30), mapped + (150 << 20), mapped + (350 << 20)] {
      let outcome = try await Helper.run(
        "volip-test-helper", ["open-with-limit", path, "\(extra)"])
      if outcome.output.hasPrefix("skipped") {
        print(outcome.output)
        return
      }
      #expect(outcome.output == "open addressSpaceExhausted\n", "\(extra): \(outcome)")
      #expect(digest(path) == before, "\(extra): the file was changed")
    }
  }

  /// The blocks of a sparse file and the beginning of its contents.
  private func digest(_ path: String) -> [UInt64] {
    var status = stat()
    precondition(stat(path, &status) == 0)
    let descriptor = open(path, O_RDONLY)
    defer { close(descriptor) }
    var words = [UInt64](repeating: 0, count: 1 << 17)
    precondition(pread(descriptor, &words, 1 << 20, 0) == 1 << 20)
    return [UInt64(status.st_blocks), UInt64(status.st_size)] + words
  }

  @Test func aPoolLargerThanTheReservedRangeIsNotCreated() {
    let path = directory.file("a.pool")
    let error = #expect(throws: PoolError.self) { try Pool.create(path, byteCount: 4 << 40) }
    guard case .addressSpaceExhausted(let bytes) = error else {
      Issue.record("\(String(describing: error))")
      return
    }
    #expect(bytes > UInt64(AddressMap.poolRange.count))
    #expect(error?.exitCode == 5 && access(path, F_OK) != 0)
  }

  @Test func aFullPoolIsUsableAfterItsSectionIsRolledBack() throws {
    let pool = try Pool.create(directory.file("a.pool"), byteCount: 1 << 20, options: .test())
    for byteCount in [100, 4096, 100_000, 10 << 20] {
      let error = #expect(throws: (any Error).self) {
        try pool.section { _ in
          while true {
            memset(try pool.allocate(byteCount: byteCount), 1, byteCount)
          }
        }
      }
      switch error as? PoolError {
      case .poolFull(let requested, let available):
        #expect(requested >= UInt64(byteCount) && available < requested)
      case .invalidArgument(let reason):
        #expect(byteCount > 1 << 20 && !reason.isEmpty)
      default: Issue.record("\(byteCount): \(String(describing: error))")
      }
      #expect(pool.checkHeap().blocks.isEmpty)
      try pool.expectUsable()
    }
  }

  @Test(arguments: TrackerKind.hostKinds)
  func aSectionLargerThanTheLogMayGrowIsRolledBack(tracker: TrackerKind) throws {
    let path = directory.file("a.pool")
    let options = Pool.Options.test(tracker: tracker, logBytes: 64 << 10, logBytesMax: 128 << 10)
    let pool = try Pool.create(path, byteCount: 2 << 20, options: options)
    let block = try pool.section { _ in
      let block = try pool.allocate(byteCount: 512 << 10)
      memset(block, 1, 4096)
      return block
    }
    for _ in 0..<3 {
      let error = #expect(throws: PoolError.self) {
        try pool.section { _ in _ = memset(block, 2, 512 << 10) }
      }
      guard case .sectionTooLarge(let needed, let available) = error else {
        Issue.record("\(String(describing: error))")
        return
      }
      #expect(needed > 512 << 10 && available == 128 << 10)
      #expect(error?.description.contains("\(needed)") == true && error?.exitCode == 1)
      #expect(block.load(as: UInt8.self) == 1)
      #expect(block.load(fromByteOffset: 300_000, as: UInt8.self) == 0)
      try pool.expectUsable()
    }
    // What fits after growth still commits.
    try pool.section { _ in _ = memset(block, 3, 100 << 10) }
    try pool.close()
    #expect(CraftedPool(bytes: FileBytes.read(path)).words(at: 64, count: 1) == [128 << 10])
  }

  @Test func aFullDiskRollsTheSectionBack() async throws {
    let outcome = try await Helper.run(
      "volip-test-helper", ["disk-full", directory.path],
      environment: [PersistencePath.switchName: "cache-line"])
    if outcome.output.hasPrefix("skipped") {
      print("aFullDiskRollsTheSectionBack: \(outcome.output)")
      return
    }
    let lines = outcome.output.split(separator: "\n")
    try #require(lines.count == 4, "\(outcome)")
    #expect(lines[0] == "section diskFull 1048576")
    #expect(
      lines[1...].elementsEqual(["left true", "usable true", "create diskFull exists false"]))
  }
}
