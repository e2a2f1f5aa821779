// Workload: what every system of the hash map benchmark does.
//
// Keys are key(0) ..< key(keyCount), random-looking and all different; an index is drawn uniformly
// for each operation, and every update stores a value that was not there before. The draw is part
// of what is measured, for every system alike: 2 to 3 ns.

import PersistentHashmap
import VolipMem

/// How a system brackets updates.
protocol SectionRunner {
  func section(_ body: () throws -> Void) throws
}

struct PoolSections: SectionRunner {
  let pool: Pool

  @inline(__always)
  func section(_ body: () throws -> Void) throws {
    try pool.section { _ in try body() }
  }
}

/// A system without failure atomicity.
struct NoSections: SectionRunner {
  @inline(__always)
  func section(_ body: () throws -> Void) throws { try body() }
}

enum WorkloadCase: Hashable {
  /// Sections of so many updates.
  case update(batch: Int)
  /// 95 % lookups, 5 % sections of one update. Lookups count as operations too.
  case mix95

  var name: String { self == .mix95 ? "mix95" : "update" }
  var batch: Int { if case .update(let batch) = self { batch } else { 1 } }
}

/// The splitmix64 finalizer: a bijection, so that different indexes have different keys.
@inline(__always)
func key(_ index: UInt64) -> UInt64 {
  var word = (index &+ 1) &* 0x9E37_79B9_7F4A_7C15
  word = (word ^ word >> 30) &* 0xBF58_476D_1CE4_E5B9
  word = (word ^ word >> 27) &* 0x94D0_49BB_1331_11EB
  return word ^ word >> 31
}

/// xorshift64: three shifts, because the draw must not be what is measured.
struct FastGenerator: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed | 1 }

  @inline(__always)
  mutating func next() -> UInt64 {
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return state
  }

  /// A number below `limit`.
  @inline(__always)
  mutating func below(_ limit: UInt64) -> UInt64 {
    next().multipliedFullWidth(by: limit).high
  }
}

struct Workload {
  let map: HashMap
  let keyCount: UInt64
  var generator: FastGenerator
  /// Uses what lookups find, so that they are not optimized away.
  private(set) var sum: UInt64 = 0
  private(set) var missed = 0

  init(_ map: HashMap, keyCount: Int, seed: UInt64) {
    self.map = map
    self.keyCount = UInt64(keyCount)
    generator = FastGenerator(seed: seed)
  }

  /// Operations between two looks at the clock: 6 us on the fastest system, 50 ms on the slowest.
  static let operationsBetweenLooks = 256

  /// Operations a second over about `duration` seconds.
  mutating func rate(
    _ workloadCase: WorkloadCase, _ sections: some SectionRunner, for duration: Double
  ) throws -> Double {
    let looks = max(Self.operationsBetweenLooks / workloadCase.batch, 1)
    let (runs, seconds) = try repeated(for: duration) {
      switch workloadCase {
      case .update(let batch):
        for _ in 0..<looks { try sections.section { update(batch) } }
      case .mix95:
        for _ in 0..<looks { try mixedOperation(sections) }
      }
    }
    guard missed == 0 else { throw BenchError("\(missed) keys were not found") }
    return Double(runs * looks * workloadCase.batch) / seconds
  }

  @inline(__always)
  private mutating func update(_ count: Int) {
    for _ in 0..<count {
      let index = generator.below(keyCount)
      if !map.update(key(index), to: generator.next()) { missed += 1 }
    }
  }

  @inline(__always)
  private mutating func mixedOperation(_ sections: some SectionRunner) throws {
    if generator.below(100) < 5 {
      try sections.section { update(1) }
    } else {
      let index = generator.below(keyCount)
      if let value = map[key(index)] { sum &+= value } else { missed += 1 }
    }
  }
}
