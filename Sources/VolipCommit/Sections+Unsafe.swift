// Sections: pstart, pend, pabort and pcommit, for the kinds of sections that there are.
//
// SAFETY: what a thread's section names, engine, lane or member of a group, is held until the
// section has ended: by a retain, or because close waits for it.

import CVolipWriteSet
import Glibc
import Synchronization

extension PoolEngine {
  /// Before anything that ends a section: a child that got further would scan and arm the pages of
  /// its parent, whose descriptors it has.
  private func requireSection() throws(PoolError) {
    guard parentMark.pointee == 1 else { throw .forkedChild }
    guard isInSection else { throw .noSection }
  }

  /// Runs `body` with the gate closed and no section open but concurrent ones; inside a section of
  /// this thread the gate is closed already.
  func withGate<Result>(
    evenPoisoned: Bool = false, _ body: () throws(PoolError) -> Result
  ) throws(PoolError) -> Result {
    if isInSection { return try body() }
    // Two threads that each wait for the other's pool would wait for ever.
    try requireNoOtherSection()
    try lock(evenPoisoned: evenPoisoned)
    defer { unlock() }
    return try Self.withoutCancellation(body)
  }

  func requireNoOtherSection() throws(PoolError) {
    guard cvw_thread_section()!.pointee.depth == 0 else { throw Self.otherPool }
  }

  /// No thread may end between the arming of a section's pages and the end of its update, nor with
  /// a pool in hand that is half open: it would stay locked.
  @inline(__always)
  public static func withoutCancellation<Result>(
    _ body: () throws(PoolError) -> Result
  ) throws(PoolError) -> Result {
    let previous = cvw_cancellation_defer()
    defer { cvw_cancellation_restore(previous) }
    return try FailedPages.noted(body)
  }

  private static let otherPool = PoolError.invalidArgument(
    "a section of another pool is open on this thread")

  func poison(_ error: PoolError, _ reason: String) -> PoolError {
    if state == .ready { state = .poisoned("\(reason): \(error)") }
    return error
  }

  // MARK: Open

  /// pstart: opens a section, or enters the one that this thread has open (flat nesting).
  public func openSection(_ kind: SectionKind = .exclusive) throws(PoolError) {
    guard parentMark.pointee == 1 else { throw .forkedChild }
    let section = cvw_thread_section()!
    if section.pointee.depth > 0 { return try enterSection(kind) }
    // What waits for the gate is a cancellation point, with the gate in hand (rule 22).
    let previous = isRemoved(.cancellationInGate) ? 0 : cvw_cancellation_defer()
    defer { cvw_cancellation_restore(previous) }
    switch kind {
    case .concurrent where !options.audit: try openInLane()
    case .group where !options.audit: try openInGroup()
    default: try openAlone(kind)
    }
    pass(.sectionOpened)
  }

  private func enterSection(_ kind: SectionKind) throws(PoolError) {
    let section = cvw_thread_section()!
    guard section.pointee.owner == opaqueSelf else { throw Self.otherPool }
    if kind == .exclusive || kind == .group { try trackOpenSection() }
    section.pointee.depth += 1
  }

  private func openAlone(_ kind: SectionKind) throws(PoolError) {
    try lock()
    do throws(PoolError) {
      try requireNoEpochs()
      try closeLanes()
      setTracking(false)
      if kind == .exclusive || options.audit { try beginTracking() }
      if kind == .buffered, !file.superblock.hasBuffers {
        try Self.withoutCancellation(enterBuffers)
      }
    } catch {
      unlock()
      throw error
    }
    cvw_thread_section_enroll()
    let section = cvw_thread_section()!
    gateThread.store(section.pointee.thread, ordering: .relaxed)
    isDoomed = false
    isOnlyAnnounced = kind == .concurrent
    isBuffered = kind == .buffered
    beginAnnouncing()
    section.pointee.announced = announced.identity
    section.pointee.owner = Unmanaged.passRetained(self).toOpaque()
    section.pointee.depth = 1
  }

  /// Under the gate.
  func requireNoEpochs() throws(PoolError) {
    guard !isInEpochs else { throw .invalidArgument("a section of a pool that is in epochs") }
  }

  private func openInLane() throws(PoolError) {
    cvw_thread_section_enroll()
    let lane = try takeLane()
    let section = cvw_thread_section()!
    lane.thread.store(section.pointee.thread, ordering: .relaxed)
    lane.beginSection()
    section.pointee.lane = Unmanaged.passUnretained(lane).toOpaque()
    section.pointee.announced = lane.announced.identity
    section.pointee.owner = opaqueSelf
    section.pointee.depth = 1
  }

  private func openInGroup() throws(PoolError) {
    cvw_thread_section_enroll()
    let section = cvw_thread_section()!
    let joined = try joinGroup(section.pointee.thread)
    let list = AnnouncedWrites(base: base, byteCount: pageCount * DurableMemory.pageBytes)
    list.begin(number: announced.sectionNumber)
    let member = GroupMember(joined, announced: list)
    section.pointee.group = Unmanaged.passRetained(member).toOpaque()
    section.pointee.announced = list.identity
    section.pointee.owner = Unmanaged.passRetained(self).toOpaque()
    section.pointee.depth = 1
  }

  /// Joins the group that is open, or opens one when the gate is.
  private func joinGroup(_ thread: Int32) throws(PoolError) -> SectionGroup {
    try lockGate()
    try waitForGroup(mayJoin: true)
    defer { unlock() }
    guard !isStopped.load(ordering: .acquiring) else { throw stopped }
    if let open = group {
      open.threads.append(thread)
      return open
    }
    try requireNoEpochs()
    try closeLanes()
    // So that no member of the group has anything to fence.
    try Self.withoutCancellation(fenceBuffered)
    setTracking(false)
    try beginTracking()
    isDoomed = false
    (isOnlyAnnounced, isBuffered) = (false, false)
    beginAnnouncing()
    setShared(true)
    let made = SectionGroup()
    made.threads = [thread]
    group = made
    return made
  }

  private func beginAnnouncing() {
    announced.begin(number: parts.redoLog.lastLsn + 1)
    announcedRunsBefore = announcedPages.count
  }

  /// Lets the tracker follow the open section from here on.
  func beginTracking() throws(PoolError) {
    guard !isTracking else { return }
    let tracker = parts.tracker
    if options.strayWriteCheck, tracker.mayHaveStrayWrites(), !isRemoved(.strayWriteCheck) {
      try Self.withoutCancellation(putStrayWritesBack)
    }
    tracker.sectionOpened()
    setTracking(true)
  }

  /// The list of what the calling thread's section announces.
  public var announcedOfThisThread: AnnouncedWrites {
    if let lane = laneOfThisThread { return lane.announced }
    guard let member = memberOfThisThread else { return announced }
    return member.announced
  }

  /// Whether the calling thread's section is inside another one.
  public var isNested: Bool { cvw_thread_section()!.pointee.depth > 1 }

  /// The number of the lane that the calling thread's section has, or nil.
  @inline(__always)
  public var laneIndex: Int? { laneOfThisThread?.index }

  @inline(__always)
  var laneOfThisThread: Lane? {
    guard let lane = cvw_thread_section()!.pointee.lane else { return nil }
    return Unmanaged<Lane>.fromOpaque(lane).takeUnretainedValue()
  }

  private var memberOfThisThread: GroupMember? {
    guard let member = cvw_thread_section()!.pointee.group else { return nil }
    return Unmanaged<GroupMember>.fromOpaque(member).takeUnretainedValue()
  }

  // MARK: End

  /// pend: commits with the outermost section.
  public func closeSection() throws(PoolError) {
    try requireSection()
    let section = cvw_thread_section()!
    guard section.pointee.depth == 1 else {
      section.pointee.depth -= 1
      return
    }
    if let lane = laneOfThisThread {
      defer { leave(lane) }
      return try Self.withoutCancellation { () throws(PoolError) in try end(lane) }
    }
    if let member = memberOfThisThread {
      return try Self.withoutCancellation { () throws(PoolError) in
        try leave(member, isAborted: false)
      }
    }
    defer { leaveSection() }
    try Self.withoutCancellation { () throws(PoolError) in try endSection() }
  }

  /// The thread's section is over, and with it its hold on the pool.
  private func leaveSection() {
    forgetSection()
    gateThread.store(0, ordering: .relaxed)
    unlock()
    Unmanaged.passUnretained(self).release()
  }

  private func forgetSection() {
    let section = cvw_thread_section()!
    section.pointee.depth = 0
    section.pointee.owner = nil
    section.pointee.lane = nil
    section.pointee.group = nil
    section.pointee.announced = nil
  }

  private func leave(_ lane: Lane) {
    forgetSection()
    lane.isTaken.store(false, ordering: .releasing)
  }

  private func end(_ lane: Lane) throws(PoolError) {
    if lane.isDoomed {
      try endWithoutCommit(lane)
      throw .sectionAborted
    }
    try commit(lane)
    lane.announced.removeAll()
    lane.committed.store(lane.committed.load(ordering: .relaxed) + 1, ordering: .relaxed)
    publish(lane)
    pass(.laneEnded)
  }

  private func endWithoutCommit(_ lane: Lane) throws(PoolError) {
    lane.rolledBack.store(lane.rolledBack.load(ordering: .relaxed) + 1, ordering: .relaxed)
    publish(lane)
    try takeBack(lane)
  }

  /// Ends a section of a group: the last one commits them all, the others wait for it.
  private func leave(_ member: GroupMember, isAborted: Bool) throws(PoolError) {
    let group = member.group
    pthread_mutex_lock(gate)
    defer {
      unlock()
      Unmanaged.passUnretained(member).release()
      Unmanaged.passUnretained(self).release()
    }
    // Others allocate meanwhile, which is announced to the same list.
    try withHeapLock { () throws(PoolError) in
      announced.append(contentsOf: member.announced)
    }
    pass(.groupMerged)
    group.isClosing = true
    group.isDoomed = group.isDoomed || isAborted
    if let index = group.threads.firstIndex(of: cvw_thread_section()!.pointee.thread) {
      group.threads.remove(at: index)
    }
    guard group.threads.isEmpty else {
      forgetSection()
      if isAborted { return }
      return try waitForEnd(of: group)
    }
    defer {
      forgetSection()
      setShared(false)
      group.isOver = true
      self.group = nil
      pthread_cond_broadcast(groupEnded)
    }
    do throws(PoolError) {
      guard !isStopped.load(ordering: .acquiring) else { throw stopped }
      isDoomed = group.isDoomed
      try endSection()
    } catch {
      group.error = error
      if case .sectionAborted = error, isAborted { return }
      throw error
    }
  }

  /// Commits the section's writes, or takes them back where a nested section was aborted.
  func endSection() throws(PoolError) {
    if isDoomed {
      try endWithoutCommit()
      throw .sectionAborted
    }
    let parts = parts
    endsSection()
    if isTracking { parts.tracker.sectionClosed() }
    defer { if isTracking { parts.tracker.settle(parts.writeSet) } }
    try commit(parts)
    announced.removeAll()
    if options.audit { try updateAnnouncedImage(parts) }
    count(parts.writeSet)
  }

  /// From here on its thread waits for disks and for the engine's own threads alone, in whatever
  /// state: nobody is to take that for a deadlock.
  @inline(__always)
  private func endsSection() { gateThread.store(0, ordering: .relaxed) }

  private func count(_ writeSet: WriteSet) {
    statistics.committed += 1
    statistics.pages += writeSet.pageCount
    statistics.lines += writeSet.lineCount
    publish(statistics)
  }

  /// pcommit: commits and goes on in a new section without opening the gate.
  public func commitSection() throws(PoolError) {
    try requireSection()
    guard cvw_thread_section()!.pointee.depth == 1 else { throw .nestedSection }
    if let lane = laneOfThisThread {
      do throws(PoolError) {
        try Self.withoutCancellation { () throws(PoolError) in try end(lane) }
      } catch {
        leave(lane)
        throw error
      }
      return lane.beginSection()
    }
    guard memberOfThisThread == nil else {
      throw .invalidArgument("a section of a group ends with the others: no pcommit")
    }
    do throws(PoolError) {
      try Self.withoutCancellation { () throws(PoolError) in
        try endSection()
        try fenceBuffered()
      }
    } catch {
      leaveSection()
      throw error
    }
    gateThread.store(cvw_thread_section()!.pointee.thread, ordering: .relaxed)
    if isTracking { parts.tracker.sectionOpened() }
    beginAnnouncing()
  }

  /// pabort: rolls back. In a nested section the outermost `pend` does it and reports
  /// `.sectionAborted`; in a group the last one does, and each of the others reports it.
  public func abortSection() throws(PoolError) {
    try requireSection()
    let section = cvw_thread_section()!
    guard section.pointee.depth == 1 else {
      if let lane = laneOfThisThread {
        lane.isDoomed = true
      } else if let member = memberOfThisThread {
        doom(member)
      } else {
        isDoomed = true
      }
      section.pointee.depth -= 1
      return
    }
    if let lane = laneOfThisThread {
      defer { leave(lane) }
      return try Self.withoutCancellation { () throws(PoolError) in try endWithoutCommit(lane) }
    }
    if let member = memberOfThisThread {
      return try Self.withoutCancellation { () throws(PoolError) in
        try leave(member, isAborted: true)
      }
    }
    defer { leaveSection() }
    try Self.withoutCancellation { () throws(PoolError) in try endWithoutCommit() }
  }

  private func doom(_ member: GroupMember) {
    // No cancellation point, and held by nobody for long: a group is open.
    pthread_mutex_lock(gate)
    member.group.isDoomed = true
    unlock()
  }

  private func endWithoutCommit() throws(PoolError) {
    let parts = parts
    endsSection()
    if isTracking { parts.tracker.sectionClosed() }
    defer { if isTracking { parts.tracker.settle(parts.writeSet) } }
    statistics.rolledBack += 1
    do throws(PoolError) {
      if isTracking { try parts.tracker.takeWritten(into: parts.writeSet) }
    } catch {
      throw poison(error, "write set not collected")
    }
    if !isRemoved(.takeBack) { try takeBack(parts) }
  }

  /// Aborts the section of this thread, however deep, if it has one: a thread that ends inside its
  /// section (rule 22), a handle that goes.
  public func abandonSection() {
    guard isInSection else { return }
    cvw_thread_section()!.pointee.depth = 1
    try? abortSection()
  }

  /// The pool in whose section the calling thread is, or nil.
  public static var ofThisThread: PoolEngine? {
    let section = cvw_thread_section()!
    guard section.pointee.depth > 0, let owner = section.pointee.owner else { return nil }
    return Unmanaged<PoolEngine>.fromOpaque(owner).takeUnretainedValue()
  }
}
