// Laboratory: what the crash laboratory (Tests/CrashLaboratory) sees of persistence, and the sites
// that it removes to see whether a test notices.
//
// Compiled into debug builds and with the package trait CrashLaboratory. Any other build has none
// of it: the calls of an observer are not compiled, and isRemoved is false in every caller.

import Glibc

/// Sees each store to a pool file, in order, and what makes it durable.
package protocol PersistenceObserver: AnyObject, Sendable {
  /// A mapping of the file was made; the ranges of what follows are bytes of the file.
  func didMap(_ memory: DurableMemory)
  /// Bytes were stored: past the cache, or with ordinary stores.
  func didStore(_ range: Range<Int>, isCached: Bool)
  func didFlush(_ range: Range<Int>)
  /// Before a fence. An error is what the fence throws instead of doing its work.
  func willFence() throws(PoolError)
  func didFence()
  /// The file has another length, which is not durable before `didSyncLength`.
  func didSetLength(_ bytes: Int)
  func didSyncLength()
}

package enum PersistenceLaboratory {
  /// Sees the mappings that are made while it is set.
  @TaskLocal package static var observer: (any PersistenceObserver)?

  /// Whether this build has hooks and mutants.
  package static var isBuilt: Bool {
    #if VOLIP_LAB
      true
    #else
      false
    #endif
  }

  /// The environment variable that removes one site, by name.
  package static let mutantSwitchName = "VOLIP_MUTANT"
}

/// Statements on which the durability of data hangs. The laboratory's build removes one at a time,
/// and a test must fail.
@usableFromInline
package enum MutationSite: String, CaseIterable, Sendable {
  // Durable memory
  case flush, drain, msync, unsyncedRecord, unsyncedUpdate, storeAgain, sectorAlignment
  case syncFailure
  // The commit
  case viewDrain, recordSeal, recordFence, update, logRoom, blocksBeforeSeal, poisonAfterFence,
    poisonedClose
  // The checkpoint, the log that grows, the pool that grows
  case checkpointFlush, checkpointFence, besideFlush, besideFence, checkpointSuperblock,
    lapOnRestart
  case checkpointBeforeGrowth, growthLengthSync
  // The superblock
  case superblockFirstFence, superblockSecondFence, superblockSecondCopy, superblockOrder
  case superblockChecksum, superblockNewerCopy, superblockGeometry, superblockFeatures
  case fileLengthCheck
  // Recovery
  case secureRecords, secureSuperblock, secureFence, replayFlush, replayFence
  case sealCheck, sealSeed, generationCheck, generationRaise, recoverySuperblock
  case lsnCheck, positionCheck, previousEndCheck, laterRecordCheck, extentBounds, recordBounds
  // Lanes
  case laneIdentity, laneLsnCheck, laneOrder, laneFence, laneCut, laneRestoreWait
  case laneRestoreCut, laneOwner, laneStopped, laneLooks, rolledBackArenas, deferredMany
  // Groups
  case heapLock, cancellationInGate
  case laneCheckpointFlush, laneCheckpointFence, laneGate, laneTail, laneGap
  // Sections
  case gate, strayWriteCheck, takeBack, dropOnRollBack, abortOnThreadExit
  // Announced writes
  case announcedUpdate, announcedRestore, audit
  // Buffered sections
  case epochFence, openEpochJudgement
  // Pages that fail
  case failedPagesCheck, lostMemoryCheck, lostPagesWhole, rebuildImage
  // Trackers
  case armByProtection, armInGuest, guestFlush, armInLog, marksInLog, lateWrites, announcedGaps
  // The process
  case fileLock, lockNotInherited, memoryNotInherited
  // The heap
  case heapHeaderCheck, pageEntryCheck
}

#if VOLIP_LAB
  private let removedSite: MutationSite? = getenv(PersistenceLaboratory.mutantSwitchName).map {
    let name = String(cString: $0)
    guard let site = MutationSite(rawValue: name) else { fatalError("no mutation site \(name)") }
    return site
  }

  /// Whether a statement is to be left out.
  package func isRemoved(_ site: MutationSite) -> Bool { removedSite == site }
#else
  /// Whether a statement is to be left out: never.
  @inlinable @inline(__always)
  package func isRemoved(_ site: MutationSite) -> Bool { false }
#endif
