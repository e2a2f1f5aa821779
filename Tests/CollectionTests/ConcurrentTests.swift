import Glibc
import TestSupport
import Testing
import VolipMem

/// Concurrent sections of threads with collections of their own, and with some in common.
@Suite struct ConcurrentTests {
  typealias Names = PersistentDictionary<Int, PersistentString>

  /// A section that is done again when its lane got more room.
  static func section(_ pool: Pool, _ body: (inout Section) throws -> Void) {
    while true {
      do {
        return try pool.section(.concurrent, body)
      } catch PoolError.laneFull {
        continue
      } catch {
        fatalError("\(error)")
      }
    }
  }

  static func names(_ pool: Pool, _ root: String) throws -> Ref<Names> {
    try pool.section { section in
      try pool.root(root, in: &section) { section in try Names(in: &section) }
    }
  }

  /// References are a thread's own.
  static func existing(_ pool: Pool, _ root: String) -> Ref<Names> {
    do { return try pool.root(root, of: Names.self)! } catch { fatalError("\(error)") }
  }

  @Test func whatThreadsAllocateAndOthersFreeIsNeitherLostNorGivenTwice() throws {
    let collections = try CollectionPool(audit: false)
    let pool = collections.pool
    _ = try Self.names(pool, "common")
    for thread in 0..<3 { _ = try Self.names(pool, "own \(thread)") }
    let lock = Lock()
    run(threads: 3) { thread in
      let common = Self.existing(pool, "common")
      let own = Self.existing(pool, "own \(thread)")
      var generator = SeededGenerator(seed: UInt64(thread))
      for round in 0..<300 {
        Self.section(pool) { section in
          for _ in 0..<4 {
            let key = Int.random(in: 0..<100, using: &generator)
            try own.value.remove(key, in: &section)
            let text = try PersistentString("\(thread) \(key) \(round)", in: &section)
            try own.value.insert(text, forKey: key, in: &section)
          }
        }
        lock.withLock {
          Self.section(pool) { section in
            let key = Int.random(in: 0..<60, using: &generator)
            // What another thread put there is freed here.
            try common.value.remove(key, in: &section)
            let text = try PersistentString("common \(key)", in: &section)
            try common.value.insert(text, forKey: key, in: &section)
          }
        }
        guard round % 10 == 0 else { continue }
        struct TakenBack: Error {}
        lock.withLock {
          do {
            try pool.section(.concurrent) { section in
              try common.value.removeAll(in: &section)
              throw TakenBack()
            }
          } catch is TakenBack {
          } catch { fatalError("\(error)") }
        }
      }
    }
    func expectWhole(_ pool: Pool) throws {
      let report = pool.checkHeap()
      #expect(report.isConsistent, "\(report.problems)")
      for (root, prefix) in [("common", "common")] + (0..<3).map({ ("own \($0)", "\($0)") }) {
        let names = try #require(try pool.root(root, of: Names.self))
        var count = 0
        names.value.forEach { key, value in
          count += 1
          #expect(String(value).hasPrefix("\(prefix) \(key)"))
        }
        #expect(count == names.value.count && count > 20)
      }
    }
    try expectWhole(pool)
    try collections.reopen()
    let again = collections.pool
    try expectWhole(again)
    try again.section { section in
      for root in ["common", "own 0", "own 1", "own 2"] {
        try again.root(root, of: Names.self)!.free(in: &section)
        try again.removeRoot(root, in: &section)
      }
    }
    collections.expectNoLeaks(besideRoots: 0)
  }

  @Test func aSectionThatNeedsMoreThanItsLaneHasGetsItTheNextTime() throws {
    let collections = try CollectionPool(audit: false)
    let pool = collections.pool
    let array = try pool.section { section in
      try pool.root("array", in: &section) { section in
        try PersistentArray<Int>(in: &section)
      }
    }
    var failures = 0
    while true {
      do {
        try pool.section(.concurrent) { section in
          for number in 0..<400_000 { try array.value.append(number, in: &section) }
        }
        break
      } catch PoolError.laneFull(let bytes) {
        #expect(bytes > 100_000 && failures < 8)
        #expect(array.value.count == 0)
        failures += 1
      } catch PoolError.sectionTooLarge {
        break
      }
    }
    #expect(failures > 0)
    #expect(pool.checkHeap().isConsistent)
  }

  @Test func memoryThatIsNotAnnouncedIsRefused() throws {
    let pool = try CollectionPool(audit: false).pool
    #expect(throws: PoolError.pageTrackedWrite) {
      try pool.section(.concurrent) { _ in _ = try pool.allocate(byteCount: 100) }
    }
    #expect(throws: PoolError.pageTrackedWrite) {
      try pool.section(.concurrent) { section in
        _ = try pool.root("new", in: &section) { 5 }
      }
    }
    #expect(pool.checkHeap().isConsistent)
  }

  @Test func anAuditFindsWritesToOtherMemoryInAConcurrentSection() throws {
    let collections = try CollectionPool(audit: true)
    let pool = collections.pool
    let word = try pool.section { section in try pool.root("word", in: &section) { 5 } }
    let names = try Self.names(pool, "names")
    #expect(throws: PoolError.pageTrackedWrite) {
      try pool.section(.concurrent) { _ in word.pointee = 6 }
    }
    #expect(word.pointee == 5)
    Self.section(pool) { section in
      let text = try PersistentString("audited", in: &section)
      try names.value.insert(text, forKey: 1, in: &section)
    }
  }

  /// Page-tracked memory, with the heap's lock.
  @Test func threadsOfAGroupAllocateAndFree() throws {
    let collections = try CollectionPool(audit: false)
    let pool = collections.pool
    for thread in 0..<3 { _ = try Self.names(pool, "own \(thread)") }
    run(threads: 3) { thread in
      let names = Self.existing(pool, "own \(thread)")
      var blocks: [UnsafeMutableRawPointer] = []
      var generator = SeededGenerator(seed: UInt64(thread))
      for round in 0..<60 {
        do {
          try pool.section(.group) { section in
            for _ in 0..<5 {
              let bytes = Int.random(in: 1...6000, using: &generator)
              let block = try pool.allocate(byteCount: bytes)
              block.storeBytes(of: thread, as: Int.self)
              blocks.append(block)
              if blocks.count > 20 { try pool.deallocate(blocks.removeFirst()) }
            }
            let text = try PersistentString("\(round)", in: &section)
            try names.value.insert(text, forKey: round, in: &section)
          }
        } catch { fatalError("\(error)") }
        precondition(blocks.allSatisfy { $0.load(as: Int.self) == thread })
      }
    }
    let report = pool.checkHeap()
    #expect(report.isConsistent, "\(report.problems)")
    for thread in 0..<3 { #expect(Self.existing(pool, "own \(thread)").value.count == 60) }
    try collections.reopen()
    #expect(collections.pool.checkHeap().blocks.count == report.blocks.count)
  }
}
