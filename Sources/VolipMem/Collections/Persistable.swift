// Persistable: what may be an element of a persistent collection.
//
//   bitwise values        numbers, Bool, structs and enums of them: `extension T: Persistable {}`
//   persistent values     collections, strings, references, and non-copyable structs of them
//
// Classes, closures, tasks, pointers and the standard library's own collections are neither, and so
// compile errors. A bitwise struct with a pointer inside can be told only at run time
// (LayoutFingerprint.swift).
//
// Persistent values are never freed by going out of scope: a variable of such a type names memory
// of the pool. What holds them frees them (`destroy`).

/// A value that can be an element of a persistent collection.
///
/// For a struct or an enum of bitwise values `extension Account: Persistable {}` is all. A
/// non-copyable struct of persistent values implements ``destroy(in:)`` and ``copy(in:)`` by its
/// fields, and names them in ``layout``.
public protocol Persistable: ~Copyable {
  /// Frees the memory of the pool that the value refers to and owns. Nothing may use it any more.
  func destroy(in section: inout Section) throws(PoolError)

  /// A value of its own with equal content.
  func copy(in section: inout Section) throws(PoolError) -> Self

  /// Describes how the value is laid out: a pool's data is only read with the layout that it was
  /// written with.
  static var layout: String { get }
}

extension Persistable where Self: BitwiseCopyable {
  @inlinable @inline(__always)
  public func destroy(in section: inout Section) {}

  @inlinable @inline(__always)
  public func copy(in section: inout Section) -> Self { self }

  /// See ``Persistable/layout``.
  public static var layout: String { layoutDescription(Self.self) }
}

extension Int: Persistable {}
extension Int8: Persistable {}
extension Int16: Persistable {}
extension Int32: Persistable {}
extension Int64: Persistable {}
extension UInt: Persistable {}
extension UInt8: Persistable {}
extension UInt16: Persistable {}
extension UInt32: Persistable {}
extension UInt64: Persistable {}
extension Float: Persistable {}
extension Double: Persistable {}
extension Bool: Persistable {}
extension Duration: Persistable {}

/// An optional value owns what the value owns.
extension Optional: Persistable where Wrapped: Persistable & ~Copyable {
  @inlinable @inline(__always)
  public func destroy(in section: inout Section) throws(PoolError) {
    switch self {
    case .some(let value): try value.destroy(in: &section)
    case .none: break
    }
  }

  @inlinable @inline(__always)
  public func copy(in section: inout Section) throws(PoolError) -> Wrapped? {
    switch self {
    case .some(let value): try value.copy(in: &section)
    case .none: nil
    }
  }

  /// See ``Persistable/layout``.
  public static var layout: String { "Optional<\(Wrapped.layout)>" }
}
