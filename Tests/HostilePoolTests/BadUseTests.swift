import Glibc
import TestSupport
import Testing

@testable import VolipMem
@testable import VolipPool

/// Whole pools in wrong hands: a second opener, another user, a write outside a section, a child.
@Suite struct BadUseTests {
  let directory = TemporaryDirectory()
  /// The toolchain's crash reporter takes seconds for each child that is meant to die.
  private let environment = [
    "SWIFT_BACKTRACE": "enable=no", PersistencePath.switchName: "cache-line",
  ]

  private func closedPool(sections: Int = 0) async throws -> String {
    let path = directory.file("a.pool")
    FileBytes.write(
      try await CraftedPool.make(in: directory, sections: sections).bytes, to: path)
    return path
  }

  @Test func aSecondOpenerIsRefusedInThisProcessAndInAnother() async throws {
    let path = try await closedPool(sections: 2)
    let pool = try Pool.open(path, options: .test())
    let before = FileBytes.read(path)
    let error = #expect(throws: PoolError.inUse(path: path)) { try Pool.open(path) }
    #expect(error?.exitCode == 4 && error?.description.isEmpty == false)
    let outcome = try await Helper.run("volip-test-helper", ["open-each", path])
    #expect(outcome.output.contains("refused inUse \(PoolError.inUse(path: path))"))
    #expect(throws: PoolError.alreadyExists(path: path)) {
      try Pool.create(path, byteCount: 1 << 20)
    }
    #expect(isEqual(FileBytes.read(path), before))
    try pool.expectUsable()
  }

  @Test func anotherUserIsRefused() async throws {
    guard getuid() == 0 else {
      print("anotherUserIsRefused: skipped: needs root to become another user")
      return
    }
    let path = try await closedPool(sections: 2)
    let before = FileBytes.read(path)
    for (directoryMode, fileMode) in [(0o755, 0o600), (0o755, 0o444), (0o700, 0o666)] {
      chmod(directory.path, mode_t(directoryMode))
      chmod(path, mode_t(fileMode))
      let outcome = try await Helper.run("volip-test-helper", ["open-as", "65534", path])
      #expect(
        outcome.output == "open noPermission\ncreate noPermission\n",
        "\(directoryMode) \(fileMode): \(outcome)")
      #expect(isEqual(FileBytes.read(path), before))
    }
    #expect(PoolError.noPermission(path: path).exitCode == 1)
  }

  @Test func aWriteOutsideASectionIsPutBackAndReported() async throws {
    let path = try await closedPool()
    var options = Pool.Options.test(tracker: .pageMapScan, retention: false)
    options.engine.strayWriteCheck = true
    let pool: Pool
    do {
      pool = try Pool.open(path, options: options)
    } catch PoolError.trackerUnavailable(let tracker, let reason) {
      print("aWriteOutsideASectionIsPutBackAndReported: skipped: \(tracker): \(reason)")
      return
    }
    let block = try pool.section { _ in
      let block = try pool.allocate(byteCount: 20_000)
      memset(block, 1, 20_000)
      return block
    }
    for distance in [0, 100, 5000, 19_999] {
      block.storeBytes(of: 2, toByteOffset: distance, as: UInt8.self)
      let offset = UInt64(UnsafeRawPointer(block) - pool.base + distance) / 64 * 64
      let error = #expect(throws: PoolError.writeOutsideSection(offset: offset)) {
        try pool.pstart()
      }
      #expect(error?.exitCode == 1)
      #expect(error?.description.contains(String(offset, radix: 16)) == true)
      #expect(block.load(fromByteOffset: distance, as: UInt8.self) == 1)
      try pool.expectUsable()
    }
  }

  @Test func aWriteOutsideASectionUnderWriteProtectionEndsTheProcess() async throws {
    let path = try await closedPool()
    let outcome = try await Helper.run(
      "volip-test-helper", ["write-outside-section", path], environment: environment)
    #expect(outcome.status == .signaled(SIGSEGV))
    let offset = try #require(outcome.output.split(separator: " ").last).dropLast()
    #expect(outcome.output == "offset \(offset)\n")
    #expect(outcome.errors.contains("pool offset \(offset), outside a section"), "\(outcome)")
    let pool = try Pool.open(path, options: .test())
    #expect(try pool.sectionNumber == 1000)
    try pool.expectUsable()
  }

  @Test func aForkedChildHasNothingOfThePool() async throws {
    let path = try await closedPool()
    let outcome = try await Helper.run(
      "volip-test-helper", ["fork-child", path], environment: environment)
    #expect(
      outcome.output == """
        pstart forkedChild
        checkpoint forkedChild
        close forkedChild
        signal \(SIGSEGV)

        """, "\(outcome)")
    let pool = try Pool.open(path, options: .test())
    #expect(try pool.sectionNumber == 77)
    try pool.expectUsable()
  }

  /// The child inherits the thread's note that a section is open, and descriptors through which it
  /// could disarm the parent's pages.
  @Test func aChildForkedInASectionCannotEndIt() async throws {
    let path = try await closedPool()
    let outcome = try await Helper.run(
      "volip-test-helper", ["fork-in-section", path], environment: environment)
    #expect(
      outcome.output == """
        pstart forkedChild
        pcommit forkedChild
        pabort forkedChild
        pend forkedChild
        pend again forkedChild
        signal 0

        """, "\(outcome)")
    let pool = try Pool.open(path, options: .test())
    #expect(try pool.sectionNumber == 88)
    try pool.expectUsable()
  }

  @Test func aChildThatLivesOnDoesNotKeepThePoolLocked() async throws {
    let path = try await closedPool()
    let fifo = directory.file("fifo")
    try #require(mkfifo(fifo, 0o600) == 0)
    let outcome = try await Helper.run(
      "volip-test-helper", ["fork-and-leave", path, fifo], environment: environment)
    let child = try #require(Int32(outcome.output.dropLast()), "\(outcome)")
    let pool = try Pool.open(path, options: .test())
    try #require(kill(child, 0) == 0, "the child is gone: nothing was tested")
    try pool.expectUsable()
    // The child waits for a writer to come and go.
    close(open(fifo, O_WRONLY))
  }
}
