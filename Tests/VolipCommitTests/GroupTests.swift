import Glibc
import Synchronization
import TestSupport
import Testing

@testable import VolipCommit

/// Sections of a group overlap and commit in one record; and what waits for what for ever is found.
@Suite struct GroupTests {
  @Test(arguments: TrackerKind.hostKinds)
  func sectionsThatOverlapCommitInOneRecord(_ kind: TrackerKind) throws {
    guard let pool = try whereTrackerIsAvailable({ try EnginePool(tracker: kind, announces: true) })
    else { return }
    let engine = pool.engine
    let announcedByte = EnginePool.announcedBytes.lowerBound
    for round in 1...20 as ClosedRange<UInt64> {
      let before = try engine.currentStatistics()
      let (opened, ended) = (Event(), Event())
      run(threads: 2) { thread in
        attempt {
          try engine.openSection(.group)
          engine.base.storeBytes(of: round, toByteOffset: thread * 8, as: UInt64.self)
          let address = engine.base + announcedByte + thread * 8
          address.storeBytes(of: round, as: UInt64.self)
          engine.announcedOfThisThread.announce(address, byteCount: 8)
          // The second ends while the first is open.
          if thread == 0 {
            opened.signal()
            ended.wait()
          } else {
            opened.wait()
            ended.signal()
          }
          try engine.closeSection()
        }
      }
      let after = try engine.currentStatistics()
      #expect(after.committed == before.committed + 1)
      #expect(after.persistence.fences == before.persistence.fences + 1)
      let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
      #expect(recovered.bytes == pool.current)
      #expect(recovered.bytes[8] == UInt8(round) && recovered.bytes[0] == UInt8(round))
      #expect(recovered.bytes[announcedByte] == UInt8(round))
    }
  }

  @Test func anAbortTakesTheWholeGroupBack() throws {
    let pool = try EnginePool(announces: true)
    let engine = pool.engine
    for aborter in 0..<2 {
      let (opened, first) = (Event(), Event())
      let reported = Atomic(0)
      run(threads: 2) { thread in
        attempt {
          try engine.openSection(.group)
          engine.base.storeBytes(of: 7, toByteOffset: thread * 5000, as: UInt64.self)
          if thread == 0 {
            opened.wait()
            first.signal()
          } else {
            opened.signal()
            first.wait()
          }
          if thread == aborter { return try engine.abortSection() }
          do {
            try engine.closeSection()
          } catch PoolError.sectionAborted {
            reported.add(1, ordering: .relaxed)
          }
        }
      }
      #expect(reported.load(ordering: .relaxed) == 1)
      #expect(pool.current == pool.committed)
    }
  }

  @Test func groupsExclusiveAndConcurrentSectionsTakeTurns() throws {
    let pool = try EnginePool(logBytes: 64 << 10, logBytesMax: 64 << 10, announces: true)
    let engine = pool.engine
    let first = EnginePool.announcedBytes.lowerBound
    run(threads: 4) { thread in
      attempt {
        for round in 1...80 as ClosedRange<UInt64> {
          let kinds: [SectionKind] = [.group, .group, .concurrent, .exclusive]
          let kind = kinds[(thread + Int(round) / 8) % 4]
          try engine.openSection(kind)
          let address = engine.base + first + thread * 64
          address.storeBytes(of: round, as: UInt64.self)
          engine.announcedOfThisThread.announce(address, byteCount: 8)
          if kind != .concurrent {
            engine.base.storeBytes(of: round, toByteOffset: thread * 4096, as: UInt64.self)
          }
          try engine.closeSection()
        }
      }
    }
    let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(recovered.bytes == pool.current)
    for thread in 0..<4 { #expect(pool.bytes[first + thread * 64] == 80) }
  }

  @Test func aLockTakenBothWaysAroundAGroupIsNamed() throws {
    let pool = try EnginePool(deadlockSeconds: 1)
    let engine = pool.engine
    let (lock, bothOpen, isLocked) = (Lock(), Event(), Event())
    let text = Mutex("")
    run(threads: 2) { thread in
      attempt {
        if thread == 0 {
          lock.lock()
          try engine.openSection(.group)
          isLocked.signal()
          bothOpen.wait()
          do {
            try engine.closeSection()
          } catch PoolError.sectionsDeadlocked(let reason) {
            text.withLock { $0 = reason }
          }
          lock.unlock()
        } else {
          isLocked.wait()
          try engine.openSection(.group)
          engine.base.storeBytes(of: 9, as: UInt64.self)
          bothOpen.signal()
          lock.lock()
          lock.unlock()
          try engine.closeSection()
        }
      }
    }
    #expect(text.withLock { $0 }.contains("group sections"))
    let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(recovered.bytes[0] == 9)
  }

  /// What one section of a group changes in the heap no other one sees half done.
  @Test func whoLooksAtTheHeapInAGroupWaitsForWhoChangesIt() throws {
    let pool = try EnginePool(announces: true)
    let engine = pool.engine
    let (isOpen, isLocked, isTried) = (Event(), Event(), Event())
    let steps: [@Sendable () throws -> Void] = [
      { try engine.willWrite(engine.base, byteCount: 8) },
      { try engine.closeSection() },
    ]
    run(threads: 2) { thread in
      attempt {
        try engine.openSection(.group)
        if thread == 0 {
          isOpen.wait()
          for _ in steps {
            try engine.withHeapLock { () throws(PoolError) in
              isLocked.signal()
              if isTried.wait(milliseconds: 200) { fatalError("nobody waited") }
            }
            isTried.wait()
          }
          return try engine.closeSection()
        }
        let address = engine.base + EnginePool.announcedBytes.lowerBound
        address.storeBytes(of: 7, as: UInt64.self)
        engine.announcedOfThisThread.announce(address, byteCount: 8)
        isOpen.signal()
        for (index, step) in steps.enumerated() {
          isLocked.wait()
          // The last one returns when the group is over.
          guard index < steps.count - 1 else {
            KillPoint.pause(at: .groupMerged) { isTried.signal() }
            return try step()
          }
          try step()
          isTried.signal()
        }
      }
    }
    let recovered = try RecoveredImage(FileBytes.read(pool.path), in: pool.directory)
    #expect(recovered.bytes[EnginePool.announcedBytes.lowerBound] == 7)
  }

  @Test(
    arguments: [SectionKind.concurrent, .exclusive],
    [SectionKind.exclusive, .group, .concurrent])
  func aLockTakenBothWaysAroundOtherSectionsIsNamed(
    _ kind: SectionKind, _ waiting: SectionKind
  ) throws {
    // Two concurrent sections wait for nothing.
    guard kind != .concurrent || waiting != .concurrent else { return }
    let pool = try EnginePool(announces: true, deadlockSeconds: 1)
    let engine = pool.engine
    let (lock, isOpen, isLocked) = (Lock(), Event(), Event())
    let text = Mutex("")
    run(threads: 2) { thread in
      attempt {
        if thread == 0 {
          lock.lock()
          isLocked.signal()
          isOpen.wait()
          do {
            try engine.openSection(waiting)
          } catch PoolError.sectionsDeadlocked(let reason) {
            text.withLock { $0 = reason }
          }
          lock.unlock()
        } else {
          isLocked.wait()
          try engine.openSection(kind)
          isOpen.signal()
          lock.lock()
          lock.unlock()
          try engine.closeSection()
        }
      }
    }
    #expect(text.withLock { $0 }.contains("thread"))
    try engine.openSection(.concurrent)
    try engine.closeSection()
    try engine.openSection()
    try engine.closeSection()
  }
}

/// Ends the test's process where what must work does not: other threads would wait for ever.
func attempt(_ body: () throws -> Void) {
  do { try body() } catch { fatalError("\(error)") }
}
