// Gate: which sections may be open beside which.
//
//   kind                    open beside           holds the gate   commits
//   exclusive, announced    nothing               pstart to pend   alone
//   group                   others of its group   no: the group    together, by the last pend
//   concurrent              other concurrent      no: its lane     alone, in its lane (rule 1)
//
// Who wants the gate waits until nobody holds it, no group is open, and, but for looking, no lane
// is taken; from then on nobody opens a section. Lock order: see Lanes+Unsafe.swift.
//
// SAFETY: gate and condition are initialized before anybody sees the engine, destroyed with it.

import CVolipWriteSet
import Glibc
import Synchronization

/// Sections that commit together. All under the gate.
final class SectionGroup {
  /// Of its open sections.
  var threads: [Int32] = []
  /// A section has ended: no other may join.
  var isClosing = false
  var isDoomed = false
  var isOver = false
  /// What became of its commit.
  var error: PoolError?
}

/// A section of a group, as its thread remembers it.
final class GroupMember {
  let group: SectionGroup
  let announced: AnnouncedWrites

  init(_ group: SectionGroup, announced: AnnouncedWrites) {
    (self.group, self.announced) = (group, announced)
  }

  deinit { announced.deallocate() }
}

extension PoolEngine {
  func lock(evenPoisoned: Bool = false) throws(PoolError) {
    guard parentMark.pointee == 1 else { throw .forkedChild }
    if !isRemoved(.gate) {
      try lockGate()
      if group != nil { try waitForGroup() }
    }
    guard isStopped.load(ordering: .acquiring) else { return }
    if evenPoisoned, state != .closed { return }
    unlock()
    throw stopped
  }

  func unlock() {
    pthread_mutex_unlock(gate)
  }

  /// The gate alone, whatever group is open.
  func lockGate() throws(PoolError) {
    if pthread_mutex_trylock(gate) == 0 { return }
    var watch = DeadlockWatch()
    while pthread_mutex_timedlock(gate, &watch.deadline) != 0 {
      let owner = gateThread.load(ordering: .relaxed)
      try watch.look(at: owner == 0 ? [] : [owner], kind: "exclusive", options.deadlockSeconds)
    }
  }

  /// Until no group is open; under the gate, which it opens meanwhile.
  ///
  /// - Parameter mayJoin: a group that others opened meanwhile is waited for no more.
  func waitForGroup(mayJoin: Bool = false) throws(PoolError) {
    var watch = DeadlockWatch()
    while let open = group, !mayJoin || open.isClosing {
      if pthread_cond_timedwait(groupEnded, gate, &watch.deadline) == 0 { continue }
      do throws(PoolError) {
        try watch.look(at: open.threads, kind: "group", options.deadlockSeconds)
      } catch {
        unlock()
        throw error
      }
    }
  }

  /// Until the group's last section has ended; under the gate, which it opens meanwhile.
  func waitForEnd(of group: SectionGroup) throws(PoolError) {
    var watch = DeadlockWatch()
    while !group.isOver {
      if pthread_cond_timedwait(groupEnded, gate, &watch.deadline) == 0 { continue }
      try watch.look(at: group.threads, kind: "group", options.deadlockSeconds)
    }
    if let error = group.error { throw error }
  }

  /// Until no section of a lane is open, with the gate closed. Sections are short, and those of
  /// lanes do not pay for waking anybody: this looks now and then.
  func waitForLanes() throws(PoolError) {
    lanes.isClosed.store(true, ordering: .sequentiallyConsistent)
    guard !isRemoved(.laneGate) else { return }
    var watch = DeadlockWatch()
    while !lanes.isQuiet {
      guard watch.rest() else { continue }
      do throws(PoolError) {
        try watch.look(at: lanes.threads, kind: "concurrent", options.deadlockSeconds)
      } catch {
        if lanes.isActive, !isStopped.load(ordering: .relaxed) {
          lanes.isClosed.store(false, ordering: .sequentiallyConsistent)
        }
        throw error
      }
    }
  }

  /// Makes the log one again, if it is divided, when no section of a lane is open any more.
  func closeLanes() throws(PoolError) {
    guard lanes.isActive else { return }
    try waitForLanes()
    // One of them may have poisoned the handle: what it left in memory is nobody's to build on.
    guard !isStopped.load(ordering: .acquiring) || isRemoved(.laneStopped) else { throw stopped }
    try Self.withoutCancellation(leaveLanes)
  }

  @inline(__always)
  private func takeFreeLane() -> Lane? {
    let section = cvw_thread_section()!
    guard let lane = lanes.take(hint: Int(section.pointee.lane_hint)) else { return nil }
    section.pointee.lane_hint = UInt32(lane.index)
    return lane
  }

  /// A lane for this thread, when the gate is open and there is one.
  func takeLane() throws(PoolError) -> Lane {
    if let lane = takeFreeLane() { return lane }
    var watch = DeadlockWatch()
    while true {
      if let lane = takeFreeLane() { return lane }
      if !lanes.isClosed.load(ordering: .acquiring) {
        // More threads than lanes.
        if watch.rest() {
          try watch.look(at: lanes.threads, kind: "concurrent", options.deadlockSeconds)
        }
        continue
      }
      try lock()
      defer { unlock() }
      try requireNoEpochs()
      if !lanes.isActive { try Self.withoutCancellation(enterLanes) }
      lanes.isClosed.store(false, ordering: .sequentiallyConsistent)
    }
  }
}
