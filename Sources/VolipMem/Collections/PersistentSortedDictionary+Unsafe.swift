// PersistentSortedDictionary: a B+ tree.
//
//   header (24 bytes)   root node or 0, count, height (1: the root is a leaf)
//   node (1 KiB)        count, zero; keys in ascending order; values of a leaf, children of others
//
// Child i of a node holds the keys from keys[i] on, below keys[i + 1]; those below keys[0] are in
// child 0 too. The keys of nodes above leaves are copies, which the nodes own. An insertion splits
// full nodes on its way down, so that a parent always has room. A removal frees nodes that become
// empty and joins no others: a tree is never higher than it was when it was largest.
//
// SAFETY: `header` names the block that `init` took, nodes are blocks that a tree alone refers to;
// `count` entries of a node are initialized, at most `order`.

/// A collection of values by keys, in a pool, in the order of the keys.
///
/// Reading needs no section; what changes the dictionary takes `inout Section`. It is freed by
/// ``destroy(in:)`` and not by going out of scope.
public struct PersistentSortedDictionary<
  Key: PersistentOrder & ~Copyable, Value: Persistable & ~Copyable
>: ~Copyable {
  struct Header: BitwiseCopyable {
    var root: UnsafeMutableRawPointer?
    var count = 0
    var height = 0
  }

  typealias Node = SortedNode<Key, Value>
  /// How a key is to the one that is looked for: below 0, before it.
  typealias Comparison = (borrowing Key) -> Int

  @usableFromInline let header: UnsafeMutableRawPointer

  init(_ header: UnsafeMutableRawPointer) { self.header = header }

  /// An empty dictionary.
  ///
  /// - Throws: `.poolFull`.
  public init(in section: inout Section) throws(PoolError) {
    header = UnsafeMutableRawPointer(try section.allocateHeader(Header()))
  }

  var head: UnsafeMutablePointer<Header> { header.assumingMemoryBound(to: Header.self) }

  // MARK: Reading

  /// The number of keys. O(1).
  public var count: Int { head.pointee.count }

  /// Whether there are none.
  public var isEmpty: Bool { count == 0 }

  /// Where a key is, if it is there.
  func place(_ compare: Comparison) -> (leaf: Node, index: Int)? {
    guard let root = head.pointee.root else { return nil }
    var node = Node(start: root)
    for _ in 1..<max(head.pointee.height, 1) { node = node.children[node.childIndex(compare)] }
    let index = node.rank(compare, orEqual: false)
    return index < node.count && compare(node.keys[index]) == 0 ? (node, index) : nil
  }

  /// Whether a key is there. O(log n).
  public func contains(_ key: borrowing Key) -> Bool {
    place { Key.compare($0, key) } != nil
  }

  /// Calls `body` with a key's value, if it is there. O(log n).
  public func withValue<Result>(
    forKey key: borrowing Key, _ body: (borrowing Value) throws -> Result
  ) rethrows -> Result? {
    try withValue(at: place { Key.compare($0, key) }, body)
  }

  func withValue<Result>(
    at place: (leaf: Node, index: Int)?, _ body: (borrowing Value) throws -> Result
  ) rethrows -> Result? {
    guard let (leaf, index) = place else { return nil }
    return try body(leaf.values[index])
  }

  /// Calls `body` for each key and its value, in ascending order.
  public func forEach(_ body: (borrowing Key, borrowing Value) throws -> Void) rethrows {
    var cursor = SortedCursor<Key, Value>(self)
    while let (leaf, index) = cursor.next() { try body(leaf.keys[index], leaf.values[index]) }
  }

  /// Calls `body` for each key from `start` on and its value, in ascending order, until `body`
  /// returns false. O(log n) and O(1) for each key.
  public func forEach(
    from start: borrowing Key, while body: (borrowing Key, borrowing Value) throws -> Bool
  ) rethrows {
    var cursor = SortedCursor<Key, Value>(self, from: { Key.compare($0, start) })
    while let (leaf, index) = cursor.next(), try body(leaf.keys[index], leaf.values[index]) {}
  }

  // MARK: Changing

  /// Gives a key a value; the old one is destroyed, or the key is added. O(log n).
  ///
  /// - Throws: `.poolFull`.
  public func insert(
    _ value: consuming Value, forKey key: consuming Key, in section: inout Section
  ) throws(PoolError) {
    let (leaf, index, isThere) = try leafWithRoom({ Key.compare($0, key) }, in: &section)
    guard isThere else { return add(value, key, leaf, index, in: &section) }
    try leaf.values[index].destroy(in: &section)
    leaf.values[index] = value
    announceValue(leaf, index, in: &section)
    try key.destroy(in: &section)
  }

  /// Changes the value of a key that is there; nil where it is not. O(log n).
  public func update<Result>(
    forKey key: borrowing Key, in section: inout Section,
    _ body: (inout Value) throws -> Result
  ) rethrows -> Result? {
    guard let (leaf, index) = place({ Key.compare($0, key) }) else { return nil }
    announceValue(leaf, index, in: &section)
    return try body(&leaf.values[index])
  }

  /// Takes a key out and destroys it and its value; false where it is not there. O(log n).
  @discardableResult
  public func remove(
    _ key: borrowing Key, in section: inout Section
  ) throws(PoolError) -> Bool {
    try remove(in: &section) { Key.compare($0, key) }
  }

  func remove(in section: inout Section, _ compare: Comparison) throws(PoolError) -> Bool {
    let value = try take(compare, in: &section)
    switch consume value {
    case .some(let value):
      try value.destroy(in: &section)
      return true
    case .none: return false
    }
  }

  private func announceValue(_ leaf: Node, _ index: Int, in section: inout Section) {
    guard MemoryLayout<Value>.stride > 0 else { return }
    section.announce(leaf.values + index, byteCount: MemoryLayout<Value>.stride)
  }

  /// The leaf for a key, which has room for it, and its place there.
  func leafWithRoom(
    _ compare: Comparison, in section: inout Section
  ) throws(PoolError) -> (leaf: Node, index: Int, isThere: Bool) {
    var node = try rootWithRoom(in: &section)
    for level in 1..<head.pointee.height {
      var index = node.childIndex(compare)
      if node.children[index].count == Node.order {
        try split(index, of: node, isLeaf: level + 1 == head.pointee.height, in: &section)
        index = node.childIndex(compare)
      }
      node = node.children[index]
    }
    let index = node.rank(compare, orEqual: false)
    return (node, index, index < node.count && compare(node.keys[index]) == 0)
  }

  func add(
    _ value: consuming Value, _ key: consuming Key, _ leaf: Node, _ index: Int,
    in section: inout Section
  ) {
    leaf.makeGap(index, isLeaf: true)
    (leaf.keys + index).initialize(to: key)
    (leaf.values + index).initialize(to: value)
    leaf.announce(from: index, isLeaf: true, in: &section)
    setHeader(root: head.pointee.root, count: 1, height: 0, in: &section)
  }

  /// Takes a key out and destroys it; returns the value that it had.
  func take(_ compare: Comparison, in section: inout Section) throws(PoolError) -> Value? {
    guard let root = head.pointee.root else { return nil }
    var path: [(node: Node, index: Int)] = []
    var node = Node(start: root)
    for _ in 1..<head.pointee.height {
      let index = node.childIndex(compare)
      path.append((node, index))
      node = node.children[index]
    }
    let index = node.rank(compare, orEqual: false)
    guard index < node.count, compare(node.keys[index]) == 0 else { return nil }
    try node.keys[index].destroy(in: &section)
    let value = (node.values + index).move()
    node.closeGap(index, isLeaf: true, in: &section)
    setHeader(root: root, count: -1, height: 0, in: &section)
    while node.count == 0 {
      try section.deallocateAnnounced(node.start)
      guard let (parent, index) = path.popLast() else {
        setHeader(root: nil, count: 0, height: -head.pointee.height, in: &section)
        return value
      }
      try parent.keys[index].destroy(in: &section)
      parent.closeGap(index, isLeaf: false, in: &section)
      node = parent
    }
    try lowerRoot(in: &section)
    return value
  }

  /// A root with one child alone is none.
  private func lowerRoot(in section: inout Section) throws(PoolError) {
    while head.pointee.height > 1, let root = head.pointee.root {
      let node = Node(start: root)
      guard node.count == 1 else { return }
      setHeader(root: node.children[0].start, count: 0, height: -1, in: &section)
      try node.keys[0].destroy(in: &section)
      try section.deallocateAnnounced(root)
    }
  }

  // MARK: Nodes

  private func setHeader(
    root: UnsafeMutableRawPointer?, count: Int, height: Int, in section: inout Section
  ) {
    head.pointee.root = root
    head.pointee.count += count
    head.pointee.height += height
    section.announce(header, byteCount: MemoryLayout<Header>.size)
  }

  private func makeNode(in section: inout Section) throws(PoolError) -> Node {
    let node = Node(start: try section.allocateAnnounced(byteCount: Node.allocatedBytes))
    node.count = 0
    return node
  }

  /// The root, made or split if need be.
  private func rootWithRoom(in section: inout Section) throws(PoolError) -> Node {
    guard let root = head.pointee.root else {
      let leaf = try makeNode(in: &section)
      section.announce(leaf.start, byteCount: 8)
      setHeader(root: leaf.start, count: 0, height: 1, in: &section)
      return leaf
    }
    let node = Node(start: root)
    guard node.count == Node.order else { return node }
    let separator = try node.keys[0].copy(in: &section)
    let above = try makeNode(in: &section)
    above.count = 1
    above.keys.initialize(to: separator)
    above.children.initialize(to: node)
    setHeader(root: above.start, count: 0, height: 1, in: &section)
    above.announce(from: 0, isLeaf: false, in: &section)
    try split(0, of: above, isLeaf: head.pointee.height == 2, in: &section)
    return above
  }

  /// Splits a full child of a node that has room. Nothing has changed where there is no memory.
  private func split(
    _ index: Int, of parent: Node, isLeaf: Bool, in section: inout Section
  ) throws(PoolError) {
    let left = parent.children[index]
    let kept = left.count / 2
    let moved = left.count - kept
    let separator = try left.keys[kept].copy(in: &section)
    let right = try makeNode(in: &section)
    right.keys.moveInitialize(from: left.keys + kept, count: moved)
    if isLeaf {
      right.values.moveInitialize(from: left.values + kept, count: moved)
    } else {
      right.children.update(from: left.children + kept, count: moved)
    }
    right.count = moved
    left.count = kept
    parent.makeGap(index + 1, isLeaf: false)
    (parent.keys + index + 1).initialize(to: separator)
    parent.children[index + 1] = right
    right.announce(from: 0, isLeaf: isLeaf, in: &section)
    section.announce(left.start, byteCount: 8)
    parent.announce(from: index + 1, isLeaf: false, in: &section)
  }

  /// Frees all keys, values and nodes.
  public func removeAll(in section: inout Section) throws(PoolError) {
    if let root = head.pointee.root {
      var nodes = [(node: Node(start: root), level: 1)]
      while let (node, level) = nodes.popLast() {
        for index in 0..<node.count {
          try node.keys[index].destroy(in: &section)
          if level < head.pointee.height {
            nodes.append((node.children[index], level + 1))
          } else {
            try node.values[index].destroy(in: &section)
          }
        }
        try section.deallocateAnnounced(node.start)
      }
    }
    setHeader(root: nil, count: -count, height: -head.pointee.height, in: &section)
  }
}

extension PersistentSortedDictionary: Persistable where Key: ~Copyable, Value: ~Copyable {
  /// Frees all keys, values and nodes, and the dictionary.
  public func destroy(in section: inout Section) throws(PoolError) {
    try removeAll(in: &section)
    try section.deallocateAnnounced(header)
  }

  /// A dictionary of its own with copies of all keys and values. O(n log n).
  public func copy(
    in section: inout Section
  ) throws(PoolError) -> PersistentSortedDictionary<Key, Value> {
    let result = try PersistentSortedDictionary(in: &section)
    var cursor = SortedCursor<Key, Value>(self)
    while let (leaf, index) = cursor.next() {
      let key = try leaf.keys[index].copy(in: &section)
      try result.insert(try leaf.values[index].copy(in: &section), forKey: key, in: &section)
    }
    return result
  }

  /// See ``Persistable/layout``.
  public static var layout: String {
    "PersistentSortedDictionary<\(Key.layout),\(Value.layout)>"
  }
}

extension PersistentSortedDictionary where Key: BitwiseCopyable, Value: BitwiseCopyable {
  /// A dictionary with the keys and values of a sequence; of equal keys the last one counts.
  ///
  /// - Throws: `.poolFull`.
  public init(
    _ elements: some Sequence<(key: Key, value: Value)>, in section: inout Section
  ) throws(PoolError) {
    let result = try PersistentSortedDictionary(in: &section)
    for (key, value) in elements { try result.updateValue(value, forKey: key, in: &section) }
    self = result
  }

  /// The value of a key, if it is there. O(log n).
  public subscript(key: Key) -> Value? { withValue(forKey: key) { copy $0 } }

  /// The smallest key and its value, if there is one. O(log n).
  public var first: (key: Key, value: Value)? { elements.first { _ in true } }

  /// The largest key and its value, if there is one. O(log n).
  public var last: (key: Key, value: Value)? {
    guard let root = head.pointee.root else { return nil }
    var node = Node(start: root)
    for _ in 1..<max(head.pointee.height, 1) { node = node.children[node.count - 1] }
    return (node.keys[node.count - 1], node.values[node.count - 1])
  }

  /// Gives a key a value; returns the one that it had. O(log n).
  ///
  /// - Throws: `.poolFull`.
  @discardableResult
  public func updateValue(
    _ value: Value, forKey key: Key, in section: inout Section
  ) throws(PoolError) -> Value? {
    let (leaf, index, isThere) = try leafWithRoom({ Key.compare($0, key) }, in: &section)
    guard isThere else {
      add(value, key, leaf, index, in: &section)
      return nil
    }
    let old = leaf.values[index]
    leaf.values[index] = value
    announceValue(leaf, index, in: &section)
    return old
  }

  /// Takes a key out; returns the value that it had. O(log n).
  @discardableResult
  public func removeValue(
    forKey key: Key, in section: inout Section
  ) throws(PoolError) -> Value? {
    try take({ Key.compare($0, key) }, in: &section)
  }
}
