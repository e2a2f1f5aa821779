import CVolipWriteSet
import Glibc
import Synchronization
import TestSupport
import Testing
import VolipMem

@testable import VolipHeap
@testable import VolipPersistence

/// Which lane allocates where, and what becomes of blocks that it frees elsewhere.
@Suite struct LaneArenaTests {
  typealias Names = PersistentDictionary<Int, PersistentString>

  private static func pages(_ pool: Pool) -> [[Int]] {
    pool.announcedHeap.lanes.map { $0.arenas.map { $0.arenaPage! } }
  }

  private static func deferred(_ pool: Pool) -> UInt64 {
    pool.announcedHeap.arenas.reduce(0) { $0 + $1.header.deferredCount }
  }

  @Test func anArenaIsOneLanesAtMost() throws {
    let pool = try CollectionPool(audit: false).pool
    let (first, second, made, done) = (Event(), Event(), Event(), Event())
    @Sendable func attempt(_ body: () throws -> Void) {
      do { try body() } catch { fatalError("\(error)") }
    }
    run(threads: 2) { thread in
      attempt {
        // Each gets a lane that it takes again, and no arena yet.
        if thread == 1 { first.wait() }
        try pool.engine.openSection(.concurrent)
        if thread == 0 {
          first.signal()
          second.wait()
        } else {
          second.signal()
        }
        try pool.engine.closeSection()
        if thread == 0 {
          KillPoint.pause(at: .arenaMade) {
            made.signal()
            done.wait()
          }
        } else {
          made.wait()
        }
        ConcurrentTests.section(pool) { section in
          _ = try PersistentString("of thread \(thread)", in: &section)
        }
        if thread == 1 { done.signal() }
      }
    }
    let pages = Self.pages(pool).flatMap { $0 }
    #expect(pages.count == 2)
    #expect(Set(pages).count == pages.count)
    #expect(pool.checkHeap().isConsistent)
  }

  @Test func anArenaOfASectionThatWasTakenBackIsNoLanes() throws {
    let collections = try CollectionPool(audit: false)
    let pool = collections.pool
    try collections.abortedSection { section in
      _ = try PersistentString("in an arena that is gone", in: &section)
    }
    #expect(pool.announcedHeap.arenas.count == 1)
    ConcurrentTests.section(pool) { section in
      _ = try PersistentString("in one that is there", in: &section)
    }
    #expect(pool.announcedHeap.arenas.count == pool.heap.header.arenaCount)
    #expect(pool.checkHeap().isConsistent)
  }

  /// Words of the page table that are changed by the lane that has the arena look like damage while
  /// only one of the two has its new value.
  @Test func aLookAtAnotherLanesPagesWaitsForWholeEntries() throws {
    let pool = try CollectionPool(audit: false).pool
    var block: UnsafeMutableRawPointer?
    try pool.section(.announced) { section in
      block = try section.allocateAnnounced(byteCount: 100)
    }
    let address = UnsafeRawPointer(block!)
    let arena = try pool.announcedHeap.arena(of: address)
    let page = (address - UnsafeRawPointer(arena.memory.base)) >> 12
    nonisolated(unsafe) let entry = arena.memory.address(Int(arena.table.offset(ofEntry: page)))
      .assumingMemoryBound(to: UInt64.self)
    let whole = entry.pointee
    let usable = try arena.usableBytes(address)
    let half = Atomic(0)
    let isOver = Atomic(false)
    let completes = BackgroundThread {
      var completed = 0
      while !isOver.load(ordering: .relaxed) {
        sched_yield()
        guard half.load(ordering: .acquiring) > completed else { continue }
        completed += 1
        entry.pointee = whole
      }
    }
    defer {
      isOver.store(true, ordering: .relaxed)
      completes.join()
    }
    for round in 1...200 {
      entry.pointee = whole ^ 1 << 40
      half.store(round, ordering: .releasing)
      #expect(try pool.announcedHeap.usableBytesBesideOthers(address) == usable)
    }
  }

  @Test func aFullPoolIsSaidToBeFullAndLetsSectionsOpenThatAllocateNothing() throws {
    let pool = try CollectionPool(byteCount: 4 << 20, audit: false).pool
    let array = try pool.section { section in
      try pool.root("array", in: &section) { section in
        try PersistentArray<Int>(repeatElement(0, count: 8), in: &section)
      }
    }
    try pool.section { _ in
      for size in [1 << 16, 4096] {
        while (try? pool.allocate(byteCount: size)) != nil {}
      }
    }
    run(threads: 3) { thread in
      do {
        let array = try pool.root("array", of: PersistentArray<Int>.self)!
        for _ in 0..<3 {
          try pool.section(.concurrent) { section in
            array.value.set(thread, to: thread, in: &section)
          }
        }
      } catch { fatalError("\(error)") }
    }
    #expect(array.value[2] == 2)
    // The first time says that there may be more, the second one that there is not.
    for bytes in [100, 1 << 21] {
      var errors: [PoolError] = []
      for _ in 0..<3 {
        do {
          while true {
            try pool.section(.concurrent) { section in
              for _ in 0..<64 { _ = try section.allocateAnnounced(byteCount: bytes) }
            }
          }
        } catch let error as PoolError {
          errors.append(error)
        }
      }
      guard case .poolFull = try #require(errors.last) else {
        Issue.record("\(errors)")
        continue
      }
    }
    #expect(pool.checkHeap().isConsistent)
  }

  @Test func eightLanesLeavePageTrackedMemoryRoom() throws {
    let pool = try CollectionPool(byteCount: 16 << 20, audit: false).pool
    for lane in 0..<8 { try pool.announcedHeap.giveArena(toLane: lane) }
    #expect(Set(Self.pages(pool).flatMap { $0 }).count == 8)
    #expect(pool.heap.header.highWater < pool.heap.header.pageLimit * 2 / 3)
    try pool.section { _ in _ = try pool.allocate(byteCount: 4 << 20) }
  }

  /// What a lane freed of others' arenas comes back in steps that any log has room for; it is free
  /// in every report before.
  @Test func freedBlocksOfOthersComeBackSomeASection() throws {
    let collections = try CollectionPool(audit: false)
    let pool = collections.pool
    let names = try ConcurrentTests.names(pool, "names")
    try pool.section(.announced) { section in
      for key in 0..<1000 {
        let text = try PersistentString("a text that is no word: \(key)", in: &section)
        try names.value.insert(text, forKey: key, in: &section)
      }
    }
    // Another lane than the one that has the arena.
    for lane in 0..<2 { try pool.announcedHeap.giveArena(toLane: lane) }
    run(threads: 1) { _ in
      let names = ConcurrentTests.existing(pool, "names")
      for lane in 0..<2 {
        // The lanes in turn.
        do {
          try pool.engine.openSection(.concurrent)
          try pool.engine.closeSection()
        } catch { fatalError("\(error)") }
        cvw_thread_section()!.pointee.lane_hint = UInt32(lane)
        ConcurrentTests.section(pool) { section in
          for key in lane * 500..<lane * 500 + 500 { try names.value.remove(key, in: &section) }
        }
      }
    }
    let first = Self.deferred(pool)
    #expect(first >= 400)
    let blocks = pool.checkHeap().blocks.count
    let view = try PoolView(collections.path)
    #expect(try view.check().blocks.count == blocks)
    #expect(try view.check().isConsistent)
    var left = first
    while left > 0 {
      try pool.section { _ in }
      let now = Self.deferred(pool)
      #expect(now < left && left - now <= 256)
      left = now
    }
    #expect(pool.checkHeap().blocks.count == blocks)
    #expect(pool.checkHeap().isConsistent)
  }

  @Test func aTokenWhoseSectionHasEndedStopsTheProgram() async throws {
    let directory = TemporaryDirectory()
    for kind in ["concurrent", "group", "exclusive"] {
      let outcome = try await Helper.run(
        "volip-test-helper", ["announce-after-end", directory.file("\(kind).pool"), kind],
        environment: ["SWIFT_BACKTRACE": "enable=no"])
      #expect(outcome.status != .exited(0) && outcome.output == "ended\n", "\(outcome)")
      #expect(outcome.errors.contains("the section has ended"), "\(outcome)")
    }
  }

  /// What waits for the gate or for lanes waits in calls that cancel a thread, with the gate in
  /// hand.
  @Test func aThreadThatIsCancelledInPstartLeavesNoGateClosed() async throws {
    let directory = TemporaryDirectory()
    let outcome = try await Helper.runPath(
      "/usr/bin/timeout",
      [
        "60", Helper.productDirectory + "/volip-test-helper", "wait-in-gate",
        directory.file("pool"),
      ])
    #expect(outcome.output == "cancelled true\ncancelled true\nopen\n", "\(outcome)")
  }
}
