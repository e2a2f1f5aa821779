// CommitThreads: threads that share the work of a large commit.
//
// The thread that commits cuts a step into as many slices as there are threads, takes the first
// slice itself and waits until the others have done theirs. So each step finds done what the step
// before it had to do, and no slice outlives the call. What a slice works on is its thread's alone.
//
// The threads end with the pool's handle.

import CVolipPersistence
import Glibc

final class CommitThreads {
  /// Slices of a step: the calling thread's and one for each other thread.
  let count: Int
  fileprivate let board = Monitor(Board())
  private var threads: [pthread_t] = []

  /// Nil for one thread, which needs no others.
  static func started(_ count: Int) throws(PoolError) -> CommitThreads? {
    guard count >= 1, count <= 64 else {
      throw .invalidArgument("\(count) commit threads: 1 to 64")
    }
    return count == 1 ? nil : try CommitThreads(count)
  }

  private init(_ count: Int) throws(PoolError) {
    self.count = count
    for slice in 1..<count {
      threads.append(try startThread(Server(board, slice), serve))
    }
  }

  deinit { stop() }

  /// Ends the threads. Nothing is under way.
  func stop() {
    board.change { $0.isStopping = true }
    for thread in threads { pthread_join(thread, nil) }
    threads.removeAll()
  }

  /// Calls `body` with each slice of the indexes below `total`, each on a thread of its own, and
  /// returns when all have returned.
  func forEachSlice(of total: Int, _ body: (_ slice: Int, _ indexes: Range<Int>) -> Void) {
    let count = count
    func run(_ slice: Int) {
      body(slice, total * slice / count..<total * (slice + 1) / count)
    }
    // In turn where a trace is recorded: a seed makes one trace.
    let isInTurn = PersistenceLaboratory.observer != nil
    withoutActuallyEscaping(run) { run in
      if isInTurn { run(0) }
      board.change { board in
        board.work = run
        board.round += 1
        board.running = count - 1
      }
      if !isInTurn { run(0) }
      board.wait { (board) -> Void? in
        guard board.running == 0 else { return nil }
        board.work = nil
        return ()
      }
    }
  }
}

/// Where the threads find their next slice.
private struct Board {
  var work: ((_ slice: Int) -> Void)?
  /// Steps begun so far.
  var round = 0
  /// Threads that have not done their slice of it.
  var running = 0
  var isStopping = false
}

/// What a thread of them needs.
private final class Server {
  private let board: Monitor<Board>
  private let slice: Int
  private var round = 0

  init(_ board: Monitor<Board>, _ slice: Int) { (self.board, self.slice) = (board, slice) }

  /// Waits for the next step and does a slice of it; false when there will be none.
  func serveOnce() -> Bool {
    let isMore = board.wait { (board) -> Bool? in
      if board.round != round { return true }
      return board.isStopping ? false : nil
    }
    guard isMore else { return false }
    round += 1
    perform()
    board.change { $0.running -= 1 }
    return true
  }

  /// A function of its own: when it returns the thread holds nothing of the step any more.
  @inline(never)
  private func perform() {
    let work = board.wait { $0.work }
    FailedPages.noted { work(slice) }
  }
}

private func serve(_ server: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
  // SAFETY: what startThread retained, once.
  let server = Unmanaged<Server>.fromOpaque(server!).takeRetainedValue()
  while server.serveOnce() {}
  return nil
}
