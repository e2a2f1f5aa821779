import Glibc
import TestBasics
import VolipMem

// Concurrent sections: threads take turns, so that a seed makes one trace, but where it counts one
// commits while the record of another is on its way.
extension Workload {
  static let lanes = onCacheLines + onCacheLines.prefix(2).map(\.onMsync)

  private static let onCacheLines: [Workload] = [
    Workload("concurrent sections") { lab in
      let array = try lab.array(of: 200)
      for round in 0..<25 {
        try lab.concurrentSection { lab.scatter(lab.random(1...6), in: array, 0...199, &$0) }
        if round % 9 == 8 { try lab.step { try $0.checkpoint() } }
      }
    },
    Workload("lanes that write the same lines in turn") { lab in
      let array = try lab.arrayForLanes(of: 64)
      for round in 0..<14 {
        // The other thread has the lane beside, and ends before this one writes.
        try lab.pool.pstart(.concurrent)
        try lab.otherThread { lab.scatter(2, in: array, 0...15, &$0) }
        try lab.step { pool in
          try pool.section(.concurrent) { lab.scatter(2, in: array, 0...15, &$0) }
          try pool.pend()
        }
        if round % 5 == 4 { try lab.step { try $0.checkpoint() } }
      }
    },
    Workload("a record on its way while another is durable") { lab in
      let array = try lab.arrayForLanes(of: 256)
      for round in 0..<10 {
        try lab.overlappedSections(
          { lab.scatter(lab.random(1...9), in: array, 0...127, &$0) },
          { lab.scatter(lab.random(1...9), in: array, 128...255, &$0) })
        if round % 4 == 3 {
          try lab.concurrentSection { lab.scatter(3, in: array, 0...255, &$0) }
        }
      }
    },
    Workload("a fence that fails while another record is on its way") { lab in
      var array = try lab.arrayForLanes(of: 256)
      for _ in 0..<8 {
        for _ in 0..<lab.random(0...2) {
          try lab.concurrentSection { lab.scatter(3, in: array, 0...255, &$0) }
        }
        try lab.overlappedSections(
          { lab.scatter(lab.random(1...9), in: array, 0...127, &$0) },
          failing: { lab.scatter(lab.random(1...9), in: array, 128...255, &$0) })
        array = try lab.pool.root("array", of: PersistentArray<UInt64>.self)!
        for lane in 0..<2 { try lab.step { try $0.announcedHeap.giveArena(toLane: lane) } }
      }
    }.onMsync,
    Workload("full lanes") { lab in
      let array = try lab.arrayForLanes(of: 6000)
      for round in 0..<10 {
        try lab.overlappedSections(
          { lab.scatter(20, in: array, 0...2999, &$0) },
          { section in
            // More than the lane has left: a checkpoint while the other record is on its way.
            for place in 3000..<3000 + lab.random(1000...2400) {
              array.value.set(place, to: UInt64(round), in: &section)
            }
          })
        try lab.concurrentSection { lab.scatter(90, in: array, 0...5999, &$0) }
      }
    },
    Workload("lanes and the log as a whole in turn") { lab in
      let words = try lab.words(4 * 512)
      var array = try lab.array(of: 100)
      for round in 0..<8 {
        for _ in 0..<lab.random(1...3) {
          try lab.concurrentSection { lab.scatter(2, in: array, 0...99, &$0) }
        }
        try lab.abortedSection(.concurrent) { lab.scatter(9, in: array, 0...99, &$0) }
        if round % 3 == 2 {
          try lab.reopen()
          array = try lab.pool.root("array", of: PersistentArray<UInt64>.self)!
          continue
        }
        try lab.section { section in
          (try lab.existingWords())[lab.random(0...2047)] = lab.random()
          lab.scatter(2, in: array, 0...99, &section)
        }
      }
      _ = words
    },
    Workload("groups of sections") { lab in
      let words = try lab.words(4 * 512)
      let array = try lab.array(of: 100)
      for _ in 0..<12 {
        try lab.pool.pstart(.group)
        words[lab.random(0...1023)] = lab.random()
        try lab.step { pool in
          // The other one joins, and ends first: nothing is durable before the last has ended.
          let joined = Event()
          let value = (lab.random(1024...2047), lab.random())
          try lab.whileOtherThread {
            try pool.section(.group) { section in
              words[value.0] = value.1
              lab.scatter(1, in: array, 0...99, &section)
              KillPoint.pause(at: .groupMerged) { joined.signal() }
            }
          } does: {
            joined.wait()
            try pool.pend()
          }
        }
      }
    },
  ].map { workload in
    workload.with { ($0.fileBytes, $0.logBytesMax) = (3 << 19, 64 << 10) }
  }
}

extension LaboratoryPool {
  /// A persistent array, and an arena for each lane: one that gets it first while another is taken
  /// would wait.
  func arrayForLanes(of count: Int) throws -> Ref<PersistentArray<UInt64>> {
    let array = try array(of: count)
    for lane in 0..<2 { try step { try $0.announcedHeap.giveArena(toLane: lane) } }
    return array
  }

  func scatter(
    _ count: Int, in array: Ref<PersistentArray<UInt64>>, _ places: ClosedRange<Int>,
    _ section: inout Section
  ) {
    for _ in 0..<count { array.value.set(random(places), to: random(), in: &section) }
  }

  /// A section of a lane of its own.
  func concurrentSection(_ body: (inout Section) throws -> Void) throws {
    try step { try $0.section(.concurrent, body) }
  }

  /// The same on another thread, whose lane is another one while this one has one.
  func otherThread(_ body: (inout Section) throws -> Void) throws {
    try step { pool in
      try whileOtherThread {
        try pool.section(.concurrent, body)
      } does: {
      }
    }
  }

  /// Runs `other` on another thread and `body` on this one, and waits for both.
  func whileOtherThread(_ other: () throws -> Void, does body: () throws -> Void) throws {
    let outcome = Outcome()
    try withoutActuallyEscaping(other) { other in
      let carried = Carried(other)
      let thread = BackgroundThread { outcome.note(carried.body) }
      defer { thread.join() }
      try body()
    }
    if let error = outcome.error { throw error }
  }

  /// Another thread flushes a checkpoint; before its fence this one runs `sections`.
  func flush(_ checkpoint: CheckpointBeside, besideFence sections: () throws -> Void) throws {
    let (reached, done) = (Signal(), Signal())
    recorder.beforeNextFence {
      reached.post()
      done.wait()
    }
    try whileOtherThread {
      checkpoint.flush()
      reached.post()  // a mutant has no fence
    } does: {
      reached.wait()
      defer { done.post() }
      recorder.forgetBeforeNextFence()
      try sections()
    }
  }

  /// Two sections of bytes of their own: while the record of the first is stored and not durable
  /// yet, the second one begins, commits and is acknowledged.
  func overlappedSections(
    _ first: (inout Section) throws -> Void, _ second: (inout Section) throws -> Void
  ) throws {
    let before = snapshot
    let number = states.count
    var (one, other): ([Written], [Written]) = ([], [])
    _ = recorder.note(.begin(state: number + 2))
    try withoutActuallyEscaping(second) { second in
      let carried = Carried { [self] in
        try whileOtherThread {
          try pool.section(.concurrent) { section in
            try second(&section)
            other = writtenNow
          }
        } does: {
        }
        _ = recorder.note(.acknowledged(state: number + 1))
      }
      let outcome = Outcome()
      try pool.section(.concurrent) { section in
        try first(&section)
        one = writtenNow
        recorder.beforeNextFence { outcome.note(carried.body) }
      }
      if let error = outcome.error { throw error }
    }
    // Neither; the first alone; both; the second alone; and both again, acknowledged.
    let both = snapshot
    states += [before.with(one), both, before.with(other), both]
    guard states[number + 1] == before.with(one + other) else {
      throw LaboratoryError("overlapped sections wrote the same bytes")
    }
    _ = recorder.note(.begin(state: number + 3))
    _ = recorder.note(.acknowledged(state: number + 3))
    try checkHeap()
  }

  /// The same where the fence of the second one fails: of pages of the first one's record, perhaps,
  /// which count as clean by then; the first one's fence is not told. Opens the pool again.
  func overlappedSections(
    _ first: (inout Section) throws -> Void, failing second: (inout Section) throws -> Void
  ) throws {
    let before = snapshot
    let number = states.count
    var (one, other): ([Written], [Written]) = ([], [])
    let (outcome, firstOutcome) = (Outcome(), Outcome())
    _ = recorder.note(.begin(state: number + 2))
    withoutActuallyEscaping(second) { second in
      let carried = Carried { [self] in
        try whileOtherThread {
          try pool.section(.concurrent) { section in
            try second(&section)
            other = writtenNow
            recorder.failFence(after: 1)
          }
        } does: {
        }
      }
      firstOutcome.note {
        try pool.section(.concurrent) { section in
          try first(&section)
          one = writtenNow
          recorder.beforeNextFence { outcome.note(carried.body) }
        }
      }
    }
    recorder.failFence(after: .max)
    guard outcome.error != nil else { throw LaboratoryError("a fence that failed was passed") }
    states += [before.with(other), before.with(one + other), before.with(one)]
    if firstOutcome.error == nil { _ = recorder.note(.acknowledged(state: number + 1)) }
    _ = recorder.note(.begin(state: number + 3))
    try openAgain()
    let now = snapshot
    guard now == before || states[number...].contains(now) else {
      throw LaboratoryError("overlapped sections are there in part")
    }
    states.append(now)
    _ = recorder.note(.acknowledged(state: number + 3))
    try checkHeap()
  }

  /// What this thread's section announced until now.
  private var writtenNow: [Written] {
    var result: [Written] = []
    pool.engine.announcedOfThisThread.forEach { extent, bytes in
      let content = Array(UnsafeRawBufferPointer(start: bytes, count: extent.byteCount))
      result.append(Written(offset: Int(extent.offset), bytes: content))
    }
    return result
  }
}

struct Written {
  let offset: Int
  let bytes: [UInt8]
}

extension Recording.State {
  func with(_ writes: [Written]) -> Recording.State {
    var bytes = bytes
    for write in writes {
      bytes.replaceSubrange(write.offset..<write.offset + write.bytes.count, with: write.bytes)
    }
    return Recording.State(bytes: bytes)
  }
}

private struct Carried: @unchecked Sendable {
  let body: () throws -> Void
  init(_ body: @escaping () throws -> Void) { self.body = body }
}

private final class Outcome: @unchecked Sendable {
  var error: (any Error)?
  func note(_ body: () throws -> Void) {
    do { try body() } catch { self.error = error }
  }
}

/// One thread waits for another one.
private final class Signal: @unchecked Sendable {
  private let semaphore = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)

  init() { sem_init(semaphore, 0, 0) }
  deinit {
    sem_destroy(semaphore)
    semaphore.deallocate()
  }
  func post() { sem_post(semaphore) }
  func wait() { while sem_wait(semaphore) != 0 {} }
}
