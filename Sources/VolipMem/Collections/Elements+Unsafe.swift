// Elements: what a collection has, as sequences of Swift's own kind, for loops and algorithms.
//
// A collection that cannot be copied is no Sequence. So there are views of it: names for its
// memory, as a Ref is one, which can be copied. They read the collection as it is at each step.
//
//   array, deque   elements (random access, bitwise elements), indices
//   dictionary     elements, keys, values (bitwise ones), indices
//   set            elements (bitwise ones)
//
// Values that cannot be copied are read where they are: `for i in list.indices { list[i] }`,
// `for i in map.indices { map[valueAt: i] }`.
//
// SAFETY: a view is used while its collection is there; indexes are checked at each access.

extension PersistentArray where Element: BitwiseCopyable {
  /// The elements of an array as a collection of the standard library's kind.
  public struct Elements: RandomAccessCollection {
    let header: UnsafeMutablePointer<Header>

    /// 0.
    public var startIndex: Int { 0 }
    /// The number of elements.
    public var endIndex: Int { header.pointee.count }
    /// The element at an index.
    public subscript(index: Int) -> Element { PersistentArray(header)[index] }
  }

  /// The elements, for loops and algorithms; for the fastest loop take ``span``.
  public var elements: Elements { Elements(header: header) }
}

extension PersistentDeque where Element: BitwiseCopyable {
  /// The elements of a deque as a collection of the standard library's kind.
  public struct Elements: RandomAccessCollection {
    let header: UnsafeMutablePointer<Header>

    /// 0.
    public var startIndex: Int { 0 }
    /// The number of elements.
    public var endIndex: Int { header.pointee.count }
    /// The element at an index.
    public subscript(index: Int) -> Element { PersistentDeque(header)[index] }
  }

  /// The elements, for loops and algorithms.
  public var elements: Elements { Elements(header: header) }
}

extension PersistentDictionary where Key: ~Copyable, Value: ~Copyable {
  /// Where a dictionary has a key and its value, until it is changed.
  @frozen
  public struct Index: BitwiseCopyable, Equatable, Sendable {
    @usableFromInline let slot: Int

    @inlinable
    init(_ slot: Int) { self.slot = slot }
  }

  /// The places of all keys, in no order.
  public struct Indices: Sequence, IteratorProtocol {
    @usableFromInline let header: UnsafeMutablePointer<Header>
    @usableFromInline var slot = 0

    @inlinable
    init(_ header: UnsafeMutablePointer<Header>) { self.header = header }

    @inlinable
    public mutating func next() -> Index? {
      guard let groups = header.pointee.groups else { return nil }
      let end = (header.pointee.groupMask &+ 1) &* 8
      while slot < end {
        let shift = UInt64(truncatingIfNeeded: slot & 7) &* 8
        let control = PersistentDictionary.control(slot &>> 3, in: groups).pointee
        let full = (control & PersistentDictionary.slotBits) &>> shift
        if full != 0 {
          let found = slot &+ full.trailingZeroBitCount &>> 3
          slot = found &+ 1
          return Index(found)
        }
        slot = (slot | 7) &+ 1
      }
      return nil
    }
  }

  /// The places of all keys, in no order.
  @inlinable
  public var indices: Indices { Indices(header) }

  /// Where a key is, if it is there. O(1), expected.
  @inlinable
  public func index(forKey key: borrowing Key) -> Index? {
    let slot = slot(of: key)
    return slot >= 0 ? Index(slot) : nil
  }

  @inlinable @inline(__always)
  func entry(at index: Index) -> UnsafeMutablePointer<Entry> {
    let (slot, mask) = (index.slot, header.pointee.groupMask)
    guard let groups = header.pointee.groups, slot &>> 3 <= mask,
      Self.control(slot &>> 3, in: groups).pointee
        &>> UInt64(truncatingIfNeeded: (slot & 7) &* 8) & 0x80 != 0
    else { preconditionFailure("an index of no key") }
    return Self.entry(slot, in: groups)
  }

  /// The key at a place, to read. O(1).
  @inlinable
  public subscript(keyAt index: Index) -> Key {
    unsafeAddress {
      UnsafePointer(UnsafeRawPointer(entry(at: index)).assumingMemoryBound(to: Key.self))
    }
  }

  /// The value at a place, to read. O(1).
  @inlinable
  public subscript(valueAt index: Index) -> Value {
    unsafeAddress {
      UnsafePointer(
        (UnsafeRawPointer(entry(at: index)) + Self.valueOffset).assumingMemoryBound(to: Value.self))
    }
  }
}

extension PersistentDictionary where Key: BitwiseCopyable, Value: BitwiseCopyable {
  /// The keys and values of a dictionary as a sequence of the standard library's kind.
  public struct Elements: Sequence, IteratorProtocol {
    @usableFromInline var indices: Indices

    @inlinable
    init(_ indices: Indices) { self.indices = indices }

    @inlinable
    public mutating func next() -> (key: Key, value: Value)? {
      guard let index = indices.next() else { return nil }
      let dictionary = PersistentDictionary(indices.header)
      return (dictionary[keyAt: index], dictionary[valueAt: index])
    }

    @inlinable
    public var underestimatedCount: Int { indices.header.pointee.count }
  }

  /// Keys and values, in no order, for loops and algorithms.
  @inlinable
  public var elements: Elements { Elements(indices) }

  /// The keys, in no order.
  @inlinable
  public var keys: LazyMapSequence<Elements, Key> { elements.lazy.map { $0.key } }

  /// The values, in the order of ``keys``.
  @inlinable
  public var values: LazyMapSequence<Elements, Value> { elements.lazy.map { $0.value } }
}

extension PersistentSet where Element: BitwiseCopyable {
  /// The elements, in no order, for loops and algorithms.
  public var elements: LazyMapSequence<PersistentDictionary<Element, NoValue>.Elements, Element> {
    table.keys
  }
}
