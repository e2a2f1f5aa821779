// Workload: what section number n does, as a function of the seed and n alone. Worker and model
// each work it out for themselves; nothing but the section number has to pass between them.

enum Operation {
  case insert(key: UInt64, value: UInt64)
  case update(key: UInt64, value: UInt64)
  case remove(key: UInt64)
}

struct Workload {
  let seed: UInt64

  /// With as many keys the map settles at about 57,000 entries, 40 inserts to 30 removals: a few
  /// MiB of pool, many more pages than a section touches.
  static let keyCount: UInt64 = 100_000
  static let operationCountMax: UInt64 = 200

  /// The operations that section `number` commits.
  func operations(of number: UInt64) -> Operations {
    Operations(seed: seed &+ number &* 2)
  }

  /// The operations of a section that is rolled back just before section `number`, for one in 16.
  func abortedOperations(before number: UInt64) -> Operations? {
    var random = SplitMix(seed: ~seed &+ number)
    guard random.next() % 16 == 0 else { return nil }
    return Operations(seed: seed &+ number &* 2 &+ 1)
  }
}

struct Operations: Sequence, IteratorProtocol {
  private var random: SplitMix
  let count: Int
  private var left: Int

  fileprivate init(seed: UInt64) {
    random = SplitMix(seed: seed)
    random = SplitMix(seed: random.next())  // neighbouring seeds must not give shifted sequences
    count = Int(random.next() % Workload.operationCountMax) + 1
    left = count
  }

  mutating func next() -> Operation? {
    guard left > 0 else { return nil }
    left -= 1
    let key = random.next() % Workload.keyCount
    switch random.next() % 10 {
    case 0..<4: return .insert(key: key, value: random.next())
    case 4..<7: return .update(key: key, value: random.next())
    default: return .remove(key: key)
    }
  }
}

/// splitmix64: a generator that gives the same numbers on every machine.
struct SplitMix: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var word = state
    word = (word ^ word >> 30) &* 0xBF58_476D_1CE4_E5B9
    word = (word ^ word >> 27) &* 0x94D0_49BB_1331_11EB
    return word ^ word >> 31
  }
}
