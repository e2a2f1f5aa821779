import Glibc
import VolipMem

/// What tests of collections do in a process that is killed.
let collectionVerbs: [String: @Sendable ([String]) throws -> Void] = [
  "collection-work": collectionWork,
  "collection-audit": collectionAudit,
]

/// Everything that a section changes together; the sum of all values is always `sections`.
struct Ledger: ~Copyable, Persistable {
  static let keyCount: UInt64 = 3000
  let values: PersistentDictionary<UInt64, UInt64>
  let journal: PersistentArray<UInt64>

  init(in section: inout Section) throws(PoolError) {
    let values = try PersistentDictionary<UInt64, UInt64>(in: &section)
    let journal = try PersistentArray<UInt64>(in: &section)
    self.init(values, journal)
  }

  private init(
    _ values: consuming PersistentDictionary<UInt64, UInt64>,
    _ journal: consuming PersistentArray<UInt64>
  ) {
    self.values = values
    self.journal = journal
  }

  func destroy(in section: inout Section) throws(PoolError) {
    try values.destroy(in: &section)
    try journal.destroy(in: &section)
  }

  func copy(in section: inout Section) throws(PoolError) -> Ledger {
    Ledger(try values.copy(in: &section), try journal.copy(in: &section))
  }

  static var layout: String {
    "Ledger(\(PersistentDictionary<UInt64, UInt64>.layout),\(PersistentArray<UInt64>.layout))"
  }
}

/// Raises counters in a dictionary and writes a journal, each section a random number of them, with
/// growth, deletions and aborts, for ever; prints each section's number when it is durable.
func collectionWork(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.engine.persistencePath = .cacheLines
  options.logBytes = 64 << 10
  if arguments.count > 1 {
    options.engine.audit = arguments[1] == "audit"
    options.engine.tracker = TrackerKind(rawValue: arguments[1])
  }
  let pool = try pmap(arguments[0], byteCount: 64 << 20, options: options)
  let ledger = try pool.section { section in
    try pool.root("ledger", in: &section) { section in try Ledger(in: &section) }
  }
  // A word that the tracker finds, in the same records.
  let sections = try pool.section { section in
    try pool.root("sections", in: &section) { UInt64(0) }
  }
  var random = UInt64(getpid()) | 1
  func next() -> UInt64 {
    random ^= random << 13
    random ^= random >> 7
    random ^= random << 17
    return random
  }
  while true {
    let number = UInt64(ledger.value.journal.count)
    let isExclusive = next() % 4 == 0
    do {
      try pool.section(isExclusive ? .exclusive : .announced) { section in
        for _ in 0..<next() % 40 {
          try raise(ledger.value, next() % Ledger.keyCount, by: 1, in: &section)
          try raise(ledger.value, next() % Ledger.keyCount, by: UInt64.max, in: &section)
        }
        try raise(ledger.value, next() % Ledger.keyCount, by: 1, in: &section)
        try ledger.value.journal.append(number, in: &section)
        if isExclusive { sections.pointee = number + 1 }
        if next() % 8 == 0 { throw PoolError.sectionAborted }
      }
    } catch PoolError.sectionAborted {
      continue
    }
    var done = number + 1
    write(1, &done, 8)
  }
}

private func raise(
  _ ledger: borrowing Ledger, _ key: UInt64, by amount: UInt64, in section: inout Section
) throws {
  let value = (ledger.values[key] ?? 0) &+ amount
  if value == 0 {
    ledger.values.removeValue(forKey: key, in: &section)
  } else {
    try ledger.values.updateValue(value, forKey: key, in: &section)
  }
}

/// Opens the ledger after a kill: prints its number of sections, the sum of its values less that
/// number, and whether journal, heap and the tracked word agree.
func collectionAudit(_ arguments: [String]) throws {
  let pool = try Pool.open(arguments[0])
  guard let ledger = try pool.root("ledger", of: Ledger.self) else {
    print("transfers 0 sum 0 consistent true")
    return
  }
  let count = ledger.value.journal.count
  var sum: UInt64 = 0
  ledger.value.values.forEach { _, value in sum &+= value }
  var isWhole = ledger.value.journal.indices.allSatisfy {
    ledger.value.journal[$0] == UInt64($0)
  }
  let tracked = try pool.root("sections", as: UInt64.self)?.pointee ?? 0
  isWhole = isWhole && tracked <= UInt64(count) && pool.checkHeap().isConsistent
  print("transfers \(count) sum \(sum &- UInt64(count)) consistent \(isWhole)")
  try pool.close()
}
