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
  @usableFromInline let elements: PersistentDictionary<Element, NoValue>

  @usableFromInline
  init(_ elements: consuming PersistentDictionary<Element, NoValue>) { self.elements = elements }

  /// An empty set with room for `capacity` elements.
  ///
  /// - Throws: `.poolFull`.
  public init(minimumCapacity capacity: Int = 0, in section: inout Section) throws(PoolError) {
    self.init(try PersistentDictionary(minimumCapacity: capacity, in: &section))
  }

  /// The number of elements. O(1).
  @inlinable
  public var count: Int { elements.count }

  /// Whether there are none.
  @inlinable
  public var isEmpty: Bool { elements.isEmpty }

  /// Whether an element is there. O(1), expected.
  @inlinable
  public func contains(_ element: borrowing Element) -> Bool { elements.contains(element) }

  /// Calls `body` for each element, in no order.
  @inlinable
  public func forEach(_ body: (borrowing Element) throws -> Void) rethrows {
    try elements.forEach { element, _ in try body(element) }
  }

  /// Adds an element; false where it is there already, and then the new one is destroyed. O(1),
  /// expected.
  ///
  /// - Throws: `.poolFull`.
  @inlinable @discardableResult
  public func insert(
    _ element: consuming Element, in section: inout Section
  ) throws(PoolError) -> Bool {
    let count = elements.count
    try elements.insert(NoValue(), forKey: element, in: &section)
    return elements.count > count
  }

  /// Takes an element out and destroys it; false where it is not there. O(1), expected.
  @inlinable @discardableResult
  public func remove(
    _ element: borrowing Element, in section: inout Section
  ) throws(PoolError) -> Bool {
    try elements.remove(element, in: &section)
  }

  /// Frees all elements.
  public func removeAll(in section: inout Section) throws(PoolError) {
    try elements.removeAll(in: &section)
  }
}

extension PersistentSet: Persistable where Element: ~Copyable {
  /// Frees the elements and the set.
  public func destroy(in section: inout Section) throws(PoolError) {
    try elements.destroy(in: &section)
  }

  /// A set of its own with copies of the elements. O(n).
  public func copy(in section: inout Section) throws(PoolError) -> PersistentSet<Element> {
    PersistentSet(try elements.copy(in: &section))
  }

  /// See ``Persistable/layout``.
  public static var layout: String { "PersistentSet<\(Element.layout)>" }
}

extension Set where Element: PersistentKey & BitwiseCopyable {
  /// A copy of a persistent set's elements.
  public init(_ set: borrowing PersistentSet<Element>) {
    self.init(minimumCapacity: set.count)
    set.forEach { insert($0) }
  }
}
