// The table of a persistent dictionary: where its groups and slots are, and how it grows.
//
//   group of words' entries, 128 bytes     control word | entry 0 | ... | entry 6 | zero
//
// A slot's number is eight times its group's, and its place there: 0 to 6.
//
// SAFETY: groups are a block of `groupMask + 1` times `groupBytes`; entries of full slots are
// initialized.

extension PersistentDictionary where Key: ~Copyable, Value: ~Copyable {
  /// The control word of an empty group: its last byte is no slot's, and never empty.
  @inlinable static var emptyControl: UInt64 { 0x0100_0000_0000_0000 }

  /// The high bits of the control bytes of the slots.
  @inlinable static var slotBits: UInt64 { 0x0080_8080_8080_8080 }

  /// Where a group has its entries: behind the control word, aligned.
  @inlinable @inline(__always)
  static var entriesByte: Int { max(8, MemoryLayout<Entry>.alignment) }

  /// Whole cache lines where that is at most an eighth more.
  @inlinable @inline(__always)
  static var groupBytes: Int {
    let bytes = entriesByte &+ 7 &* MemoryLayout<Entry>.stride
    let lines = (bytes &+ 63) & ~63
    return lines &- bytes <= bytes / 8 ? lines : (bytes &+ entriesByte &- 1) & ~(entriesByte &- 1)
  }

  /// The most slots in use of `groups` groups: six of seven.
  @inlinable @inline(__always)
  static func slotsMax(groups: Int) -> Int { groups * 6 }

  /// Byte i of the result has its high bit set where byte i of `word` is 0, and perhaps in some
  /// bytes above such a one that are 1.
  @inlinable @inline(__always)
  static func zeros(_ word: UInt64) -> UInt64 {
    (word &- 0x0101_0101_0101_0101) & ~word & 0x8080_8080_8080_8080
  }

  /// The control byte of a full slot, in every byte.
  @inlinable @inline(__always)
  static func pattern(_ hash: UInt64) -> UInt64 {
    (hash >> 57 | 0x80) &* 0x0101_0101_0101_0101
  }

  @inlinable @inline(__always)
  static func control(
    _ group: Int, in groups: UnsafeMutableRawPointer
  ) -> UnsafeMutablePointer<UInt64> {
    (groups + group &* groupBytes).assumingMemoryBound(to: UInt64.self)
  }

  @inlinable @inline(__always)
  static func entry(
    _ slot: Int, in groups: UnsafeMutableRawPointer
  ) -> UnsafeMutablePointer<Entry> {
    let group = groups + (slot &>> 3 &* groupBytes &+ entriesByte)
    return group.assumingMemoryBound(to: Entry.self) + slot & 7
  }

  /// The groups of a table that has some.
  @inlinable @inline(__always)
  var groups: UnsafeMutableRawPointer { header.pointee.groups.unsafelyUnwrapped }

  @inlinable @inline(__always)
  func entry(_ slot: Int) -> UnsafeMutablePointer<Entry> { Self.entry(slot, in: groups) }

  /// The first slot from a hash's group on that is not full.
  @inlinable @inline(__always)
  static func freeSlot(
    _ hash: UInt64, in groups: UnsafeMutableRawPointer, mask: Int
  ) -> Int {
    var group = Int(truncatingIfNeeded: hash) & mask
    while true {
      let free = ~control(group, in: groups).pointee & slotBits
      if free != 0 { return group &* 8 &+ free.trailingZeroBitCount &>> 3 }
      group = (group &+ 1) & mask
    }
  }

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
    let (bytes, overflow) = groups.multipliedReportingOverflow(by: Self.groupBytes)
    guard !overflow, groups < 1 << 40 else { throw .invalidArgument("\(groups * 7) slots") }
    let target = try section.allocateAnnounced(
      byteCount: bytes, alignment: max(MemoryLayout<Entry>.alignment, 64))
    section.announce(target, byteCount: bytes)
    for group in 0..<groups {
      Self.control(group, in: target).initialize(to: Self.emptyControl)
    }
    moveEntries(to: target, mask: groups - 1)
    try freeTable(in: &section)
    header.pointee.groups = target
    header.pointee.groupMask = groups - 1
    header.pointee.slotsLeft = Self.slotsMax(groups: groups) - header.pointee.count
    header.pointee.sectionNumber = section.number
    announceHeader(in: &section)
  }

  private func moveEntries(to target: UnsafeMutableRawPointer, mask: Int) {
    for index in indices {
      let entry = entry(index.slot)
      let hash = hash(entry.pointee.key)
      let slot = Self.freeSlot(hash, in: target, mask: mask)
      let shift = UInt64(truncatingIfNeeded: (slot & 7) &* 8)
      Self.control(slot &>> 3, in: target).pointee |= (hash >> 57 | 0x80) &<< shift
      Self.entry(slot, in: target).moveInitialize(from: entry, count: 1)
    }
  }

  func freeTable(in section: inout Section) throws(PoolError) {
    guard let groups = header.pointee.groups else { return }
    if isNew(in: section) {
      section.forget(groups, byteCount: (header.pointee.groupMask + 1) * Self.groupBytes)
    }
    try section.deallocateAnnounced(groups)
    header.pointee.groups = nil
    header.pointee.groupMask = 0
    announceHeader(in: &section)
  }
}
