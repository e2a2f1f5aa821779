// Exchange with the ordinary types: copies of both kinds, Codable, and text for people.
//
//   Int, Account, ...                  itself
//   PersistentString                   String
//   PersistentArray, PersistentDeque   [Element]
//   PersistentSet                      Set<Element>
//   PersistentDictionary, ...Sorted... [Key: Value]
//   T?                                 T?
//
// and so to any depth. A value that cannot be copied cannot conform to Encodable, Decodable or
// CustomStringConvertible; it has what they ask for all the same, under the same names.

/// A persistent value with a counterpart outside of pools, to which it can be copied and back.
///
/// For a bitwise value `extension Account: Exchangeable {}` is all: it is its own counterpart.
public protocol Exchangeable: Persistable, ~Copyable {
  /// The counterpart: a type that any code can keep, copy and encode.
  associatedtype Exported

  /// A copy outside of the pool. O(size).
  var exported: Exported { get }

  /// A value in the pool with equal content.
  ///
  /// - Throws: `.poolFull`.
  init(importing value: Exported, in section: inout Section) throws(PoolError)
}

extension Exchangeable where Self: BitwiseCopyable {
  @inlinable
  public var exported: Self { self }

  @inlinable
  public init(importing value: Self, in section: inout Section) { self = value }
}

extension Exchangeable where Self: ~Copyable, Exported: Encodable {
  /// Encodes the value as its counterpart is encoded.
  public func encode(to encoder: any Encoder) throws { try exported.encode(to: encoder) }
}

extension Exchangeable where Self: ~Copyable, Exported: Decodable {
  /// A value from its counterpart's encoding.
  public init(from decoder: any Decoder, in section: inout Section) throws {
    try self.init(importing: Exported(from: decoder), in: &section)
  }
}

/// A collection as text: its counterpart's. `"\(collection)"` is the same.
public protocol Describable: ~Copyable {
  var description: String { get }
}

extension Describable where Self: Exchangeable & ~Copyable {
  /// The counterpart's description.
  public var description: String { "\(exported)" }
}

extension String.StringInterpolation {
  /// Adds a collection's description.
  public mutating func appendInterpolation<T: Describable & ~Copyable>(_ value: borrowing T) {
    appendLiteral(value.description)
  }
}

/// A reference encodes and describes what it names: the way from a root to JSON, for instance.
extension Ref: Encodable where Value: Exchangeable & ~Copyable, Value.Exported: Encodable {
  /// Encodes what is named.
  public func encode(to encoder: any Encoder) throws { try value.encode(to: encoder) }
}

extension Ref: CustomStringConvertible where Value: Describable & ~Copyable {
  /// The counterpart's description.
  public var description: String { value.description }
}

extension Int: Exchangeable {}
extension Int8: Exchangeable {}
extension Int16: Exchangeable {}
extension Int32: Exchangeable {}
extension Int64: Exchangeable {}
extension UInt: Exchangeable {}
extension UInt8: Exchangeable {}
extension UInt16: Exchangeable {}
extension UInt32: Exchangeable {}
extension UInt64: Exchangeable {}
extension Float: Exchangeable {}
extension Double: Exchangeable {}
extension Bool: Exchangeable {}
extension Duration: Exchangeable {}

extension Optional: Exchangeable where Wrapped: Exchangeable & ~Copyable {
  /// See ``Exchangeable/exported``.
  public var exported: Wrapped.Exported? {
    switch self {
    case .some(let value): value.exported
    case .none: nil
    }
  }

  /// See ``Exchangeable/init(importing:in:)``.
  public init(importing value: Wrapped.Exported?, in section: inout Section) throws(PoolError) {
    self = if let value { try Wrapped(importing: value, in: &section) } else { nil }
  }
}

// MARK: Each collection

extension PersistentString: Exchangeable, Describable {
  /// See ``Exchangeable/exported``.
  public var exported: String { description }

  /// See ``Exchangeable/init(importing:in:)``.
  public init(importing text: String, in section: inout Section) throws(PoolError) {
    try self.init(text, in: &section)
  }
}

extension PersistentArray: Exchangeable where Element: Exchangeable & ~Copyable {
  /// See ``Exchangeable/exported``.
  public var exported: [Element.Exported] { indices.map { self[$0].exported } }

  /// See ``Exchangeable/init(importing:in:)``.
  public init(
    importing elements: [Element.Exported], in section: inout Section
  ) throws(PoolError) {
    let array = try PersistentArray(minimumCapacity: elements.count, in: &section)
    for element in elements {
      try array.append(Element(importing: element, in: &section), in: &section)
    }
    self = array
  }
}

extension PersistentArray: Describable where Element: Exchangeable & ~Copyable {}

extension PersistentDeque: Exchangeable where Element: Exchangeable & ~Copyable {
  /// See ``Exchangeable/exported``.
  public var exported: [Element.Exported] { indices.map { self[$0].exported } }

  /// See ``Exchangeable/init(importing:in:)``.
  public init(
    importing elements: [Element.Exported], in section: inout Section
  ) throws(PoolError) {
    let deque = try PersistentDeque(in: &section)
    for element in elements {
      try deque.append(Element(importing: element, in: &section), in: &section)
    }
    self = deque
  }
}

extension PersistentDeque: Describable where Element: Exchangeable & ~Copyable {}

extension PersistentSet: Exchangeable
where Element: Exchangeable & ~Copyable, Element.Exported: Hashable {
  /// See ``Exchangeable/exported``.
  public var exported: Set<Element.Exported> {
    var result = Set<Element.Exported>(minimumCapacity: count)
    forEach { result.insert($0.exported) }
    return result
  }

  /// See ``Exchangeable/init(importing:in:)``.
  public init(
    importing elements: Set<Element.Exported>, in section: inout Section
  ) throws(PoolError) {
    let set = try PersistentSet(minimumCapacity: elements.count, in: &section)
    for element in elements {
      try set.insert(Element(importing: element, in: &section), in: &section)
    }
    self = set
  }
}

extension PersistentSet: Describable
where Element: Exchangeable & ~Copyable, Element.Exported: Hashable {}

extension PersistentDictionary: Exchangeable
where
  Key: Exchangeable & ~Copyable, Key.Exported: Hashable, Value: Exchangeable & ~Copyable
{
  /// See ``Exchangeable/exported``.
  public var exported: [Key.Exported: Value.Exported] {
    var result = [Key.Exported: Value.Exported](minimumCapacity: count)
    forEach { result[$0.exported] = $1.exported }
    return result
  }

  /// See ``Exchangeable/init(importing:in:)``.
  public init(
    importing elements: [Key.Exported: Value.Exported], in section: inout Section
  ) throws(PoolError) {
    let dictionary = try PersistentDictionary(minimumCapacity: elements.count, in: &section)
    for (key, value) in elements {
      let key = try Key(importing: key, in: &section)
      try dictionary.insert(Value(importing: value, in: &section), forKey: key, in: &section)
    }
    self = dictionary
  }
}

extension PersistentDictionary: Describable
where Key: Exchangeable & ~Copyable, Key.Exported: Hashable, Value: Exchangeable & ~Copyable {}

extension PersistentSortedDictionary: Exchangeable
where
  Key: Exchangeable & ~Copyable, Key.Exported: Hashable, Value: Exchangeable & ~Copyable
{
  /// See ``Exchangeable/exported``.
  public var exported: [Key.Exported: Value.Exported] {
    var result = [Key.Exported: Value.Exported](minimumCapacity: count)
    forEach { result[$0.exported] = $1.exported }
    return result
  }

  /// See ``Exchangeable/init(importing:in:)``.
  public init(
    importing elements: [Key.Exported: Value.Exported], in section: inout Section
  ) throws(PoolError) {
    let dictionary = try PersistentSortedDictionary(in: &section)
    for (key, value) in elements {
      let key = try Key(importing: key, in: &section)
      try dictionary.insert(Value(importing: value, in: &section), forKey: key, in: &section)
    }
    self = dictionary
  }
}

extension PersistentSortedDictionary: Describable
where Key: Exchangeable & ~Copyable, Key.Exported: Hashable, Value: Exchangeable & ~Copyable {
  /// As a dictionary's, in the order of the keys.
  public var description: String {
    var entries: [String] = []
    forEach {
      entries.append("\(String(reflecting: $0.exported)): \(String(reflecting: $1.exported))")
    }
    return entries.isEmpty ? "[:]" : "[" + entries.joined(separator: ", ") + "]"
  }
}

// MARK: Copies of bitwise elements, under the names that the ordinary types give

extension String {
  /// A copy of persistent text.
  public init(_ text: borrowing PersistentString) { self = text.description }
}

extension Array where Element: Persistable & BitwiseCopyable {
  /// A copy of a persistent array's elements.
  public init(_ array: borrowing PersistentArray<Element>) { self.init(array.elements) }

  /// A copy of a persistent deque's elements.
  public init(_ deque: borrowing PersistentDeque<Element>) { self.init(deque.elements) }
}

extension Set where Element: PersistentKey & BitwiseCopyable {
  /// A copy of a persistent set's elements.
  public init(_ set: borrowing PersistentSet<Element>) { self.init(set.elements) }
}

extension Dictionary
where Key: PersistentKey & BitwiseCopyable, Value: Persistable & BitwiseCopyable {
  /// A copy of a persistent dictionary's keys and values.
  public init(_ dictionary: borrowing PersistentDictionary<Key, Value>) {
    self.init(minimumCapacity: dictionary.count)
    for (key, value) in dictionary.elements { self[key] = value }
  }
}
