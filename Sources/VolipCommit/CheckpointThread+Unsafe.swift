// CheckpointThread: checkpoints beside sections, in a thread of their own.
//
// A commit that finds the log half full wakes it. It takes the gate twice, shortly, as any other
// thread does, and never while it holds a lock of its own.
//
// SAFETY: the thread holds the engine for the time of a checkpoint only; who closes the pool or
// destroys the engine stops it first, without the gate, for which it may be waiting.

import CVolipWriteSet
import Glibc
import Synchronization

final class CheckpointThread: @unchecked Sendable {
  enum Request { case none, due, stopping }

  private let request = Monitor(Request.none)
  private let thread = Mutex<pthread_t?>(nil)
  private var engine: Unmanaged<PoolEngine>?

  func start(_ engine: PoolEngine) throws(PoolError) {
    self.engine = Unmanaged.passUnretained(engine)
    let started = try startThread(self, serve)
    thread.withLock { $0 = started }
  }

  /// From a commit, under the gate.
  func wake() {
    request.change { if $0 == .none { $0 = .due } }
  }

  /// Ends the thread, if nobody has. No cancellation point, and only one caller at a time waits.
  func stop() {
    let previous = cvw_cancellation_defer()
    defer { cvw_cancellation_restore(previous) }
    request.change { $0 = .stopping }
    thread.withLock { thread in
      guard let started = thread else { return }
      if pthread_equal(started, pthread_self()) != 0 {
        // The last reference to the engine went here.
        pthread_detach(started)
      } else {
        pthread_join(started, nil)
      }
      thread = nil
    }
  }

  /// Waits for a checkpoint to be due and makes it; false when there will be no more.
  fileprivate func serveOnce() -> Bool {
    let isDue = request.wait { (request) -> Bool? in
      switch request {
      case .none: return nil
      case .stopping: return false
      case .due:
        request = .none
        return true
      }
    }
    guard isDue else { return false }
    // What fails poisons the handle, or is left to the thread that needs room in the log.
    try? engine?.takeUnretainedValue().checkpointBeside()
    return true
  }
}

private func serve(_ thread: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
  // SAFETY: what startThread retained, once.
  let thread = Unmanaged<CheckpointThread>.fromOpaque(thread!).takeRetainedValue()
  while thread.serveOnce() {}
  return nil
}
