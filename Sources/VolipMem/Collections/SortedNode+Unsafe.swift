// SortedNode: one node of a B+ tree, and the way from key to key.
//
// SAFETY: see PersistentSortedDictionary.

/// A node by its address.
struct SortedNode<Key: PersistentOrder & ~Copyable, Value: Persistable & ~Copyable> {
  let start: UnsafeMutableRawPointer

  static var nodeBytes: Int { 1024 }
  static var headBytes: Int { 16 }

  /// Entries of a node: what fits, and four at least.
  static var order: Int {
    let entry = MemoryLayout<Key>.stride + max(MemoryLayout<Value>.stride, 8)
    return max((nodeBytes - headBytes - 16) / entry, 4)
  }

  /// Where values or children begin: behind the keys, aligned to 16.
  static var slotsByte: Int { (headBytes + order * MemoryLayout<Key>.stride + 15) & ~15 }

  static var allocatedBytes: Int {
    slotsByte + order * max(MemoryLayout<Value>.stride, 8)
  }

  var count: Int {
    get { start.load(as: Int.self) }
    nonmutating set { start.storeBytes(of: newValue, as: Int.self) }
  }
  var keys: UnsafeMutablePointer<Key> {
    (start + Self.headBytes).assumingMemoryBound(to: Key.self)
  }
  var values: UnsafeMutablePointer<Value> {
    (start + Self.slotsByte).assumingMemoryBound(to: Value.self)
  }
  var children: UnsafeMutablePointer<SortedNode> {
    (start + Self.slotsByte).assumingMemoryBound(to: SortedNode.self)
  }

  /// How many keys are before the one that is looked for, or, with `orEqual`, not behind it.
  func rank(_ compare: (borrowing Key) -> Int, orEqual: Bool) -> Int {
    var (low, high) = (0, count)
    while low < high {
      let middle = (low + high) / 2
      let order = compare(keys[middle])
      if order < 0 || orEqual && order == 0 { low = middle + 1 } else { high = middle }
    }
    return low
  }

  /// The child in which a key is, if it is there.
  func childIndex(_ compare: (borrowing Key) -> Int) -> Int {
    max(rank(compare, orEqual: true) - 1, 0)
  }

  func makeGap(_ index: Int, isLeaf: Bool) {
    let left = count - index
    (keys + index + 1).moveInitialize(from: keys + index, count: left)
    if isLeaf {
      (values + index + 1).moveInitialize(from: values + index, count: left)
    } else {
      (children + index + 1).moveInitialize(from: children + index, count: left)
    }
    count += 1
  }

  /// Closes the gap that an entry left.
  func closeGap(_ index: Int, isLeaf: Bool, in section: inout Section) {
    let left = count - index - 1
    (keys + index).moveInitialize(from: keys + index + 1, count: left)
    if isLeaf {
      (values + index).moveInitialize(from: values + index + 1, count: left)
    } else {
      (children + index).moveInitialize(from: children + index + 1, count: left)
    }
    count -= 1
    announce(from: index, isLeaf: isLeaf, in: &section)
  }

  /// Announces the count and the entries from `index` on.
  func announce(from index: Int, isLeaf: Bool, in section: inout Section) {
    section.announce(start, byteCount: 8)
    let left = count - index
    guard left > 0 else { return }
    let slot = isLeaf ? MemoryLayout<Value>.stride : 8
    section.announce(keys + index, byteCount: left * MemoryLayout<Key>.stride)
    if slot > 0 {
      section.announce(start + Self.slotsByte + index * slot, byteCount: left * slot)
    }
  }
}

/// Goes from key to key in ascending order: a node and the entry to visit next, on each level.
struct SortedCursor<Key: PersistentOrder & ~Copyable, Value: Persistable & ~Copyable> {
  private let height: Int
  private var path: [(node: SortedNode<Key, Value>, index: Int)] = []

  /// Begins with the first key.
  init(_ dictionary: borrowing PersistentSortedDictionary<Key, Value>) {
    self.init(dictionary) { _ in 1 }
  }

  /// - Parameter start: how a key is to the first one to visit.
  init(
    _ dictionary: borrowing PersistentSortedDictionary<Key, Value>,
    from start: (borrowing Key) -> Int
  ) {
    height = dictionary.head.pointee.height
    guard let root = dictionary.head.pointee.root else { return }
    descend(SortedNode(start: root), start)
  }

  private mutating func descend(
    _ node: SortedNode<Key, Value>, _ start: (borrowing Key) -> Int
  ) {
    var node = node
    while path.count + 1 < height {
      let index = node.childIndex(start)
      path.append((node, index))
      node = node.children[index]
    }
    path.append((node, node.rank(start, orEqual: false)))
  }

  mutating func next() -> (leaf: SortedNode<Key, Value>, index: Int)? {
    while let (node, index) = path.last {
      guard index < node.count else {
        path.removeLast()
        if !path.isEmpty { path[path.count - 1].index += 1 }
        continue
      }
      if path.count == height {
        path[path.count - 1].index += 1
        return (node, index)
      }
      // Behind the first leaf every key is at or behind the start.
      descend(node.children[index]) { _ in 1 }
    }
    return nil
  }
}

extension PersistentSortedDictionary where Key: BitwiseCopyable, Value: BitwiseCopyable {
  /// The keys and values of a dictionary in order, as a sequence of the standard library's kind.
  public struct Elements: Sequence {
    let header: UnsafeMutableRawPointer
    var start: Key?
    var end: Key?

    /// Goes from key to key.
    public struct Iterator: IteratorProtocol {
      var cursor: SortedCursor<Key, Value>
      let end: Key?

      /// The next key and its value.
      public mutating func next() -> (key: Key, value: Value)? {
        guard let (leaf, index) = cursor.next() else { return nil }
        let key = leaf.keys[index]
        if let end, Key.compare(key, end) >= 0 { return nil }
        return (key, leaf.values[index])
      }
    }

    /// Begins with the first key.
    public func makeIterator() -> Iterator {
      let dictionary = PersistentSortedDictionary(header)
      guard let start else {
        return Iterator(cursor: SortedCursor(dictionary), end: end)
      }
      return Iterator(
        cursor: SortedCursor(dictionary, from: { Key.compare($0, start) }), end: end)
    }
  }

  /// Keys and values in ascending order, for loops and algorithms.
  public var elements: Elements { Elements(header: header) }

  /// Those from a key on.
  public func elements(from start: Key) -> Elements { Elements(header: header, start: start) }

  /// Those in a range.
  public func elements(in range: Range<Key>) -> Elements where Key: Comparable {
    Elements(header: header, start: range.lowerBound, end: range.upperBound)
  }

  /// The keys in ascending order.
  public var keys: LazyMapSequence<Elements, Key> { elements.lazy.map { $0.key } }

  /// The values in the order of their keys.
  public var values: LazyMapSequence<Elements, Value> { elements.lazy.map { $0.value } }
}
