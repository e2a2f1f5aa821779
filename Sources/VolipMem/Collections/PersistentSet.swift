// PersistentSet: the keys of a dictionary without values.

/// The value of a key in a set: nothing, of no size.
@frozen
public struct NoValue: BitwiseCopyable, Persistable {
  @inlinable
  init() {}
}

/// Different elements in a pool, in no order.
///
/// Reading needs no section; what changes the set takes `inout Section`. It is freed by
/// ``destroy(in:)`` and not by going out of scope.
public struct PersistentSet<Element: PersistentKey & ~Copyable>: ~Copyable {
  @usableFromInline let table: PersistentDictionary<Element, NoValue>

  @usableFromInline
  init(_ elements: consuming PersistentDictionary<Element, NoValue>) { table = elements }

  /// An empty set with room for `capacity` elements.
  ///
  /// - Throws: `.poolFull`.
  public init(minimumCapacity capacity: Int = 0, in section: inout Section) throws(PoolError) {
    self.init(try PersistentDictionary(minimumCapacity: capacity, in: &section))
  }

  /// The number of elements. O(1).
  @inlinable
  public var count: Int { table.count }

  /// Whether there are none.
  @inlinable
  public var isEmpty: Bool { table.isEmpty }

  /// Whether an element is there. O(1), expected.
  @inlinable
  public func contains(_ element: borrowing Element) -> Bool { table.contains(element) }

  /// Calls `body` for each element, in no order.
  @inlinable
  public func forEach(_ body: (borrowing Element) throws -> Void) rethrows {
    try table.forEach { element, _ in try body(element) }
  }

  /// Adds an element; false where it is there already, and then the new one is destroyed. O(1),
  /// expected.
  ///
  /// - Throws: `.poolFull`.
  @inlinable @discardableResult
  public func insert(
    _ element: consuming Element, in section: inout Section
  ) throws(PoolError) -> Bool {
    let count = table.count
    try table.insert(NoValue(), forKey: element, in: &section)
    return table.count > count
  }

  /// Takes an element out and destroys it; false where it is not there. O(1), expected.
  @inlinable @discardableResult
  public func remove(
    _ element: borrowing Element, in section: inout Section
  ) throws(PoolError) -> Bool {
    try table.remove(element, in: &section)
  }

  /// Frees all elements.
  public func removeAll(in section: inout Section) throws(PoolError) {
    try table.removeAll(in: &section)
  }
}

extension PersistentSet: Persistable where Element: ~Copyable {
  /// Frees the elements and the set.
  public func destroy(in section: inout Section) throws(PoolError) {
    try table.destroy(in: &section)
  }

  /// A set of its own with copies of the elements. O(n).
  public func copy(in section: inout Section) throws(PoolError) -> PersistentSet<Element> {
    PersistentSet(try table.copy(in: &section))
  }

  /// See ``Persistable/layout``.
  public static var layout: String { "PersistentSet<\(Element.layout)>" }
}

extension PersistentSet where Element: BitwiseCopyable {
  /// A set with the elements of a sequence.
  ///
  /// - Throws: `.poolFull`.
  public init(
    _ elements: some Sequence<Element>, in section: inout Section
  ) throws(PoolError) {
    let set = try PersistentSet(minimumCapacity: elements.underestimatedCount, in: &section)
    for element in elements { try set.insert(element, in: &section) }
    self = set
  }
}
