// PersistentString: UTF-8 in a pool.
//
//   header (32 bytes)   bytes in use, capacity, then the bytes themselves up to 16, or the block
//
// SAFETY: `header` names the block that `init` took; the bytes in use are valid UTF-8, because only
// strings are ever copied there.

/// Text in a pool.
///
/// Reading needs no section; what changes the text takes `inout Section`. It is freed by
/// ``destroy(in:)`` and not by going out of scope.
public struct PersistentString: ~Copyable {
  @usableFromInline
  struct Header: BitwiseCopyable {
    var byteCount = 0
    /// 0 while the bytes are in the header.
    var capacity = 0
    var inside: (UInt64, UInt64) = (0, 0)
  }

  static let insideBytesMax = 16
  static let insideByte = 16
  @usableFromInline let header: UnsafeMutablePointer<Header>

  /// A string with the text of another.
  ///
  /// - Throws: `.poolFull`.
  public init(_ text: String = "", in section: inout Section) throws(PoolError) {
    let empty = PersistentString(try section.allocateHeader(Header()))
    try empty.append(text, in: &section)
    self = empty
  }

  private init(_ header: UnsafeMutablePointer<Header>) { self.header = header }

  // MARK: Reading

  /// Bytes of UTF-8. O(1).
  public var utf8Count: Int { header.pointee.byteCount }

  /// Whether there is no text.
  public var isEmpty: Bool { utf8Count == 0 }

  private var start: UnsafeMutablePointer<UInt8> {
    let header = UnsafeMutableRawPointer(header)
    guard self.header.pointee.capacity > 0 else {
      return (header + Self.insideByte).assumingMemoryBound(to: UInt8.self)
    }
    return (header + Self.insideByte).load(as: UnsafeMutablePointer<UInt8>.self)
  }

  private var bytes: UnsafeBufferPointer<UInt8> {
    UnsafeBufferPointer(start: start, count: utf8Count)
  }

  /// Compares with ordinary text, without a copy of either.
  public static func == (left: borrowing PersistentString, right: String) -> Bool {
    left.utf8Count == right.utf8.count && left.bytes.elementsEqual(right.utf8)
  }

  /// The text, byte for byte, as Swift's own type.
  public var description: String { String(decoding: bytes, as: UTF8.self) }

  // MARK: Changing

  /// Adds text at the end. O(length), amortised.
  ///
  /// - Throws: `.poolFull`.
  public func append(_ text: String, in section: inout Section) throws(PoolError) {
    let (count, added) = (utf8Count, text.utf8.count)
    guard added > 0 else { return }
    try makeRoom(for: count + added, in: &section)
    let target = start + count
    var text = text
    text.withUTF8 { target.update(from: $0.baseAddress!, count: added) }
    section.announce(target, byteCount: added)
    setCount(count + added, in: &section)
  }

  /// Replaces the text.
  ///
  /// - Throws: `.poolFull`.
  public func set(to text: String, in section: inout Section) throws(PoolError) {
    setCount(0, in: &section)
    try append(text, in: &section)
  }

  private func setCount(_ count: Int, in section: inout Section) {
    header.pointee.byteCount = count
    section.announceWord(header, at: 0)
  }

  private func makeRoom(for needed: Int, in section: inout Section) throws(PoolError) {
    let capacity = max(header.pointee.capacity, Self.insideBytesMax)
    guard needed > capacity else { return }
    let block = try section.allocateAnnounced(byteCount: max(needed, capacity * 2))
    block.copyMemory(from: start, byteCount: utf8Count)
    if utf8Count > 0 { section.announce(block, byteCount: utf8Count) }
    try freeBlock(in: &section)
    header.pointee.capacity = try section.usableBytes(block)
    (UnsafeMutableRawPointer(header) + Self.insideByte).storeBytes(
      of: block, as: UnsafeMutableRawPointer.self)
    section.announce(header, byteCount: MemoryLayout<Header>.size)
  }

  private func freeBlock(in section: inout Section) throws(PoolError) {
    if header.pointee.capacity > 0 { try section.deallocateAnnounced(start) }
  }
}

extension PersistentString: Persistable {
  /// Frees the text and the string.
  public func destroy(in section: inout Section) throws(PoolError) {
    try freeBlock(in: &section)
    try section.deallocateAnnounced(header)
  }

  /// A string of its own with the same text. O(length).
  public func copy(in section: inout Section) throws(PoolError) -> PersistentString {
    try PersistentString(description, in: &section)
  }

  /// See ``Persistable/layout``.
  public static var layout: String { "PersistentString" }
}

/// As a key: the table keeps a string of its own.
extension PersistentString: PersistentKey {
  /// Adds the bytes, eight at a time, and their number.
  public func hash(into hasher: inout PersistentHasher) {
    Self.hash(bytes, into: &hasher)
  }

  /// Whether both have the same bytes.
  public static func isSame(
    _ left: borrowing PersistentString, _ right: borrowing PersistentString
  ) -> Bool {
    left.bytes.elementsEqual(right.bytes)
  }

  private static func hash(
    _ bytes: UnsafeBufferPointer<UInt8>, into hasher: inout PersistentHasher
  ) {
    let raw = UnsafeRawBufferPointer(bytes)
    var byte = 0
    while byte + 8 <= raw.count {
      hasher.combine(
        UInt64(littleEndian: raw.loadUnaligned(fromByteOffset: byte, as: UInt64.self)) as UInt64)
      byte += 8
    }
    var rest: UInt64 = 0
    while byte < raw.count {
      rest = rest << 8 | UInt64(raw[byte])
      byte += 1
    }
    hasher.combine(rest as UInt64)
    hasher.combine(UInt64(raw.count) as UInt64)
  }

  static func hash(_ text: String, into hasher: inout PersistentHasher) {
    var text = text
    var copy = hasher
    text.withUTF8 { hash($0, into: &copy) }
    hasher = copy
  }
}

/// As a key of a sorted dictionary: in the order of the bytes, which is that of Unicode's numbers.
extension PersistentString: PersistentOrder {
  /// See ``PersistentOrder/compare(_:_:)``.
  public static func compare(
    _ left: borrowing PersistentString, _ right: borrowing PersistentString
  ) -> Int {
    compare(left.bytes, right.bytes)
  }

  private static func compare(
    _ left: UnsafeBufferPointer<UInt8>, _ right: UnsafeBufferPointer<UInt8>
  ) -> Int {
    for index in 0..<min(left.count, right.count) where left[index] != right[index] {
      return left[index] < right[index] ? -1 : 1
    }
    return left.count - right.count
  }

  fileprivate static func compare(_ left: borrowing PersistentString, _ right: String) -> Int {
    var text = right
    let bytes = left.bytes
    return text.withUTF8 { compare(bytes, $0) }
  }
}

extension PersistentSortedDictionary where Key == PersistentString, Value: ~Copyable {
  /// Whether a key is there. O(log n).
  public func contains(_ key: String) -> Bool {
    place { PersistentString.compare($0, key) } != nil
  }

  /// Calls `body` with a key's value, if it is there. O(log n).
  public func withValue<Result>(
    forKey key: String, _ body: (borrowing Value) throws -> Result
  ) rethrows -> Result? {
    try withValue(at: place { PersistentString.compare($0, key) }, body)
  }

  /// Gives a key a value; the old one is destroyed, or the key is added. O(log n).
  ///
  /// - Throws: `.poolFull`.
  public func insert(
    _ value: consuming Value, forKey key: String, in section: inout Section
  ) throws(PoolError) {
    try insert(value, forKey: try PersistentString(key, in: &section), in: &section)
  }

  /// Takes a key out and destroys it and its value; false where it is not there. O(log n).
  @discardableResult
  public func remove(_ key: String, in section: inout Section) throws(PoolError) -> Bool {
    try remove(in: &section) { PersistentString.compare($0, key) }
  }
}

extension PersistentDictionary where Key == PersistentString, Value: ~Copyable {
  private func slot(of text: String) -> Int {
    var hasher = PersistentHasher(header.pointee.seed)
    PersistentString.hash(text, into: &hasher)
    return slot(hasher.finish()) { $0 == text }
  }

  /// Whether a key is there. O(length), expected.
  public func contains(_ key: String) -> Bool { slot(of: key) >= 0 }

  /// Calls `body` with a key's value, if it is there.
  public func withValue<Result>(
    forKey key: String, _ body: (borrowing Value) throws -> Result
  ) rethrows -> Result? {
    try withValue(inSlot: slot(of: key), body)
  }

  /// Gives a key a value; the old one is destroyed, or the key is added.
  ///
  /// - Throws: `.poolFull`.
  public func insert(
    _ value: consuming Value, forKey key: String, in section: inout Section
  ) throws(PoolError) {
    try insert(value, forKey: try PersistentString(key, in: &section), in: &section)
  }

  /// Changes the value of a key that is there; nil where it is not.
  public func update<Result>(
    forKey key: String, in section: inout Section, _ body: (inout Value) throws -> Result
  ) rethrows -> Result? {
    try update(slot(of: key), in: &section, body)
  }

  /// Takes a key out and destroys it and its value; false where it is not there.
  @discardableResult
  public func remove(_ key: String, in section: inout Section) throws(PoolError) -> Bool {
    try remove(slot(of: key), in: &section)
  }
}

extension PersistentDictionary where Key == PersistentString, Value: BitwiseCopyable {
  /// The value of a key, if it is there. O(length), expected.
  public subscript(key: String) -> Value? { withValue(forKey: key) { copy $0 } }
}
