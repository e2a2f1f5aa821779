// Workload: what every system of the hash map benchmark does.
//
// Keys are key(0) ..< key(keyCount), random-looking and all different; an index is drawn uniformly
// for each operation, and every update stores a value that was not there before. The draw is part
// of what is measured, for every system alike: 2 to 3 ns.

import PersistentHashmap
import VolipMem

/// A map of one system.
protocol MeasuredMap {
  /// Gives `count` drawn keys new values in one section; returns how many were not there.
  mutating func update(_ count: Int, _ draw: inout Draw) throws -> Int

  func value(of key: UInt64) -> UInt64?
}

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

/// Draws keys and values.
struct Draw {
  let keyCount: UInt64
  var generator: FastGenerator

  @inline(__always)
  mutating func nextKey() -> UInt64 { key(generator.below(keyCount)) }

  @inline(__always)
  mutating func nextValue() -> UInt64 { generator.next() }
}

/// The examples' hash map, in a pool or not.
struct ChainedMap<Sections: SectionRunner>: MeasuredMap {
  let map: HashMap
  let sections: Sections

  @inline(__always)
  mutating func update(_ count: Int, _ draw: inout Draw) throws -> Int {
    var missed = 0
    try sections.section {
      for _ in 0..<count where !map.update(draw.nextKey(), to: draw.nextValue()) { missed += 1 }
    }
    return missed
  }

  @inline(__always)
  func value(of key: UInt64) -> UInt64? { map[key] }
}

struct Workload<Map: MeasuredMap> {
  var map: Map
  var draw: Draw
  /// Uses what lookups find, so that they are not optimized away.
  private(set) var sum: UInt64 = 0
  private(set) var missed = 0

  init(_ map: Map, keyCount: Int, seed: UInt64) {
    self.map = map
    draw = Draw(keyCount: UInt64(keyCount), generator: FastGenerator(seed: seed))
  }

  /// Operations between two looks at the clock: 6 us on the fastest system, 50 ms on the slowest.
  static var operationsBetweenLooks: Int { 256 }

  /// Operations a second over about `duration` seconds.
  mutating func rate(
    _ workloadCase: WorkloadCase, for duration: Double
  ) throws -> Double {
    let looks = max(Self.operationsBetweenLooks / workloadCase.batch, 1)
    let (runs, seconds) = try repeated(for: duration) {
      switch workloadCase {
      case .update(let batch):
        for _ in 0..<looks { missed += try map.update(batch, &draw) }
      case .mix95:
        for _ in 0..<looks { try mixedOperation() }
      }
    }
    guard missed == 0 else { throw BenchError("\(missed) keys were not found") }
    return Double(runs * looks * workloadCase.batch) / seconds
  }

  @inline(__always)
  private mutating func mixedOperation() throws {
    if draw.generator.below(100) < 5 {
      missed += try map.update(1, &draw)
    } else if let value = map.value(of: draw.nextKey()) {
      sum &+= value
    } else {
      missed += 1
    }
  }
}
