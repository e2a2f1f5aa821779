// Threads: what the engine's own threads are made of.
//
// They take no signals but those of their own faults: the program's handlers run on its threads.

import CVolipPersistence
import Glibc

typealias ThreadBody = @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer?

/// Starts a thread that calls `body` with a retained `object`.
func startThread(_ object: AnyObject, _ body: ThreadBody) throws(PoolError) -> pthread_t {
  var all = sigset_t()
  var before = sigset_t()
  sigfillset(&all)
  for ownFault in [SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP] { sigdelset(&all, ownFault) }
  pthread_sigmask(SIG_SETMASK, &all, &before)
  defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
  let context = Unmanaged.passRetained(object)
  var thread = pthread_t()
  let error = pthread_create(&thread, nil, body, context.toOpaque())
  guard error == 0 else {
    context.release()
    throw .system(operation: "pthread_create", errorNumber: error)
  }
  return thread
}

/// Something that threads change and wait for. Its lock is a leaf: nothing is taken under it.
///
/// SAFETY: lock and condition live as long as the monitor.
final class Monitor<State>: @unchecked Sendable {
  private let lock = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private let news = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
  private var state: State

  init(_ state: State) {
    self.state = state
    pthread_mutex_init(lock, nil)
    pthread_cond_init(news, nil)
  }

  deinit {
    pthread_mutex_destroy(lock)
    pthread_cond_destroy(news)
    lock.deallocate()
    news.deallocate()
  }

  /// Changes it, and lets all look again who wait.
  func change<Result>(_ body: (inout State) -> Result) -> Result {
    pthread_mutex_lock(lock)
    defer { pthread_mutex_unlock(lock) }
    defer { pthread_cond_broadcast(news) }
    return body(&state)
  }

  /// Waits until `body` has an answer.
  func wait<Result>(_ body: (inout State) -> Result?) -> Result {
    pthread_mutex_lock(lock)
    defer { pthread_mutex_unlock(lock) }
    while true {
      if let result = body(&state) { return result }
      pthread_cond_wait(news, lock)
    }
  }
}
