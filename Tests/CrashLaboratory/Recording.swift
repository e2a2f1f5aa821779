import Glibc
import VolipMem

/// What a workload did: the trace of its pool file, and the states that it made durable, in order.
public struct Recording {
  let workload: String
  let seed: UInt64
  let trace: Trace
  let states: [State]
  /// For each state the first one with the same bytes.
  let canonical: [Int]

  /// About how many moments an explorer looks at.
  var pointCount: Int {
    trace.events.reduce(1) { count, event in
      switch event {
      case .fence, .failedFence, .lengthSynced: count + 2
      case .acknowledged: count + 1
      default: count
      }
    }
  }

  /// The bytes of the pool's memory; what lies behind them is zero.
  struct State: Equatable {
    let bytes: [UInt8]

    static func == (one: State, other: State) -> Bool {
      other.bytes.withUnsafeBytes { one.isEqual(to: $0) }
    }

    func isEqual(to image: UnsafeRawBufferPointer) -> Bool {
      bytes.withUnsafeBytes { own in
        let common = min(own.count, image.count)
        return isEqualBytes(own.baseAddress!, image.baseAddress!, common)
          && isZero(UnsafeRawBufferPointer(rebasing: own[common...]))
          && isZero(UnsafeRawBufferPointer(rebasing: image[common...]))
      }
    }
  }

  init(workload: String, seed: UInt64, trace: Trace, states: [State]) {
    (self.workload, self.seed) = (workload, seed)
    (self.trace, self.states) = (trace, states)
    canonical = states.map { states.firstIndex(of: $0)! }
  }
}

private func isEqualBytes(_ one: UnsafeRawPointer, _ other: UnsafeRawPointer, _ count: Int) -> Bool
{
  memcmp(one, other, count) == 0
}

private func isZero(_ bytes: UnsafeRawBufferPointer) -> Bool {
  guard let base = bytes.baseAddress, bytes.count > 0 else { return true }
  return bytes[0] == 0 && memcmp(base, base + 1, bytes.count - 1) == 0
}
