// PersistentDictionary: open addressing in groups of eight slots.
//
//   header (64 bytes)   control bytes, group mask, count, free slots before it grows, seed,
//   entries,
//                       the section that allocated the table
//   control             a byte a slot: 0 empty, 1 deleted, 0x80 + 7 bits of the hash full
//   entries             key and value of each slot
//
// A lookup compares the eight control bytes of a group at once, then the keys of those that match,
// and ends at a group with an empty slot. A slot that is freed in a group without an empty one is
// marked deleted, since a lookup may have to go on past it.
//
// Invariant: from the group of its hash to the group where a key is, no group has an empty slot.
//
// A table that the open section allocated is announced as a whole; an update of an older one
// announces its value alone.
//
// SAFETY: `header` names the block that `init` took. Control has a word for
// each group, entries eight slots; slots with a full control byte are initialized.

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
    @usableFromInline var control: UnsafeMutablePointer<UInt64>?
    @usableFromInline var entries: UnsafeMutableRawPointer?
    @usableFromInline var groupMask: Int
    @usableFromInline var count: Int
    @usableFromInline var slotsLeft: Int
    @usableFromInline var seed: HashSeed
    @usableFromInline var sectionNumber: UInt64

    @usableFromInline
    init() {
      (control, entries) = (nil, nil)
      (groupMask, count, slotsLeft, sectionNumber) = (0, 0, 0, 0)
      seed = .random()
    }
  }

  @usableFromInline let header: UnsafeMutablePointer<Header>

  /// An empty dictionary with a hash seed of its own.
  ///
  /// - Throws: `.poolFull`.
  @inlinable
  public init(in section: inout Section) throws(PoolError) {
    header = try section.allocateHeader(Header())
  }

  /// An empty dictionary with room for `capacity` keys.
  @inlinable
  public init(minimumCapacity capacity: Int, in section: inout Section) throws(PoolError) {
    self = try Self.make(capacity, in: &section)
  }

  @usableFromInline
  static func make(_ capacity: Int, in section: inout Section) throws(PoolError) -> Self {
    let result = try Self(in: &section)
    try result.reserveCapacity(capacity, in: &section)
    return result
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

  /// The most slots in use of `groups` groups: three quarters.
  @inlinable @inline(__always)
  static func slotsMax(groups: Int) -> Int { groups * 6 }

  @inlinable @inline(__always)
  var entries: UnsafeMutablePointer<Entry> {
    header.pointee.entries.unsafelyUnwrapped.assumingMemoryBound(to: Entry.self)
  }

  @inlinable @inline(__always)
  func hash(_ key: borrowing Key) -> UInt64 {
    var hasher = PersistentHasher(header.pointee.seed)
    key.hash(into: &hasher)
    return hasher.finish()
  }

  /// Byte i of the result has its high bit set where byte i of `word` is 0, and perhaps in some
  /// bytes above such a one.
  @inlinable @inline(__always)
  static func zeros(_ word: UInt64) -> UInt64 {
    (word &- 0x0101_0101_0101_0101) & ~word & 0x8080_8080_8080_8080
  }

  /// The control byte of a full slot, in every byte.
  @inlinable @inline(__always)
  static func pattern(_ hash: UInt64) -> UInt64 {
    (hash >> 57 | 0x80) &* 0x0101_0101_0101_0101
  }

  /// The slot of a key with this hash for which `matches` is true, or -1.
  @inlinable @inline(__always)
  func slot(_ hash: UInt64, _ matches: (borrowing Key) -> Bool) -> Int {
    guard let control = header.pointee.control else { return -1 }
    let (mask, pattern) = (header.pointee.groupMask, Self.pattern(hash))
    let entries = entries
    var group = Int(truncatingIfNeeded: hash) & mask
    while true {
      let word = control[group]
      var found = Self.zeros(word ^ pattern)
      while found != 0 {
        let slot = group &* 8 &+ found.trailingZeroBitCount &>> 3
        if matches(entries[slot].key) { return slot }
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
    let slot = slot(of: key)
    guard slot >= 0 else { return nil }
    return try body(entries[slot].value)
  }

  /// Calls `body` for each key and its value, in no order.
  @inlinable
  public func forEach(_ body: (borrowing Key, borrowing Value) throws -> Void) rethrows {
    guard let control = header.pointee.control else { return }
    for group in 0...header.pointee.groupMask {
      var full = control[group] & 0x8080_8080_8080_8080
      while full != 0 {
        let slot = group * 8 + full.trailingZeroBitCount / 8
        try body(entries[slot].key, entries[slot].value)
        full &= full - 1
      }
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
      UnsafeRawPointer(entries + slot) + Self.valueOffset, byteCount: MemoryLayout<Value>.size)
  }

  /// Where an entry has its value: behind the key, aligned.
  @inlinable @inline(__always)
  static var valueOffset: Int {
    let alignment = MemoryLayout<Value>.alignment
    return (MemoryLayout<Key>.size &+ alignment &- 1) & ~(alignment &- 1)
  }

  @inlinable @inline(__always)
  func setControl(_ slot: Int, to byte: UInt8, in section: inout Section) {
    let control = header.pointee.control.unsafelyUnwrapped + slot &>> 3
    UnsafeMutableRawPointer(control).storeBytes(
      of: byte, toByteOffset: slot & 7, as: UInt8.self)
    if !isNew(in: section) { section.announce(control, byteCount: 8) }
  }

  @inlinable @inline(__always)
  func addCounts(count: Int, slotsLeft: Int, in section: inout Section) {
    header.pointee.count &+= count
    header.pointee.slotsLeft &+= slotsLeft
    section.announce(UnsafeRawPointer(header) + 24, byteCount: 16)
  }

  /// Puts a key that is not there into the first group with room.
  @inlinable @inline(__always)
  func add(
    _ hash: UInt64, _ key: consuming Key, _ value: consuming Value, in section: inout Section
  ) throws(PoolError) {
    if header.pointee.slotsLeft == 0 { try makeRoom(in: &section) }
    let control = header.pointee.control.unsafelyUnwrapped
    var group = Int(truncatingIfNeeded: hash) & header.pointee.groupMask
    var free = ~control[group] & 0x8080_8080_8080_8080
    while free == 0 {
      group = (group &+ 1) & header.pointee.groupMask
      free = ~control[group] & 0x8080_8080_8080_8080
    }
    let slot = group &* 8 &+ free.trailingZeroBitCount &>> 3
    let isEmpty = control[group] &>> UInt64(truncatingIfNeeded: (slot & 7) &* 8) & 0xFF == 0
    (entries + slot).initialize(to: Entry(key: key, value: value))
    if !isNew(in: section), MemoryLayout<Entry>.size > 0 {
      section.announce(entries + slot, byteCount: MemoryLayout<Entry>.size)
    }
    setControl(slot, to: UInt8(truncatingIfNeeded: hash >> 57) | 0x80, in: &section)
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
    try entries[slot].value.destroy(in: &section)
    entries[slot].value = value
    try key.destroy(in: &section)
  }

  /// Changes the value of a key that is there; nil where it is not. O(1), expected.
  @inlinable @inline(__always)
  public func update<Result>(
    forKey key: borrowing Key, in section: inout Section,
    _ body: (inout Value) throws -> Result
  ) rethrows -> Result? {
    let slot = slot(of: key)
    guard slot >= 0 else { return nil }
    announceValue(slot, in: &section)
    return try body(&entries[slot].value)
  }

  /// Takes a slot's entry out.
  @inlinable
  func take(_ slot: Int, in section: inout Section) -> Entry {
    let entry = (entries + slot).move()
    let word = header.pointee.control.unsafelyUnwrapped[slot &>> 3]
    let hasEmpty = Self.zeros(word) != 0
    setControl(slot, to: hasEmpty ? 0 : 1, in: &section)
    addCounts(count: -1, slotsLeft: hasEmpty ? 1 : 0, in: &section)
    return entry
  }

  /// Takes a key out and destroys it and its value; false where it is not there. O(1), expected.
  @inlinable @discardableResult
  public func remove(
    _ key: borrowing Key, in section: inout Section
  ) throws(PoolError) -> Bool {
    let slot = slot(of: key)
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
    guard let control = header.pointee.control else { return }
    for group in 0...header.pointee.groupMask {
      for byte in 0..<8 where control[group] >> UInt64(byte * 8) & 0x80 != 0 {
        try entries[group * 8 + byte].key.destroy(in: &section)
        try entries[group * 8 + byte].value.destroy(in: &section)
      }
    }
  }

  // MARK: The table

  @usableFromInline
  func announceHeader(in section: inout Section) {
    section.announce(header, byteCount: MemoryLayout<Header>.size)
  }

  /// Makes room for `capacity` keys in all.
  public func reserveCapacity(_ capacity: Int, in section: inout Section) throws(PoolError) {
    guard capacity > self.capacity else { return }
    try rebuild(groups: Self.groups(for: capacity), in: &section)
  }

  /// The groups of a table for so many keys: a power of two.
  private static func groups(for capacity: Int) -> Int {
    var groups = 1
    while slotsMax(groups: groups) < capacity { groups *= 2 }
    return groups
  }

  /// Twice as many groups, or as many as before where a good part of the slots are deleted ones.
  @usableFromInline @inline(never)
  func makeRoom(in section: inout Section) throws(PoolError) {
    let count = header.pointee.count
    try rebuild(groups: Self.groups(for: max(count + count / 2, 6)), in: &section)
  }

  private func rebuild(groups: Int, in section: inout Section) throws(PoolError) {
    let (bytes, overflow) = (groups * 8).multipliedReportingOverflow(
      by: max(MemoryLayout<Entry>.stride, 1))
    guard !overflow, groups < 1 << 40 else { throw .invalidArgument("\(groups * 8) slots") }
    let control = try section.allocateAnnounced(byteCount: groups * 8)
    let target = try section.allocateAnnounced(
      byteCount: bytes, alignment: max(MemoryLayout<Entry>.alignment, 16))
    control.initializeMemory(as: UInt64.self, repeating: 0, count: groups)
    section.announce(control, byteCount: groups * 8)
    section.announce(target, byteCount: bytes)
    moveEntries(
      to: control.assumingMemoryBound(to: UInt64.self),
      target.assumingMemoryBound(to: Entry.self), mask: groups - 1)
    try freeTable(in: &section)
    header.pointee.control = control.assumingMemoryBound(to: UInt64.self)
    header.pointee.entries = target
    header.pointee.groupMask = groups - 1
    header.pointee.slotsLeft = Self.slotsMax(groups: groups) - header.pointee.count
    header.pointee.sectionNumber = section.number
    announceHeader(in: &section)
  }

  private func moveEntries(
    to control: UnsafeMutablePointer<UInt64>, _ target: UnsafeMutablePointer<Entry>, mask: Int
  ) {
    guard let old = header.pointee.control else { return }
    let entries = entries
    for group in 0...header.pointee.groupMask {
      var full = old[group] & 0x8080_8080_8080_8080
      while full != 0 {
        let slot = group &* 8 &+ full.trailingZeroBitCount &>> 3
        full &= full &- 1
        let hash = hash(entries[slot].key)
        var place = Int(truncatingIfNeeded: hash) & mask
        var free = ~control[place] & 0x8080_8080_8080_8080
        while free == 0 {
          place = (place &+ 1) & mask
          free = ~control[place] & 0x8080_8080_8080_8080
        }
        let shift = UInt64(truncatingIfNeeded: free.trailingZeroBitCount & ~7)
        control[place] |= (hash >> 57 | 0x80) &<< shift
        (target + (place &* 8 &+ Int(shift) &>> 3)).moveInitialize(from: entries + slot, count: 1)
      }
    }
  }

  private func freeTable(in section: inout Section) throws(PoolError) {
    guard let control = header.pointee.control, let entries = header.pointee.entries else {
      return
    }
    let groups = header.pointee.groupMask + 1
    if isNew(in: section) {
      section.forget(control, byteCount: groups * 8)
      section.forget(entries, byteCount: groups * 8 * MemoryLayout<Entry>.stride)
    }
    try section.deallocateAnnounced(control)
    try section.deallocateAnnounced(entries)
    (header.pointee.control, header.pointee.entries) = (nil, nil)
    header.pointee.groupMask = 0
    announceHeader(in: &section)
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
    guard let control = header.pointee.control else { return result }
    for group in 0...header.pointee.groupMask {
      for byte in 0..<8 where control[group] >> UInt64(byte * 8) & 0x80 != 0 {
        let slot = group * 8 + byte
        try result.insert(
          try entries[slot].value.copy(in: &section),
          forKey: try entries[slot].key.copy(in: &section), in: &section)
      }
    }
    return result
  }

  /// See ``Persistable/layout``.
  public static var layout: String { "PersistentDictionary<\(Key.layout),\(Value.layout)>" }
}

extension PersistentDictionary where Key: BitwiseCopyable, Value: BitwiseCopyable {
  /// The value of a key, if it is there. O(1), expected.
  @inlinable @inline(__always)
  public subscript(key: Key) -> Value? {
    let slot = slot(of: key)
    return slot >= 0 ? entries[slot].value : nil
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
    let old = entries[slot].value
    entries[slot].value = value
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
    self = try Self.make(elements, in: &section)
  }

  private static func make(
    _ elements: some Sequence<(key: Key, value: Value)>, in section: inout Section
  ) throws(PoolError) -> Self {
    let result = try make(elements.underestimatedCount, in: &section)
    for (key, value) in elements { try result.updateValue(value, forKey: key, in: &section) }
    return result
  }
}

extension Dictionary
where
  Key: PersistentKey & BitwiseCopyable, Value: Persistable & BitwiseCopyable
{
  /// A copy of a persistent dictionary's keys and values.
  public init(_ dictionary: borrowing PersistentDictionary<Key, Value>) {
    self.init(minimumCapacity: dictionary.count)
    dictionary.forEach { self[$0] = $1 }
  }
}
