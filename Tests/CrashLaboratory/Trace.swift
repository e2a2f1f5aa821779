import Glibc
import Synchronization
import VolipMem

/// What a program stored, flushed and fenced in a pool file, in order.
struct Trace {
  enum Event {
    /// `content` is where the bytes begin in `Trace.content`.
    /// `thread` is who did it: a fence is for what its own thread stored and flushed.
    case store(Range<Int>, content: Int, isCached: Bool, thread: UInt)
    case flush(Range<Int>, thread: UInt)
    case fence(thread: UInt)
    /// A fence that failed: what it was to make durable is not, and its pages count as clean.
    case failedFence(thread: UInt)
    case length(Int)
    case lengthSynced
    /// From here on a crash may leave this state too.
    case begin(state: Int)
    /// From here on a crash leaves no earlier state.
    case acknowledged(state: Int)
  }

  var events: [Event] = []
  var content: [UInt8] = []
  /// The file as it was durable before the first event.
  var base: [UInt8] = []
  var path = PersistencePath.cacheLines
  /// The longest that the file becomes.
  var lengthMax = 0
}

/// Records one pool file, through whatever mappings of it there are.
final class Recorder: PersistenceObserver {
  private struct State {
    var trace = Trace()
    var memory: UInt = 0
    var fencesUntilFailure = Int.max
    var beforeFence: (@Sendable () -> Void)?
  }
  private let state = Mutex(State())
  private let owner = pthread_self()

  init() {}

  /// Records what happens to a file that is mapped already.
  init(_ memory: DurableMemory) {
    state.withLock {
      $0.memory = UInt(bitPattern: memory.base)
      $0.trace.path = memory.path
    }
  }

  /// Begins anew with the next mapping.
  func forget() { state.withLock { $0.trace = Trace() } }

  var trace: Trace { state.withLock { $0.trace } }

  /// Calls `body` once, before the next fence, on its thread.
  func beforeNextFence(_ body: @escaping @Sendable () -> Void) {
    state.withLock { $0.beforeFence = body }
  }

  func forgetBeforeNextFence() { state.withLock { $0.beforeFence = nil } }

  /// 0 for the thread that made the recorder, 1 for the one that a workload has beside it: what the
  /// system calls them is another every time.
  private var thread: UInt { pthread_self() == owner ? 0 : 1 }

  /// Lets the fence after `count` more fail.
  func failFence(after count: Int) { state.withLock { $0.fencesUntilFailure = count } }

  /// Notes that a step begins, and returns where, so that `end` can say what came of it.
  func note(_ event: Trace.Event) -> Int {
    state.withLock {
      $0.trace.events.append(event)
      return $0.trace.events.count - 1
    }
  }

  func replace(_ index: Int, _ event: Trace.Event) {
    state.withLock { $0.trace.events[index] = event }
  }

  func didMap(_ memory: DurableMemory) {
    state.withLock { state in
      state.memory = UInt(bitPattern: memory.base)
      state.trace.path = memory.path
      state.trace.lengthMax = max(state.trace.lengthMax, memory.byteCount)
      if state.trace.base.isEmpty {
        state.trace.base = Array(
          UnsafeRawBufferPointer(start: memory.base, count: memory.byteCount))
      }
    }
  }

  func didStore(_ range: Range<Int>, isCached: Bool) {
    state.withLock { state in
      let start = UnsafeRawPointer(bitPattern: state.memory)! + range.lowerBound
      let content = state.trace.content.count
      state.trace.content.append(
        contentsOf: UnsafeRawBufferPointer(start: start, count: range.count))
      state.trace.events.append(
        .store(range, content: content, isCached: isCached, thread: thread))
    }
  }

  func didFlush(_ range: Range<Int>) { _ = note(.flush(range, thread: thread)) }

  func willFence() throws(PoolError) {
    let body = state.withLock { state in
      defer { state.beforeFence = nil }
      return state.beforeFence
    }
    body?()
    let isFailing = state.withLock { state in
      state.fencesUntilFailure -= 1
      if state.fencesUntilFailure == 0 {
        state.trace.events.append(.failedFence(thread: thread))
      }
      return state.fencesUntilFailure == 0
    }
    if isFailing { throw .system(operation: "msync", errorNumber: 5) }
  }

  func didFence() { _ = note(.fence(thread: thread)) }
  func didSetLength(_ bytes: Int) {
    state.withLock {
      $0.trace.lengthMax = max($0.trace.lengthMax, bytes)
      $0.trace.events.append(.length(bytes))
    }
  }
  func didSyncLength() { _ = note(.lengthSynced) }
}
