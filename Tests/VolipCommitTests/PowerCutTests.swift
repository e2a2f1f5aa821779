#if DEBUG
  import Glibc
  import TestSupport
  import Testing

  @testable import VolipCommit

  /// Power cuts and kills at every fence, with every unit that was stored and not fenced there or
  /// not, and again inside the recovery from them.
  @Suite struct PowerCutTests {
    /// A pool, its model, and the states that a crash may leave now.
    final class Campaign {
      var generator: SeededGenerator
      let pool: EnginePool
      let path: PersistencePath
      let cut: PowerCut
      /// The section that is being committed, if any.
      var inFlight: [UInt8]?
      var images = 0
      var recoveries = 0
      var checksPerFence = 2
      var replayed = 0

      init(
        _ name: String, _ path: PersistencePath, logBytes: UInt64 = 64 << 10,
        logBytesMax: UInt64 = 64 << 10, tracker: TrackerKind? = nil, announces: Bool = false
      ) throws {
        generator = SeededGenerator.forTest(name)
        self.path = path
        pool = try EnginePool(
          fileBytes: 1 << 20, logBytes: logBytes, logBytesMax: logBytesMax, tracker: tracker,
          persistence: path, announces: announces)
        cut = PowerCut(
          pool.engine.parts.memory, pool.engine.superblock.geometry, using: &generator)
        cut.atFence = { [unowned self] cut throws(PoolError) in
          cut.evictSome()
          for _ in 0..<checksPerFence { check(cut.image(), "fence \(cut.fences)") }
        }
      }

      /// Recovers an image; the model's committed state or the one in flight must be there.
      func check(_ image: [UInt8], _ place: String) {
        images += 1
        do {
          let found = try RecoveredImage(image, in: pool.directory)
          replayed += found.summary.recordCount
          #expect(isAllowed(found.bytes), "\(place), image \(images)")
        } catch {
          Issue.record("\(place), image \(images): \(error)")
        }
      }

      func isAllowed(_ bytes: [UInt8]) -> Bool {
        bytes == pool.committed || inFlight.map { bytes == $0 } ?? false
      }

      func commit() throws {
        let isAnnounced = pool.announces && Bool.random(using: &generator)
        try pool.engine.openSection(isAnnounced ? .announced : .exclusive)
        if pool.announces { pool.scribbleAnnounced(using: &generator) }
        if !isAnnounced { pool.scribble(using: &generator) }
        inFlight = pool.current
        try pool.engine.closeSection()
        pool.committed = inFlight!
        inFlight = nil
        check(cut.image(), "after the section")
      }

      func abort() throws {
        try pool.engine.openSection()
        if pool.announces { pool.scribbleAnnounced(using: &generator) }
        pool.scribble(using: &generator)
        try pool.engine.abortSection()
        #expect(pool.current == pool.committed)
      }

      func step() throws {
        switch Int.random(in: 0..<12, using: &generator) {
        case 0: try abort()
        case 1: try pool.engine.checkpointNow()
        default: try commit()
        }
      }

      /// The process is killed: all that it stored can be read, and is on media or not.
      func killAndRecover() throws {
        try recover(cut.readable(), durable: cut.durable, "kill")
      }

      /// The power is cut.
      func cutAndRecover() throws {
        let image = cut.image()
        try recover(image, durable: image, "cut")
      }

      /// A recovery in which the power is cut at each fence.
      private func recover(_ readable: [UInt8], durable: [UInt8], _ cause: String) throws {
        let path = pool.directory.file("recovered.pool")
        unlink(path)
        FileBytes.write(readable, to: path)
        let file = try PoolFile.open(path: path)
        let memory = try DurableMemory.map(descriptor: file.descriptor, forced: self.path)
        let second = PowerCut(
          memory, file.superblock.geometry, durable: durable, using: &generator)
        second.atFence = { [unowned self] second throws(PoolError) in
          second.evictSome()
          for _ in 0..<checksPerFence { check(second.image(), "\(cause), fence \(second.fences)") }
        }
        let summary = try Recovery(file, memory).run()
        recoveries += 1
        // What the open found is there for good.
        let image = memory.address(Int(file.superblock.geometry.imageOffset))
        let found = Array(
          UnsafeRawBufferPointer(start: image, count: EnginePool.watchedPages * 4096))
        #expect(isAllowed(found))
        let again = try RecoveredImage(second.image(), in: pool.directory)
        #expect(again.bytes == found && again.summary.recordCount == 0)
        replayed += summary.recordCount
      }
    }

    @Test(arguments: PersistencePath.allCases, [false, true])
    func aPowerCutAtAnyFenceLeavesTheLastSectionOrTheOneInFlight(
      _ path: PersistencePath, announces: Bool
    ) throws {
      let campaign = try Campaign(
        "aPowerCut \(path.rawValue) \(announces)", path, announces: announces)
      for _ in 0..<campaignSteps { try campaign.step() }
      print("\(campaign.images) images, \(campaign.replayed) records replayed")
    }

    @Test(arguments: PersistencePath.allCases)
    func aPowerCutWhileTheLogGrowsLeavesTheLastSectionOrTheOneInFlight(
      _ path: PersistencePath
    ) throws {
      for _ in 0..<campaignSteps / 20 {
        let campaign = try Campaign(
          "growing log \(path.rawValue)", path, logBytesMax: 600 << 10)
        for _ in 0..<6 { try campaign.step() }
        try campaign.pool.engine.openSection()
        let bytes = campaign.pool.bytes
        let pages = Int.random(in: 16...40, using: &campaign.generator)
        for offset in 0..<pages * 4096 / 8 {
          bytes[offset * 8] = campaign.generator.next()
        }
        campaign.inFlight = campaign.pool.current
        try campaign.pool.engine.closeSection()
        campaign.pool.committed = campaign.inFlight!
        campaign.inFlight = nil
        for _ in 0..<4 { try campaign.step() }
        try campaign.killAndRecover()
      }
    }

    /// Recovery wrote superblock copy 1 first, always: over the only whole one, where the power had
    /// been cut while copy 2 was written, or where a killed process had stored copy 2 and not
    /// fenced it. Another power cut then left two halves.
    @Test(arguments: PersistencePath.allCases, [false, true])
    func aPowerCutInsideARecoveryLeavesWhatItFound(
      _ path: PersistencePath, announces: Bool
    ) throws {
      let campaign = try Campaign(
        "recovery \(path.rawValue) \(announces)", path, announces: announces)
      campaign.checksPerFence = 1
      let atFence = campaign.cut.atFence
      campaign.cut.atFence = { [unowned campaign] cut throws(PoolError) in
        try atFence(cut)
        let chance = cut.isAtSuperblock ? 1 : 8
        guard Int.random(in: 0..<chance, using: &campaign.generator) == 0 else { return }
        do {
          try campaign.killAndRecover()
          try campaign.cutAndRecover()
        } catch {
          Issue.record("\(error)")
        }
      }
      for _ in 0..<campaignSteps { try campaign.step() }
      print("\(campaign.images) images, \(campaign.recoveries) recoveries")
    }

    /// A fence fails; what it was to make durable is lost for good, though it can be read. The
    /// handle is closed without another store, and the next open tells which state it is.
    @Test(arguments: PersistencePath.allCases)
    func aFenceThatFailsPoisonsTheHandleAndTheNextOpenTells(_ path: PersistencePath) throws {
      for _ in 0..<campaignSteps / 10 {
        let campaign = try Campaign("failing fence \(path.rawValue)", path, logBytesMax: 128 << 10)
        campaign.checksPerFence = 1
        var fencesLeft = Int.random(in: 1...40, using: &campaign.generator)
        let atFence = campaign.cut.atFence
        campaign.cut.atFence = { cut throws(PoolError) in
          try atFence(cut)
          fencesLeft -= 1
          if fencesLeft == 0 { throw .system(operation: "msync", errorNumber: EIO) }
        }
        do {
          while true { try campaign.step() }
        } catch PoolError.outcomeUnknown(let errorNumber) {
          #expect(errorNumber == EIO && campaign.inFlight != nil)
        } catch {
          #expect("\(error)" == "\(PoolError.system(operation: "msync", errorNumber: EIO))")
          campaign.inFlight = nil  // not sealed: rolled back
        }
        #expect {
          try campaign.pool.engine.openSection()
        } throws: {
          if case PoolError.poisoned = $0 { true } else { false }
        }
        let left = campaign.cut.readable()
        let fences = campaign.cut.fences
        try campaign.killAndRecover()
        // `close` of a poisoned handle kept the file locked, and its addresses.
        try campaign.pool.engine.close()
        #expect(campaign.cut.fences == fences && FileBytes.read(campaign.pool.path) == left)
        let again = try PoolEngine(PoolFile.open(path: campaign.pool.path), options: .init())
        try again.openSection()
        try again.closeSection()
        let found = UnsafeRawBufferPointer(
          start: again.base, count: EnginePool.watchedPages * 4096)
        #expect(campaign.isAllowed(Array(found)))
      }
    }

    /// Growth of the pool: the file is longer, then one superblock copy and the other say so, each
    /// in any of its lines.
    @Test func aPowerCutWhileThePoolGrowsLeavesItAtOneSizeOrTheOther() throws {
      var generator = SeededGenerator.forTest()
      let pool = try EnginePool(fileBytes: 1 << 20)
      for size in 2...4 as ClosedRange<UInt64> {
        for _ in 0..<3 { try pool.commitScribbles(using: &generator) }
        try pool.engine.checkpointNow()
        let before = FileBytes.read(pool.path)
        try pool.engine.grow(toFileBytes: size << 20)
        let after = FileBytes.read(pool.path)
        let longer = before + [UInt8](repeating: 0, count: after.count - before.count)
        for round in 0..<12 {
          var cut = longer
          for copy in Superblock.copyOffsets {
            let isTorn = (round < 6) == (copy == 0)
            for line in stride(from: copy, to: copy + 256, by: 64)
            where isTorn ? Bool.random(using: &generator) : copy == 0 {
              cut.replaceSubrange(line..<line + 64, with: after[line..<line + 64])
            }
          }
          let recovered = try RecoveredImage(cut, in: pool.directory)
          #expect(recovered.bytes == pool.committed, "round \(round)")
          let bytes = Int(recovered.superblock.geometry.fileBytes)
          #expect(bytes == before.count || bytes == after.count)
        }
        // A later growth begins with the pages that an earlier one left.
        #expect(try RecoveredImage(after, in: pool.directory).bytes == pool.committed)
      }
    }

    /// More with `VOLIP_TEST_STEPS`.
    private var campaignSteps: Int {
      getenv("VOLIP_TEST_STEPS").flatMap { Int(String(cString: $0)) } ?? 60
    }
  }
#endif
