// lanes: updates of dictionaries by concurrent sections, a thread and a dictionary each.
//
//   announced    one thread, sections that hold the gate: what a lane has to be measured against
//   1 thread     concurrent sections
//   2 threads    the same, each with a dictionary of its own
//   buffered     one thread, sections that share a fence
//
// The ratio of two threads to one is what may not be below 1.7.

import ArgumentParser
import Glibc
import Synchronization
import VolipMem

struct Lanes: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Two threads on dictionaries of their own against one.")

  @OptionGroup var runOptions: RunOptions

  @Option(help: "Updates a section. Repeatable; 1, 100 and 1000 by default.")
  var batch: [Int] = [1, 100, 1000]

  @Option(help: "Seconds a sample. Default 1, with --quick 0.1.")
  var seconds: Double?

  func run() throws {
    try Report(runOptions).show(
      lanesBenchmark(runOptions, batches: batch, seconds: seconds))
  }
}

private struct LaneCase {
  let name: String
  let threads: Int
  let kind: SectionKind
}

func lanesBenchmark(
  _ run: RunOptions, batches: [Int] = [1, 100, 1000], seconds: Double? = nil
) throws -> BenchmarkResult {
  let keyCount = run.quick ? 100_000 : 1_000_000
  let duration = seconds ?? (run.quick ? 0.1 : 1)
  let pool = try ScratchPool(byteCount: 1 << 30).open()
  for thread in 0..<2 { try fill(pool, thread, keyCount) }
  let cases = [
    LaneCase(name: "announced", threads: 1, kind: .announced),
    LaneCase(name: "1 thread", threads: 1, kind: .concurrent),
    LaneCase(name: "2 threads", threads: 2, kind: .concurrent),
    LaneCase(name: "buffered", threads: 1, kind: .buffered),
  ]
  var measurements: [Measurement] = []
  for batch in batches {
    var rows = cases.map { each in
      var row = Measurement("lanes", each.name, unit: "updates/s")
      (row.batch, row.threads) = (batch, each.threads)
      return row
    }
    var ratio = Measurement("lanes", "2 threads to 1", unit: "times")
    (ratio.batch, ratio.threads, ratio.target) = (batch, 2, ">= 1.7")
    for _ in 0..<run.repetitionCount {
      for (index, each) in cases.enumerated() {
        _ = try rate(pool, each, batch, keyCount, duration / 5)
        rows[index].samples.append(try rate(pool, each, batch, keyCount, duration))
      }
      ratio.samples.append(rows[2].samples.last! / rows[1].samples.last!)
    }
    measurements += rows + [ratio]
  }
  return BenchmarkResult(
    title: "lanes: updates a second, \(keyCount) keys a dictionary", measurements: measurements,
    table: .list(measurements))
}

private func fill(_ pool: Pool, _ thread: Int, _ keyCount: Int) throws {
  let numbers = try pool.section { section in
    try pool.root("map \(thread)", in: &section) { section in
      try Numbers(minimumCapacity: keyCount, in: &section)
    }
  }
  try pool.section(.announced) { section in
    for index in 0..<UInt64(keyCount) {
      try numbers.value.updateValue(index, forKey: key(index), in: &section)
    }
  }
}

/// The dictionaries' maps, in sections of a kind.
private struct LaneMap: MeasuredMap {
  // SAFETY: the benchmark holds the pool. Counted at each update its references would be what the
  // threads share, where a function that has the pool as a parameter counts none.
  let pool: Unmanaged<Pool>
  let numbers: Ref<Numbers>
  let kind: SectionKind

  @inline(__always)
  mutating func update(_ count: Int, _ draw: inout Draw) throws -> Int {
    var missed = 0
    try pool._withUnsafeGuaranteedRef { pool in
      try pool.section(kind) { section in
        for _ in 0..<count {
          let old = try numbers.value.updateValue(
            draw.nextValue(), forKey: draw.nextKey(), in: &section)
          if old == nil { missed += 1 }
        }
      }
    }
    return missed
  }

  func value(of key: UInt64) -> UInt64? { numbers.value[key] }
}

/// Updates a second of all threads together.
private func rate(
  _ pool: Pool, _ each: LaneCase, _ batch: Int, _ keyCount: Int, _ duration: Double
) throws -> Double {
  let start = Start(threads: each.threads)
  let sum = Mutex((rate: 0.0, failure: String?.none))
  let threads = (0..<each.threads).map { thread in
    BenchThread {
      var hasStarted = false
      do {
        let numbers = try pool.root("map \(thread)", of: Numbers.self)!
        let map = LaneMap(pool: .passUnretained(pool), numbers: numbers, kind: each.kind)
        var workload = Workload(map, keyCount: keyCount, seed: UInt64(thread) + 0x5EED)
        start.wait()
        hasStarted = true
        let own = try workload.rate(.update(batch: batch), for: duration)
        sum.withLock { $0.rate += own }
      } catch {
        sum.withLock { $0.failure = "\(error)" }
        if !hasStarted { start.wait() }
      }
    }
  }
  for thread in threads { thread.join() }
  if let failure = sum.withLock({ $0.failure }) { throw BenchError(failure) }
  return sum.withLock { $0.rate }
}

/// Threads go on together.
private final class Start: @unchecked Sendable {
  private let barrier = UnsafeMutablePointer<pthread_barrier_t>.allocate(capacity: 1)

  init(threads: Int) { pthread_barrier_init(barrier, nil, UInt32(threads)) }

  deinit {
    pthread_barrier_destroy(barrier)
    barrier.deallocate()
  }

  func wait() { pthread_barrier_wait(barrier) }
}

private final class BenchThread {
  private var handle = pthread_t()

  private final class Body: @unchecked Sendable {
    let run: @Sendable () -> Void
    init(_ run: @escaping @Sendable () -> Void) { self.run = run }
  }

  init(_ run: @escaping @Sendable () -> Void) {
    // SAFETY: the thread takes the reference that is given to it here.
    let body = Unmanaged.passRetained(Body(run)).toOpaque()
    let result = pthread_create(
      &handle, nil,
      { argument in
        Unmanaged<Body>.fromOpaque(argument!).takeRetainedValue().run()
        return nil
      }, body)
    precondition(result == 0)
  }

  func join() { pthread_join(handle, nil) }
}
