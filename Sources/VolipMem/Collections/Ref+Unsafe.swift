// Ref: a value of its own in announced memory, and the name of it.
//
// SAFETY: they name a block that `init` took for one T, and that nobody has
// freed; a section's token shows that the caller may write.

/// A reference to a value in a pool: as long as the value is there, in every process that opens it.
///
/// Copying a reference copies the name and not the value. Nothing is counted: ``free(in:)`` gives
/// the value back, and then no reference to it may be used any more.
@frozen
public struct Ref<Value: Persistable & ~Copyable>: BitwiseCopyable, Equatable {
  @usableFromInline let pointer: UnsafeMutablePointer<Value>

  @usableFromInline
  init(_ pointer: UnsafeMutablePointer<Value>) { self.pointer = pointer }

  /// Puts a value into the pool.
  ///
  /// - Throws: `.poolFull`.
  @inlinable
  public init(_ value: consuming Value, in section: inout Section) throws(PoolError) {
    let address = try section.allocateAnnounced(
      byteCount: max(MemoryLayout<Value>.stride, 1),
      alignment: max(MemoryLayout<Value>.alignment, 16))
    pointer = address.assumingMemoryBound(to: Value.self)
    pointer.initialize(to: value)
    section.announce(pointer, byteCount: max(MemoryLayout<Value>.size, 1))
  }

  /// The value, to read.
  @inlinable
  public var value: Value {
    @inline(__always)
    unsafeAddress { UnsafePointer(pointer) }
  }

  /// Changes the value.
  @inlinable @inline(__always)
  public func update<Result>(
    in section: inout Section, _ body: (inout Value) throws -> Result
  ) rethrows -> Result {
    section.announce(pointer, byteCount: max(MemoryLayout<Value>.size, 1))
    return try body(&pointer.pointee)
  }

  /// Gives the value's memory back, and what the value owns.
  @inlinable
  public func free(in section: inout Section) throws(PoolError) {
    try pointer.pointee.destroy(in: &section)
    try section.deallocateAnnounced(pointer)
  }

  /// Whether both name the same value.
  @inlinable
  public static func == (left: Ref, right: Ref) -> Bool { left.pointer == right.pointer }
}

/// What names a value in a pool instead of holding it.
protocol PersistentReference {
  static var layout: String { get }
}

extension Ref: PersistentReference where Value: ~Copyable {}

/// A reference owns nothing: destroying it, or what it is a part of, leaves the value.
extension Ref: Persistable where Value: ~Copyable {
  /// "Ref" alone: a value may refer to its own kind.
  /// See ``Persistable/layout``.
  public static var layout: String { "Ref" }
}

extension Ref where Value: BitwiseCopyable {
  /// Stores another value.
  @inlinable @inline(__always)
  public func set(to value: Value, in section: inout Section) {
    section.announce(pointer, byteCount: max(MemoryLayout<Value>.size, 1))
    pointer.pointee = value
  }
}
