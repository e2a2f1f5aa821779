// PersistentKey: what a dictionary or a set is keyed by.
//
// Swift's own Hasher has another seed in each process; a table in a pool needs one that stays. So
// the seed is drawn when a table is made and lives in it: who does not know it cannot make keys
// collide on purpose.

/// The seed of one table's hashes.
@frozen
public struct HashSeed: BitwiseCopyable, Sendable {
  @usableFromInline let first: UInt64
  @usableFromInline let second: UInt64

  @inlinable
  init(first: UInt64, second: UInt64) {
    self.first = first
    self.second = second
  }

  static func random() -> HashSeed {
    var generator = SystemRandomNumberGenerator()
    return HashSeed(first: generator.next(), second: generator.next() | 1)
  }
}

/// Hashes words by a seed: each is folded into the state by a 128-bit product.
@frozen
public struct PersistentHasher {
  @usableFromInline var state: UInt64
  @usableFromInline let key: UInt64

  @inlinable @inline(__always)
  init(_ seed: HashSeed) {
    state = seed.first
    key = seed.second
  }

  /// Adds a word.
  @inlinable @inline(__always)
  public mutating func combine(_ word: UInt64) {
    let product = (word ^ state).multipliedFullWidth(by: key ^ 0x9E37_79B9_7F4A_7C15)
    state = product.high ^ product.low &+ key
  }

  /// Adds the words of a key.
  @inlinable @inline(__always)
  public mutating func combine(_ value: some PersistentKey) { value.hash(into: &self) }

  @inlinable @inline(__always)
  func finish() -> UInt64 {
    let product = state.multipliedFullWidth(by: 0xD6E8_FEB8_6659_FD93)
    return product.high ^ product.low
  }
}

/// A key of a persistent dictionary or set: equal keys add equal words to a hasher.
public protocol PersistentKey: Persistable, ~Copyable {
  /// Adds the words that tell one key from another.
  func hash(into hasher: inout PersistentHasher)

  /// Whether two keys are the same.
  static func isSame(_ left: borrowing Self, _ right: borrowing Self) -> Bool
}

extension PersistentKey where Self: Equatable {
  @inlinable @inline(__always)
  public static func isSame(_ left: borrowing Self, _ right: borrowing Self) -> Bool {
    copy left == copy right
  }
}

extension PersistentKey where Self: FixedWidthInteger {
  @inlinable @inline(__always)
  public func hash(into hasher: inout PersistentHasher) {
    hasher.combine(UInt64(truncatingIfNeeded: self))
  }
}

extension PersistentKey where Self: RawRepresentable, RawValue: PersistentKey {
  /// By the raw value, as for enums of numbers.
  @inlinable @inline(__always)
  public func hash(into hasher: inout PersistentHasher) { hasher.combine(rawValue) }
}

extension Int: PersistentKey {}
extension Int8: PersistentKey {}
extension Int16: PersistentKey {}
extension Int32: PersistentKey {}
extension Int64: PersistentKey {}
extension UInt: PersistentKey {}
extension UInt8: PersistentKey {}
extension UInt16: PersistentKey {}
extension UInt32: PersistentKey {}
extension UInt64: PersistentKey {}
extension Bool: PersistentKey {
  /// Adds 0 or 1.
  @inlinable @inline(__always)
  public func hash(into hasher: inout PersistentHasher) { hasher.combine(self ? 1 : 0) as Void }
}

/// A key of a sorted dictionary.
public protocol PersistentOrder: Persistable, ~Copyable {
  /// Below 0 where `left` comes first, above 0 where `right` does, 0 where they are the same key.
  static func compare(_ left: borrowing Self, _ right: borrowing Self) -> Int
}

extension PersistentOrder where Self: Comparable {
  @inlinable @inline(__always)
  public static func compare(_ left: borrowing Self, _ right: borrowing Self) -> Int {
    let (left, right) = (copy left, copy right)
    return left < right ? -1 : left == right ? 0 : 1
  }
}

extension Int: PersistentOrder {}
extension Int8: PersistentOrder {}
extension Int16: PersistentOrder {}
extension Int32: PersistentOrder {}
extension Int64: PersistentOrder {}
extension UInt: PersistentOrder {}
extension UInt8: PersistentOrder {}
extension UInt16: PersistentOrder {}
extension UInt32: PersistentOrder {}
extension UInt64: PersistentOrder {}
extension Float: PersistentOrder {}
extension Double: PersistentOrder {}
extension Duration: PersistentOrder {}
