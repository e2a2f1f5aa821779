import Glibc
import TestSupport
import Testing
import VolipMem

/// One test for each way to lose data that a review of the protocol found.
@Suite(.serialized) struct SurvivalTests {
  let directory = TemporaryDirectory()
  var path: String { directory.file("test.pool") }

  private func run(_ verb: String, _ argument: String? = nil) async throws -> Helper.Outcome {
    let outcome = try await Helper.run(
      "volip-test-helper", [verb, argument ?? path], environment: ["SWIFT_BACKTRACE": "enable=no"])
    if outcome.output.hasPrefix("skipped") { print("\(verb): \(outcome.output)") }
    return outcome
  }

  /// msync is a cancellation point: the thread ended between the sealed record and its update, and
  /// a later checkpoint passed the record by.
  @Test func aThreadThatIsCancelledInPendCommitsFirst() async throws {
    let outcome = try await run("cancelled-commit")
    #expect(outcome.output == "cancelled true memory 2\n", "\(outcome.errors)")
    let pool = try Pool.open(path)
    #expect(try pool.root("n", as: Int.self)?.pointee == 2)
  }

  /// Ours handed the fault to theirs, theirs to ours, and so on.
  @Test func aCrashReporterThatHandsOnEndsTheProcessOnce() async throws {
    let outcome = try await run("chaining-handler")
    #expect(outcome.output == "counted 11\n", "\(outcome.errors)")
    #expect(outcome.status == .signaled(SIGSEGV))
  }

  @Test func aSignalThatIsSentEndsTheProcess() async throws {
    let outcome = try await run("sent-signal")
    #expect(outcome.output == "ready\n" && outcome.status == .signaled(SIGSEGV))
  }

  /// Locked pages refuse MADV_DONTNEED.
  @Test func aSectionRollsBackInLockedMemory() async throws {
    let outcome = try await run("locked-memory")
    #expect(
      outcome.output == "value 1\nvalue 3\n" || outcome.output.hasPrefix("skipped"),
      "\(outcome.output) \(outcome.errors)")
  }

  /// Retention kept lone pages writable until no mapping was left to arm the others with.
  @Test func lonePagesThatAreRetainedLeaveMappingsForTheProgram() async throws {
    let outcome = try await run("lone-pages-retained")
    #expect(outcome.output == "kept 33000\n", "\(outcome.errors)")
  }

  @Test func sectionsInAProcessWithHardlyAMappingLeftAreKept() async throws {
    var generator = SeededGenerator.forTest()
    let seed: UInt64 = generator.next()
    let outcome = try await Helper.run(
      "volip-test-helper", ["crowded-sections", path, "\(seed)"],
      environment: ["SWIFT_BACKTRACE": "enable=no"])
    #expect(outcome.output == "kept, 15 times full\n", "seed \(seed): \(outcome.errors)")
  }

  /// The heap went on with a page table that was rolled back, and wrote beyond the pool's end.
  @Test func aGrowthThatFailsLeavesTheHeapAtItsOldSize() async throws {
    let outcome = try await run("grow-on-full-disk", directory.path)
    #expect(
      outcome.output == "grow failed\nconsistent true\nblocks true true\n"
        || outcome.output.hasPrefix("skipped"), "\(outcome.output) \(outcome.errors)")
  }

  /// Growth that was not finished was tried again by each open, which failed with it.
  @Test func aPoolWhoseGrowthMetAFullDiskOpensOnTheFullDisk() async throws {
    let outcome = try await run("reopen-on-full-disk", directory.path)
    #expect(
      outcome.output == "grow diskFull\nopen nothing\nconsistent true\n"
        || outcome.output.hasPrefix("skipped"), "\(outcome.output) \(outcome.errors)")
  }

  /// The engine was freed while the thread still named it; a pool that came to stand at its address
  /// took sections for nested ones, and committed nothing.
  @Test func aHandleThatGoesInsideItsSectionAbortsIt() throws {
    do {
      let pool = try Pool.create(path, byteCount: 1 << 20, options: .test())
      try pool.pstart()
      _ = try pool.allocate(byteCount: 100)
    }
    let other = try Pool.create(directory.file("b.pool"), byteCount: 1 << 20, options: .test())
    let before = try other.statistics().committed
    try other.section { section in _ = try other.root("n", in: &section) { 7 } }
    #expect(try other.statistics().committed == before + 1)
    let pool = try Pool.open(path, options: .test())
    #expect(pool.checkHeap().blocks.isEmpty)
  }

  /// A creator that lost a race removed the winner's pool.
  @Test func ofTwoCreatorsOneWinsAndItsPoolStays() throws {
    let options = Pool.Options.test()
    let geometry = try PoolGeometry(fileBytes: 1 << 20, logBytes: nil, logBytesMax: nil)
    let late = try PoolFile.create(path: path, geometry: geometry)
    #expect(access(path, F_OK) != 0)
    let pool = try Pool.create(path, byteCount: 1 << 20, options: options)
    try pool.section { section in _ = try pool.root("n", in: &section) { 7 } }
    #expect(throws: PoolError.alreadyExists(path: path)) { try late.publish() }
    try pool.close()
    let again = try Pool.open(path, options: options)
    #expect(try again.root("n", as: Int.self)?.pointee == 7)
  }

  /// Without unnamed files a pool has its name from the start; one that was never finished kept it,
  /// and the next base address was tried on a name that was taken.
  @Test func aPoolThatWasNotFinishedLeavesNoFileWithoutUnnamedFilesEither() async throws {
    let outcome = try await run("create-without-unnamed-files")
    #expect(
      outcome.output == """
        create addressTaken
        exists false
        create nothing
        exists true

        """ || outcome.output.hasPrefix("skipped"), "\(outcome.output) \(outcome.errors)")
  }

  /// The child inherited its thread's note of a section, and could use no pool at all.
  @Test func aChildOfAThreadInASectionCanUseAPoolOfItsOwn() async throws {
    let outcome = try await run("fork-in-section-for-another")
    #expect(outcome.output == "child nothing\nsignal 0\nparent nothing\n", "\(outcome.errors)")
  }

  /// The slower one was told that the pool exists already, by a function that opens those.
  @Test func twoThreadsThatMapANewPoolAtOnceOpenItOrFindItInUse() async throws {
    let outcome = try await run("map-at-once")
    #expect(outcome.output == "failures 0\n", "\(outcome.errors)")
  }

  /// A child that was forked while the pool was being opened kept the lock for as long as it lived.
  @Test func aChildThatWasForkedDuringAnOpenDoesNotKeepTheLock() async throws {
    let outcome = try await run("fork-while-opening")
    #expect(outcome.output == "open nothing\n", "\(outcome.errors)")
  }

  @Test func thePrimitivesMeanTheSectionsPool() throws {
    let one = try pmap(path, byteCount: 1 << 20, options: .test())
    try pstart()
    let number = try one.allocate(Int.self)
    number.initialize(to: 1)
    #expect(throws: PoolError.nestedSection) { try punmap() }
    let other = directory.file("b.pool")
    #expect(throws: PoolError.self) { try pmap(other, byteCount: 1 << 20, options: .test()) }
    #expect(access(other, F_OK) != 0)
    try pend()
    #expect(number.pointee == 1)
    #expect(one.checkHeap().blocks.count == 1)
    try punmap()
  }

  @Test func aRootWhoseFirstValueFailsIsNotThere() throws {
    let pool = try Pool.create(path, byteCount: 1 << 20, options: .test())
    try pool.section { section in
      let root = try? pool.root("n", in: &section) { () throws -> Int in throw Unfinished() }
      #expect(root == nil)
    }
    #expect(try pool.roots().isEmpty)
  }
}
