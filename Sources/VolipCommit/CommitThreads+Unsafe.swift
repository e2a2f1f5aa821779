// CommitThreads: threads that share the work of a large commit.
//
// The thread that commits cuts a step into chunks and lets the others know; whoever is free takes
// the next chunk, the calling thread too. So a thread that wakes late costs nothing: there is less
// left for it. The call returns when all chunks are done and nobody is in the step any more: the
// next step finds done what this one had to do. What a chunk works on is its thread's alone.
//
// The threads end with the pool's handle.

import CVolipPersistence
import CVolipWriteSet
import Glibc
import Synchronization

final class CommitThreads {
  /// The calling thread, number 0, among them.
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
    for thread in 1..<count {
      threads.append(try startThread(Server(board, thread), serve))
    }
  }

  deinit { stop() }

  /// Ends the threads. Nothing is under way.
  func stop() {
    let previous = cvw_cancellation_defer()
    defer { cvw_cancellation_restore(previous) }
    board.change { $0.isStopping = true }
    for thread in threads { pthread_join(thread, nil) }
    threads.removeAll()
  }

  /// Calls `body` with each chunk of the indexes below `total`, on any of the threads, and returns
  /// when all calls have returned.
  func forEachChunk(
    of total: Int, _ body: (_ chunk: Int, _ indexes: Range<Int>, _ thread: Int) -> Void
  ) {
    let chunkCount = chunkCount(of: total)
    withoutActuallyEscaping(body) { body in
      let step = Step(chunkCount) { chunk, thread in
        body(chunk, total * chunk / chunkCount..<total * (chunk + 1) / chunkCount, thread)
      }
      // In turn where a trace is recorded: a seed makes one trace.
      let isInTurn = PersistenceLaboratory.observer != nil
      if isInTurn { step.run(upTo: chunkCount / 2, thread: 0) }
      board.change { $0.begin(step) }
      if !isInTurn { step.run(upTo: chunkCount, thread: 0) }
      board.wait { $0.end(step) }
    }
  }

  /// So many that whoever is late at the last one is waited for shortly.
  func chunkCount(of total: Int) -> Int { min(total, count * 8) }
}

/// The work of all threads, cut into chunks.
private final class Step {
  private let count: Int
  private let work: (_ chunk: Int, _ thread: Int) -> Void
  private let next = Atomic(0)
  private let done = Atomic(0)

  init(_ count: Int, _ work: @escaping (_ chunk: Int, _ thread: Int) -> Void) {
    (self.count, self.work) = (count, work)
  }

  var isDone: Bool { done.load(ordering: .acquiring) == count }

  /// Does chunks below `limit` until there are none.
  func run(upTo limit: Int, thread: Int) {
    while next.load(ordering: .relaxed) < limit {
      let chunk = next.add(1, ordering: .relaxed).oldValue
      guard chunk < count else { return }
      work(chunk, thread)
      done.add(1, ordering: .releasing)
    }
  }

  func runAll(thread: Int) { run(upTo: count, thread: thread) }
}

/// Where the threads find their next step.
private struct Board {
  var step: Step?
  /// Steps begun so far.
  var round = 0
  /// Threads in the step.
  var running = 0
  var isStopping = false

  mutating func begin(_ step: Step) {
    self.step = step
    round += 1
  }

  /// An answer when all of the step is done and nobody has it any more.
  mutating func end(_ step: Step) -> Void? {
    guard step.isDone else { return nil }
    self.step = nil
    return running == 0 ? () : nil
  }
}

/// What a thread of them needs.
private final class Server {
  private let board: Monitor<Board>
  private let thread: Int
  private var round = 0

  init(_ board: Monitor<Board>, _ thread: Int) { (self.board, self.thread) = (board, thread) }

  /// Waits for the next step and takes part in it; false when there will be none.
  func serveOnce() -> Bool {
    guard takePart() else { return false }
    board.change { $0.running -= 1 }
    return true
  }

  /// A function of its own: when it returns the thread holds nothing of the step any more.
  @inline(never)
  private func takePart() -> Bool {
    let step = board.wait { (board) -> Step?? in
      if board.round != round, let step = board.step {
        round = board.round
        board.running += 1
        return .some(step)
      }
      return board.isStopping ? .some(nil) : nil
    }
    guard let step else { return false }
    FailedPages.noted { step.runAll(thread: thread) }
    return true
  }
}

private func serve(_ server: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
  // SAFETY: what startThread retained, once.
  let server = Unmanaged<Server>.fromOpaque(server!).takeRetainedValue()
  while server.serveOnce() {}
  return nil
}
