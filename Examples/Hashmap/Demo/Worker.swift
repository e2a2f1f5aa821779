// Worker: the program that is killed. Opens the pool, goes on with the section after the last one
// that it finds there, and says after each pend which section is durable. In mode guest the process
// becomes a virtual machine first of all, so that opening and recovering the pool happen in it.

import ArgumentParser
import Glibc
import PersistentHashmap
import VolipMem

struct Worker: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "worker", abstract: "Commits sections until it is killed.", shouldDisplay: false)

  @Option var pool: String
  @Option var seed: UInt64
  @Option var mode: Mode
  @Option var tracker: TrackerKind?
  /// Ends by itself, with a closed pool, after as many sections,
  @Option var sections: UInt64 = .max
  /// and as many milliseconds after them.
  @Option var milliseconds: UInt64 = 0

  func run() throws {
    do {
      if mode == .guest { try VirtualMachine.enter() }
      let demoPool = DemoPool(path: pool, tracker: tracker)
      try work(in: demoPool.openOrCreate())
    } catch let error as PoolError {
      printError("hashmap-demo worker: \(error)")
      throw ExitCode(error.exitCode)
    } catch let error as MachineError {
      // Going on as the host would be a silent loss of speed.
      printError("hashmap-demo worker: \(error) --host does without.")
      throw ExitCode.failure
    }
  }

  private func work(in pool: Pool) throws {
    let workload = Workload(seed: seed)
    let state = try pool.section { section in
      try pool.root(DemoPool.rootName, in: &section) {
        DemoState(map: try HashMap(capacity: DemoPool.firstCapacity, in: pool), section: 0)
      }
    }
    let greeting = Greeting(
      section: state.pointee.section, mode: .current, tracker: pool.tracker)
    try send(greeting.words)
    for _ in 0..<sections { try goOn(workload, on: state, in: pool) }
    let end = nanoseconds() + milliseconds * 1_000_000
    while nanoseconds() < end { try goOn(workload, on: state, in: pool) }
    try pool.close()
  }

  /// The next section, and before it one that is rolled back where the workload has one.
  private func goOn(
    _ workload: Workload, on state: UnsafeMutablePointer<DemoState>, in pool: Pool
  ) throws {
    let number = state.pointee.section + 1
    if let operations = workload.abortedOperations(before: number) {
      try abort(operations, on: state, in: pool)
    }
    try send(commit(number, workload.operations(of: number), on: state, in: pool).words)
  }

  private func commit(
    _ number: UInt64, _ operations: Operations, on state: UnsafeMutablePointer<DemoState>,
    in pool: Pool
  ) throws -> Report {
    let start = nanoseconds()
    try pool.pstart()
    try apply(operations, to: state, in: pool)
    state.pointee.section = number
    let commitStart = nanoseconds()
    try pool.pend()
    let end = nanoseconds()
    return Report(
      section: number, commitNanoseconds: end - commitStart, sectionNanoseconds: end - start)
  }

  private struct ChangedMind: Error {}

  private func abort(
    _ operations: Operations, on state: UnsafeMutablePointer<DemoState>, in pool: Pool
  ) throws {
    do {
      try pool.section { _ in
        try apply(operations, to: state, in: pool)
        throw ChangedMind()
      }
    } catch is ChangedMind {}
  }

  private func apply(
    _ operations: Operations, to state: UnsafeMutablePointer<DemoState>, in pool: Pool
  ) throws {
    for operation in operations {
      switch operation {
      case .insert(let key, let value): try state.pointee.map.insert(key, value, in: pool)
      case .update(let key, let value): state.pointee.map.update(key, to: value)
      case .remove(let key): try state.pointee.map.remove(key, in: pool)
      }
    }
  }

  /// A parent that is gone ends the worker by SIGPIPE.
  private func send(_ words: Words) throws {
    let bytes = words.bytes
    guard write(STDOUT_FILENO, bytes, bytes.count) == bytes.count else {
      throw PoolError.system(operation: "write to the parent", errorNumber: errno)
    }
  }
}

func nanoseconds() -> UInt64 {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
