// Compute: what a program's own work costs, which guest mode must leave alone.

import Foundation
import VolipMem

/// The same work on the host and in the guest, in ms.
func computeMeasurements(_ run: RunOptions) -> [Measurement] {
  let sequential = SequentialRead(byteCount: 256 << 20)
  let chase = PointerChase(byteCount: 64 << 20)
  return [
    timed("ALU", run) { spin() },
    timed("ALU on two threads at once", run) { onTwoThreads(spin) },
    timed("sequential read of 256 MiB", run) { sequential.sum() },
    timed("pointer chase in 64 MiB", run) { chase.walk() },
  ]
}

private func timed(_ name: String, _ run: RunOptions, _ body: () -> UInt64) -> Measurement {
  var measurement = Measurement("primitives", name, unit: "ms")
  for repetition in 0...run.repetitionCount {
    let start = nanoseconds()
    sink &+= body()
    if repetition > 0 { measurement.samples.append(Double(nanoseconds() - start) / 1e6) }
  }
  return measurement
}

/// Where results go, so that they are computed.
nonisolated(unsafe) private var sink: UInt64 = 0

private func spin() -> UInt64 {
  var word: UInt64 = 0x9E37_79B9_7F4A_7C15
  for _ in 0..<50_000_000 {
    word ^= word << 13
    word ^= word >> 7
    word ^= word << 17
  }
  return word
}

private func onTwoThreads(_ body: @escaping @Sendable () -> UInt64) -> UInt64 {
  nonisolated(unsafe) var results: [UInt64] = [0, 0]
  DispatchQueue.concurrentPerform(iterations: 2) { index in
    let result = body()
    if index == 0 { results[0] = result }
  }
  return results[0]
}

private struct SequentialRead {
  let words: [UInt64]

  init(byteCount: Int) { words = (0..<byteCount / 8).map(UInt64.init) }

  func sum() -> UInt64 { words.reduce(0, &+) }
}

/// A cycle through all lines of some memory, in random order.
private struct PointerChase {
  let next: [Int32]
  private static let lineWords = 16

  init(byteCount: Int) {
    let count = byteCount / 64
    var generator = FastGenerator(seed: 0x5EED)
    var order = Array(0..<count)
    order.shuffle(using: &generator)
    var next = [Int32](repeating: 0, count: count * Self.lineWords)
    for index in 0..<count {
      let to = order[(index + 1) % count]
      next[order[index] * Self.lineWords] = Int32(to * Self.lineWords)
    }
    self.next = next
  }

  func walk() -> UInt64 {
    var place = 0
    for _ in 0..<1_000_000 { place = Int(next[place]) }
    return UInt64(place)
  }
}
