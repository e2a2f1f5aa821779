// Sabotage: damage done on purpose between a kill and the audit, so that tests can prove that the
// audit would find it. Each kind is what one count of the table stands for.

import ArgumentParser
import PersistentHashmap
import VolipMem

enum Sabotage: String, CaseIterable, ExpressibleByArgument {
  /// The section number goes back below what was acknowledged.
  case lost
  /// One entry changes behind the model's back.
  case torn
  /// A block is allocated and forgotten.
  case leaked

  /// Damages the pool; false as long as no section was acknowledged that could be damaged.
  func strike(_ pool: Pool?, acknowledged: UInt64) throws -> Bool {
    guard acknowledged > 0, let pool,
      let state = try pool.root(DemoPool.rootName, as: DemoState.self)
    else { return false }
    try pool.section { _ in
      switch self {
      case .lost: state.pointee.section = acknowledged - 1
      case .torn: try state.pointee.map.insert(Workload.keyCount, 0, in: pool)
      case .leaked: _ = try pool.allocate(byteCount: 48)
      }
    }
    return true
  }
}
