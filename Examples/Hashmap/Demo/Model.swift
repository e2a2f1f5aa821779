// Model: what the pool has to hold after a section, as an ordinary dictionary.

struct Model {
  private let workload: Workload
  private(set) var section: UInt64 = 0
  private(set) var entries: [UInt64: UInt64] = [:]

  init(_ workload: Workload) {
    self.workload = workload
  }

  /// Goes on until `number` is the last section done; a model does not go back.
  mutating func advance(to number: UInt64) {
    precondition(number >= section)
    while section < number {
      section += 1
      for operation in workload.operations(of: section) { apply(operation) }
    }
  }

  private mutating func apply(_ operation: Operation) {
    switch operation {
    case .insert(let key, let value): entries[key] = value
    case .update(let key, let value): if entries[key] != nil { entries[key] = value }
    case .remove(let key): entries[key] = nil
    }
  }
}
