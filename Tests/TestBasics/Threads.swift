import Glibc

private final class Start: @unchecked Sendable {
  let body: @Sendable () -> Void

  init(_ body: @escaping @Sendable () -> Void) { self.body = body }
}

/// A thread that runs `body` and is waited for.
public struct BackgroundThread {
  private var handle = pthread_t()

  public init(_ body: @escaping @Sendable () -> Void) {
    let start = Unmanaged.passRetained(Start(body)).toOpaque()
    let result = pthread_create(
      &handle, nil,
      { argument in
        let start = Unmanaged<Start>.fromOpaque(argument!).takeRetainedValue()
        start.body()
        return nil
      }, start)
    precondition(result == 0)
  }

  public func join() { pthread_join(handle, nil) }
}

/// Runs `body` on threads of its own, each with its number, and waits for all of them.
public func run(threads: Int, _ body: @escaping @Sendable (Int) -> Void) {
  let started = (0..<threads).map { index in BackgroundThread { body(index) } }
  for thread in started { thread.join() }
}

/// A lock of the application, as programs have it.
public final class Lock: @unchecked Sendable {
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)

  public init() { pthread_mutex_init(mutex, nil) }

  deinit { mutex.deallocate() }

  public func lock() { pthread_mutex_lock(mutex) }
  public func unlock() { pthread_mutex_unlock(mutex) }

  public func withLock<Result>(_ body: () throws -> Result) rethrows -> Result {
    lock()
    defer { unlock() }
    return try body()
  }
}

/// A thread says that something has happened, others wait for it.
public final class Event: @unchecked Sendable {
  private let semaphore = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)

  public init() { sem_init(semaphore, 0, 0) }

  deinit { semaphore.deallocate() }

  public func signal() { sem_post(semaphore) }

  /// Once for each signal.
  public func wait() {
    while sem_wait(semaphore) != 0 {}
  }

  /// Whether it came within some milliseconds.
  public func wait(milliseconds: Int) -> Bool {
    var end = timespec()
    clock_gettime(CLOCK_REALTIME, &end)
    end.tv_nsec += milliseconds * 1_000_000
    end.tv_sec += end.tv_nsec / 1_000_000_000
    end.tv_nsec %= 1_000_000_000
    return sem_timedwait(semaphore, &end) == 0
  }
}
