// PersistentSortedDictionary: a B+ tree.
//
//   header (24 bytes)   root node or 0, count, height (1: the root is a leaf)
//   node (1 KiB)        count, zero; keys in ascending order; values of a leaf, children of others
//
// Child i of a node holds the keys from keys[i] on, below keys[i + 1]; those below keys[0] are in
// child 0 too. An insertion splits full nodes on its way down, so that a parent always has room. A
// removal frees nodes that become empty and joins no others: a tree is never higher than it was
// when it was largest.
//
// SAFETY: `header` names the block that `init` took, nodes are blocks of `nodeBytes` that a tree
// alone refers to; `count` entries of a node are initialized, at most `order`.

/// A collection of values by keys, in a pool, in the order of the keys.
///
/// Reading needs no section; what changes the dictionary takes `inout Section`. It is freed by
/// ``destroy(in:)`` and not by going out of scope.
public struct PersistentSortedDictionary<
  Key: Comparable & BitwiseCopyable & Persistable, Value: BitwiseCopyable & Persistable
>: ~Copyable {
  struct Header: BitwiseCopyable {
    var root: UnsafeMutableRawPointer?
    var count = 0
    var height = 0
  }

  @usableFromInline let header: UnsafeMutableRawPointer
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

  /// A node by address.
  struct Node {
    let start: UnsafeMutableRawPointer

    var count: Int {
      get { start.load(as: Int.self) }
      nonmutating set { start.storeBytes(of: newValue, as: Int.self) }
    }
    var keys: UnsafeMutablePointer<Key> {
      (start + headBytes).assumingMemoryBound(to: Key.self)
    }
    var values: UnsafeMutablePointer<Value> {
      (start + slotsByte).assumingMemoryBound(to: Value.self)
    }
    var children: UnsafeMutablePointer<Node> {
      (start + slotsByte).assumingMemoryBound(to: Node.self)
    }

    /// How many keys are below `key`, or, with `orEqual`, not above it.
    func rank(_ key: Key, orEqual: Bool) -> Int {
      var (low, high) = (0, count)
      while low < high {
        let middle = (low + high) / 2
        if orEqual ? !(key < keys[middle]) : keys[middle] < key {
          low = middle + 1
        } else {
          high = middle
        }
      }
      return low
    }

    /// The child in which a key is, if it is there.
    func childIndex(_ key: Key) -> Int { max(rank(key, orEqual: true) - 1, 0) }
  }

  /// An empty dictionary.
  ///
  /// - Throws: `.poolFull`.
  public init(in section: inout Section) throws(PoolError) {
    header = UnsafeMutableRawPointer(try section.allocateHeader(Header()))
  }

  private var head: UnsafeMutablePointer<Header> { header.assumingMemoryBound(to: Header.self) }

  // MARK: Reading

  /// The number of keys. O(1).
  public var count: Int { head.pointee.count }

  /// Whether there are none.
  public var isEmpty: Bool { count == 0 }

  private func leaf(of key: Key) -> Node? {
    guard let root = head.pointee.root else { return nil }
    var node = Node(start: root)
    for _ in 1..<max(head.pointee.height, 1) { node = node.children[node.childIndex(key)] }
    return node
  }

  /// The value of a key, if it is there. O(log n).
  public subscript(key: Key) -> Value? {
    guard let leaf = leaf(of: key) else { return nil }
    let index = leaf.rank(key, orEqual: false)
    return index < leaf.count && leaf.keys[index] == key ? leaf.values[index] : nil
  }

  /// Calls `body` for each key from `start` on (or from the first) and its value, in ascending
  /// order, until `body` returns false. O(log n) and O(1) for each key.
  public func forEach(
    from start: Key? = nil, while body: (Key, Value) throws -> Bool
  ) rethrows {
    guard let root = head.pointee.root else { return }
    // The way down: a node and the entry to visit next in it.
    var path: [(node: Node, index: Int)] = []
    func descend(_ node: Node) {
      var node = node
      while true {
        let isLeaf = path.count + 1 == head.pointee.height
        let index =
          start.map { isLeaf ? node.rank($0, orEqual: false) : node.childIndex($0) } ?? 0
        path.append((node, index))
        if isLeaf { return }
        node = node.children[index]
      }
    }
    descend(Node(start: root))
    while let (node, index) = path.last {
      guard index < node.count else {
        path.removeLast()
        if !path.isEmpty { path[path.count - 1].index += 1 }
        continue
      }
      if path.count == head.pointee.height {
        guard try body(node.keys[index], node.values[index]) else { return }
        path[path.count - 1].index += 1
      } else {
        // Behind the first leaf every key is at or above `start`: its ranks there are 0.
        descend(node.children[index])
      }
    }
  }

  /// Calls `body` for each key in a range and its value, in ascending order.
  public func forEach(in range: Range<Key>, _ body: (Key, Value) throws -> Void) rethrows {
    try forEach(from: range.lowerBound) { key, value in
      guard key < range.upperBound else { return false }
      try body(key, value)
      return true
    }
  }

  /// The smallest key and its value, if there is one. O(log n).
  public var first: (key: Key, value: Value)? {
    var result: (Key, Value)?
    forEach { key, value in
      result = (key, value)
      return false
    }
    return result
  }

  /// The largest key and its value, if there is one. O(log n).
  public var last: (key: Key, value: Value)? {
    guard let root = head.pointee.root else { return nil }
    var node = Node(start: root)
    for _ in 1..<max(head.pointee.height, 1) { node = node.children[node.count - 1] }
    return (node.keys[node.count - 1], node.values[node.count - 1])
  }

  // MARK: Changing

  /// Gives a key a value; returns the one that it had. O(log n).
  ///
  /// - Throws: `.poolFull`.
  @discardableResult
  public func updateValue(
    _ value: Value, forKey key: Key, in section: inout Section
  ) throws(PoolError) -> Value? {
    var node = try rootWithRoom(in: &section)
    for level in 1..<head.pointee.height {
      var index = node.childIndex(key)
      if node.children[index].count == Self.order {
        try split(index, of: node, isLeaf: level + 1 == head.pointee.height, in: &section)
        index = node.childIndex(key)
      }
      node = node.children[index]
    }
    let index = node.rank(key, orEqual: false)
    if index < node.count, node.keys[index] == key {
      let old = node.values[index]
      node.values[index] = value
      section.announce(node.values + index, byteCount: MemoryLayout<Value>.stride)
      return old
    }
    makeGap(node, index, isLeaf: true)
    node.keys[index] = key
    node.values[index] = value
    announce(node, from: index, isLeaf: true, in: &section)
    setHeader(root: head.pointee.root, count: 1, height: 0, in: &section)
    return nil
  }

  /// Takes a key out; returns the value that it had. O(log n).
  @discardableResult
  public func removeValue(
    forKey key: Key, in section: inout Section
  ) throws(PoolError) -> Value? {
    guard let root = head.pointee.root else { return nil }
    var path: [(node: Node, index: Int)] = []
    var node = Node(start: root)
    for _ in 1..<head.pointee.height {
      let index = node.childIndex(key)
      path.append((node, index))
      node = node.children[index]
    }
    let index = node.rank(key, orEqual: false)
    guard index < node.count, node.keys[index] == key else { return nil }
    let value = node.values[index]
    closeGap(node, index, isLeaf: true, in: &section)
    setHeader(root: root, count: -1, height: 0, in: &section)
    while node.count == 0 {
      try section.deallocateAnnounced(node.start)
      guard let (parent, index) = path.popLast() else {
        setHeader(root: nil, count: 0, height: -head.pointee.height, in: &section)
        return value
      }
      closeGap(parent, index, isLeaf: false, in: &section)
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
    let node = Node(start: try section.allocateAnnounced(byteCount: Self.allocatedBytes))
    node.count = 0
    return node
  }

  private func slotBytes(isLeaf: Bool) -> Int { isLeaf ? MemoryLayout<Value>.stride : 8 }

  /// Announces a node's count and its entries from `index` on.
  private func announce(
    _ node: Node, from index: Int, isLeaf: Bool, in section: inout Section
  ) {
    section.announce(node.start, byteCount: 8)
    let left = node.count - index
    guard left > 0 else { return }
    let slot = slotBytes(isLeaf: isLeaf)
    section.announce(node.keys + index, byteCount: left * MemoryLayout<Key>.stride)
    if slot > 0 {
      section.announce(node.start + Self.slotsByte + index * slot, byteCount: left * slot)
    }
  }

  private func makeGap(_ node: Node, _ index: Int, isLeaf: Bool) {
    let left = node.count - index
    (node.keys + index + 1).update(from: node.keys + index, count: left)
    if isLeaf {
      (node.values + index + 1).update(from: node.values + index, count: left)
    } else {
      (node.children + index + 1).update(from: node.children + index, count: left)
    }
    node.count += 1
  }

  private func closeGap(_ node: Node, _ index: Int, isLeaf: Bool, in section: inout Section) {
    let left = node.count - index - 1
    (node.keys + index).update(from: node.keys + index + 1, count: left)
    if isLeaf {
      (node.values + index).update(from: node.values + index + 1, count: left)
    } else {
      (node.children + index).update(from: node.children + index + 1, count: left)
    }
    node.count -= 1
    announce(node, from: index, isLeaf: isLeaf, in: &section)
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
    guard node.count == Self.order else { return node }
    let above = try makeNode(in: &section)
    above.count = 1
    above.keys[0] = node.keys[0]
    above.children[0] = node
    setHeader(root: above.start, count: 0, height: 1, in: &section)
    announce(above, from: 0, isLeaf: false, in: &section)
    try split(0, of: above, isLeaf: head.pointee.height == 2, in: &section)
    return above
  }

  /// Splits a full child of a node that has room.
  private func split(
    _ index: Int, of parent: Node, isLeaf: Bool, in section: inout Section
  ) throws(PoolError) {
    let left = parent.children[index]
    let right = try makeNode(in: &section)
    let kept = left.count / 2
    let moved = left.count - kept
    right.keys.update(from: left.keys + kept, count: moved)
    if isLeaf {
      right.values.update(from: left.values + kept, count: moved)
    } else {
      right.children.update(from: left.children + kept, count: moved)
    }
    right.count = moved
    left.count = kept
    makeGap(parent, index + 1, isLeaf: false)
    parent.keys[index + 1] = right.keys[0]
    parent.children[index + 1] = right
    announce(right, from: 0, isLeaf: isLeaf, in: &section)
    section.announce(left.start, byteCount: 8)
    announce(parent, from: index + 1, isLeaf: false, in: &section)
  }

  /// Frees all nodes.
  public func removeAll(in section: inout Section) throws(PoolError) {
    if let root = head.pointee.root {
      var nodes = [(node: Node(start: root), level: 1)]
      while let (node, level) = nodes.popLast() {
        if level < head.pointee.height {
          for index in 0..<node.count { nodes.append((node.children[index], level + 1)) }
        }
        try section.deallocateAnnounced(node.start)
      }
    }
    setHeader(root: nil, count: -count, height: -head.pointee.height, in: &section)
  }
}

extension PersistentSortedDictionary: Persistable {
  /// Frees all nodes, and the dictionary.
  public func destroy(in section: inout Section) throws(PoolError) {
    try removeAll(in: &section)
    try section.deallocateAnnounced(header)
  }

  /// A dictionary of its own with the same keys and values. O(n log n).
  public func copy(
    in section: inout Section
  ) throws(PoolError) -> PersistentSortedDictionary<Key, Value> {
    let result = try PersistentSortedDictionary(in: &section)
    var entries: [(Key, Value)] = []
    forEach { key, value in
      entries.append((key, value))
      return true
    }
    for (key, value) in entries { try result.updateValue(value, forKey: key, in: &section) }
    return result
  }

  /// See ``Persistable/layout``.
  public static var layout: String {
    "PersistentSortedDictionary<\(Key.layout),\(Value.layout)>"
  }
}
