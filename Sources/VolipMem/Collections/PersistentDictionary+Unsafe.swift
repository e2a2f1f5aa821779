// PersistentDictionary: open addressing in groups of seven slots.
//
//   header (56 bytes)   groups, group mask, count, free slots before it grows, seed, the section
//                       that allocated the groups
//   group               control word, seven entries of key and value: two cache lines for words
//   control word        a byte a slot: 0 empty, 1 deleted, 0x80 + 7 bits of the hash full; then 1
//
// A lookup compares the control bytes of a group at once, then the keys of those that match, and
// ends at a group with an empty slot. A slot that is freed in a group without an empty one is
// marked deleted, since a lookup may have to go on past it. Control and entries side by side: a
// lookup in a table that no cache holds waits for one place in memory and not for two.
//
// Invariant: from the group of its hash to the group where a key is, no group has an empty slot.
//
// A table that the open section allocated is announced as a whole; an update of an older one
// announces its value alone.
//
// SAFETY: `header` names the block that `init` took, groups are those that its table has
// (DictionaryTable+Unsafe.swift); slots with a full control byte are initialized.

/// One slot of a table.
@frozen @usableFromInline
struct DictionaryEntry<Key: ~Copyable, Value: ~Copyable>: ~Copyable {
  @usableFromInline var key: Key
  @usableFromInline var value: Value

  @inlinable
  init(key: consuming Key, value: consuming Value) {
    self.key = key
    self.value = value
  }
}

/// A collection of values by keys, in a pool, in no order.
///
/// Reading needs no section; what changes the dictionary takes `inout Section`. The dictionary
/// itself is a name for memory of the pool: it is freed by ``destroy(in:)`` and not by going out of
/// scope.
public struct PersistentDictionary<
  Key: PersistentKey & ~Copyable, Value: Persistable & ~Copyable
>: ~Copyable {
  @usableFromInline typealias Entry = DictionaryEntry<Key, Value>

  @usableFromInline
  struct Header: BitwiseCopyable {
    @usableFromInline var groups: UnsafeMutableRawPointer?
    @usableFromInline var groupMask: Int
    @usableFromInline var count: Int
    @usableFromInline var slotsLeft: Int
    @usableFromInline var seed: HashSeed
    @usableFromInline var sectionNumber: UInt64

    @usableFromInline
    init() {
      groups = nil
      (groupMask, count, slotsLeft, sectionNumber) = (0, 0, 0, 0)
      seed = .random()
    }
  }

  @usableFromInline let header: UnsafeMutablePointer<Header>

  /// The name of what is there.
  @inlinable @inline(__always)
  init(_ header: UnsafeMutablePointer<Header>) { self.header = header }

  /// An empty dictionary with a hash seed of its own, and room for `capacity` keys.
  ///
  /// - Throws: `.poolFull`.
  @inlinable
  public init(minimumCapacity capacity: Int = 0, in section: inout Section) throws(PoolError) {
    let empty = PersistentDictionary(try section.allocateHeader(Header()))
    try empty.reserveCapacity(capacity, in: &section)
    self = empty
  }

  // MARK: Reading

  /// The number of keys. O(1).
  @inlinable
  public var count: Int { header.pointee.count }

  /// Whether there are none.
  @inlinable
  public var isEmpty: Bool { count == 0 }

  /// How many keys there may be before the table grows.
  @inlinable
  public var capacity: Int { header.pointee.count + header.pointee.slotsLeft }

  @inlinable @inline(__always)
  func hash(_ key: borrowing Key) -> UInt64 {
    var hasher = PersistentHasher(header.pointee.seed)
    key.hash(into: &hasher)
    return hasher.finish()
  }

  /// The slot of a key with this hash for which `matches` is true, or -1.
  @inlinable @inline(__always)
  func slot(_ hash: UInt64, _ matches: (borrowing Key) -> Bool) -> Int {
    guard let groups = header.pointee.groups else { return -1 }
    let (mask, pattern) = (header.pointee.groupMask, Self.pattern(hash))
    var group = Int(truncatingIfNeeded: hash) & mask
    while true {
      let word = Self.control(group, in: groups).pointee
      var found = Self.zeros(word ^ pattern)
      while found != 0 {
        let slot = group &* 8 &+ found.trailingZeroBitCount &>> 3
        if matches(Self.entry(slot, in: groups).pointee.key) { return slot }
        found &= found &- 1
      }
      if Self.zeros(word) != 0 { return -1 }
      group = (group &+ 1) & mask
    }
  }

  @inlinable @inline(__always)
  func slot(of key: borrowing Key) -> Int {
    slot(hash(key)) { Key.isSame($0, key) }
  }

  /// Whether a key is there. O(1), expected.
  @inlinable
  public func contains(_ key: borrowing Key) -> Bool { slot(of: key) >= 0 }

  /// Calls `body` with a key's value, if it is there. O(1), expected.
  @inlinable
  public func withValue<Result>(
    forKey key: borrowing Key, _ body: (borrowing Value) throws -> Result
  ) rethrows -> Result? {
    try withValue(inSlot: slot(of: key), body)
  }

  /// Slot -1 is that of a key that is not there, here and below.
  @inlinable @inline(__always)
  func withValue<Result>(
    inSlot slot: Int, _ body: (borrowing Value) throws -> Result
  ) rethrows -> Result? {
    guard slot >= 0 else { return nil }
    return try body(entry(slot).pointee.value)
  }

  /// Calls `body` for each key and its value, in no order.
  @inlinable
  public func forEach(_ body: (borrowing Key, borrowing Value) throws -> Void) rethrows {
    for index in indices {
      let entry = entry(index.slot)
      try body(entry.pointee.key, entry.pointee.value)
    }
  }

  // MARK: Changing

  /// Whether the open section allocated the table: then all of it is announced.
  @inlinable @inline(__always)
  func isNew(in section: borrowing Section) -> Bool {
    header.pointee.sectionNumber == section.number
  }

  @inlinable @inline(__always)
  func announceValue(_ slot: Int, in section: inout Section) {
    guard !isNew(in: section), MemoryLayout<Value>.size > 0 else { return }
    section.announce(
      UnsafeRawPointer(entry(slot)) + Self.valueOffset, byteCount: MemoryLayout<Value>.size)
  }

  /// Where an entry has its value: behind the key, aligned.
  @inlinable @inline(__always)
  static var valueOffset: Int {
    let alignment = MemoryLayout<Value>.alignment
    return (MemoryLayout<Key>.size &+ alignment &- 1) & ~(alignment &- 1)
  }

  @inlinable @inline(__always)
  func setControl(_ slot: Int, to byte: UInt8, in section: inout Section) {
    let control = Self.control(slot &>> 3, in: groups)
    UnsafeMutableRawPointer(control).storeBytes(
      of: byte, toByteOffset: slot & 7, as: UInt8.self)
    if !isNew(in: section) { section.announce(control, byteCount: 8) }
  }

  @inlinable @inline(__always)
  func addCounts(count: Int, slotsLeft: Int, in section: inout Section) {
    header.pointee.count &+= count
    header.pointee.slotsLeft &+= slotsLeft
    section.announce(UnsafeRawPointer(header) + 16, byteCount: 16)
  }

  /// Puts a key that is not there into the first group with room.
  @inlinable @inline(__always)
  func add(
    _ hash: UInt64, _ key: consuming Key, _ value: consuming Value, in section: inout Section
  ) throws(PoolError) {
    if header.pointee.slotsLeft == 0 { try makeRoom(in: &section) }
    let groups = groups
    let slot = Self.freeSlot(hash, in: groups, mask: header.pointee.groupMask)
    let word = Self.control(slot &>> 3, in: groups).pointee
    let isEmpty = word &>> UInt64(truncatingIfNeeded: (slot & 7) &* 8) & 0xFF == 0
    setControl(slot, to: UInt8(truncatingIfNeeded: hash >> 57) | 0x80, in: &section)
    let entry = Self.entry(slot, in: groups)
    entry.initialize(to: Entry(key: key, value: value))
    if !isNew(in: section), MemoryLayout<Entry>.size > 0 {
      section.announce(entry, byteCount: MemoryLayout<Entry>.size)
    }
    addCounts(count: 1, slotsLeft: isEmpty ? -1 : 0, in: &section)
  }

  /// Gives a key a value; the old one is destroyed, or the key is added. O(1), expected.
  ///
  /// - Throws: `.poolFull`.
  @inlinable @inline(__always)
  public func insert(
    _ value: consuming Value, forKey key: consuming Key, in section: inout Section
  ) throws(PoolError) {
    let hash = hash(key)
    let slot = slot(hash) { Key.isSame($0, key) }
    guard slot >= 0 else { return try add(hash, key, value, in: &section) }
    announceValue(slot, in: &section)
    let entry = entry(slot)
    try entry.pointee.value.destroy(in: &section)
    entry.pointee.value = value
    try key.destroy(in: &section)
  }

  /// Changes the value of a key that is there; nil where it is not. O(1), expected.
  @inlinable @inline(__always)
  public func update<Result>(
    forKey key: borrowing Key, in section: inout Section,
    _ body: (inout Value) throws -> Result
  ) rethrows -> Result? {
    try update(slot(of: key), in: &section, body)
  }

  @inlinable @inline(__always)
  func update<Result>(
    _ slot: Int, in section: inout Section, _ body: (inout Value) throws -> Result
  ) rethrows -> Result? {
    guard slot >= 0 else { return nil }
    announceValue(slot, in: &section)
    return try body(&entry(slot).pointee.value)
  }

  /// Takes a slot's entry out.
  @inlinable
  func take(_ slot: Int, in section: inout Section) -> Entry {
    let entry = entry(slot).move()
    let hasEmpty = Self.zeros(Self.control(slot &>> 3, in: groups).pointee) != 0
    setControl(slot, to: hasEmpty ? 0 : 1, in: &section)
    addCounts(count: -1, slotsLeft: hasEmpty ? 1 : 0, in: &section)
    return entry
  }

  /// Takes a key out and destroys it and its value; false where it is not there. O(1), expected.
  @inlinable @discardableResult
  public func remove(
    _ key: borrowing Key, in section: inout Section
  ) throws(PoolError) -> Bool {
    try remove(slot(of: key), in: &section)
  }

  @inlinable
  func remove(_ slot: Int, in section: inout Section) throws(PoolError) -> Bool {
    guard slot >= 0 else { return false }
    let entry = take(slot, in: &section)
    try entry.key.destroy(in: &section)
    try entry.value.destroy(in: &section)
    return true
  }

  /// Frees all keys and values, and the table.
  public func removeAll(in section: inout Section) throws(PoolError) {
    try destroyEntries(in: &section)
    try freeTable(in: &section)
    header.pointee.count = 0
    header.pointee.slotsLeft = 0
    announceHeader(in: &section)
  }

  private func destroyEntries(in section: inout Section) throws(PoolError) {
    for index in indices {
      let entry = entry(index.slot)
      try entry.pointee.key.destroy(in: &section)
      try entry.pointee.value.destroy(in: &section)
    }
  }
}

extension PersistentDictionary: Persistable where Key: ~Copyable, Value: ~Copyable {
  /// Frees all keys and values, and the dictionary.
  public func destroy(in section: inout Section) throws(PoolError) {
    try destroyEntries(in: &section)
    try freeTable(in: &section)
    try section.deallocateAnnounced(header)
  }

  /// A dictionary of its own with copies of all keys and values. O(n).
  public func copy(
    in section: inout Section
  ) throws(PoolError) -> PersistentDictionary<Key, Value> {
    let result = try PersistentDictionary(minimumCapacity: count, in: &section)
    for index in indices {
      let entry = entry(index.slot)
      let key = try entry.pointee.key.copy(in: &section)
      try result.insert(try entry.pointee.value.copy(in: &section), forKey: key, in: &section)
    }
    return result
  }

  /// See ``Persistable/layout``.
  public static var layout: String { "PersistentDictionary.2<\(Key.layout),\(Value.layout)>" }
}

extension PersistentDictionary where Key: BitwiseCopyable, Value: BitwiseCopyable {
  /// The value of a key, if it is there. O(1), expected.
  @inlinable @inline(__always)
  public subscript(key: Key) -> Value? {
    let slot = slot(of: key)
    return slot >= 0 ? entry(slot).pointee.value : nil
  }

  /// The value of a key, or a default.
  @inlinable
  public subscript(key: Key, default value: @autoclosure () -> Value) -> Value {
    self[key] ?? value()
  }

  /// Gives a key a value; returns the one that it had. O(1), expected.
  ///
  /// - Throws: `.poolFull`.
  @inlinable @inline(__always) @discardableResult
  public func updateValue(
    _ value: Value, forKey key: Key, in section: inout Section
  ) throws(PoolError) -> Value? {
    let hash = hash(key)
    let slot = slot(hash) { Key.isSame($0, key) }
    guard slot >= 0 else {
      try add(hash, key, value, in: &section)
      return nil
    }
    let entry = entry(slot)
    let old = entry.pointee.value
    entry.pointee.value = value
    announceValue(slot, in: &section)
    return old
  }

  /// Takes a key out; returns the value that it had. O(1), expected.
  @inlinable @discardableResult
  public func removeValue(forKey key: Key, in section: inout Section) -> Value? {
    let slot = slot(of: key)
    guard slot >= 0 else { return nil }
    return take(slot, in: &section).value
  }

  /// A dictionary with the keys and values of a sequence; of equal keys the last one counts.
  public init(
    _ elements: some Sequence<(key: Key, value: Value)>, in section: inout Section
  ) throws(PoolError) {
    let result = try PersistentDictionary(
      minimumCapacity: elements.underestimatedCount, in: &section)
    for (key, value) in elements { try result.updateValue(value, forKey: key, in: &section) }
    self = result
  }
}
