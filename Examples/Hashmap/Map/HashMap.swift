// A hash map as one would write it without persistence: chained nodes, native pointers, ordinary
// stores. Nothing in it knows about sections, logs or pages; it asks its memory source for memory,
// and that is all that tells a persistent map from a volatile one.

import VolipMem

/// Where the map's nodes and buckets come from.
public protocol MemorySource {
  func allocate<T: BitwiseCopyable>(_ type: T.Type, count: Int) throws -> UnsafeMutablePointer<T>
  func deallocate(_ address: UnsafeRawPointer) throws
}

extension Pool: MemorySource {}

/// malloc, for comparison.
public struct VolatileMemory: MemorySource {
  public init() {}

  @inlinable
  public func allocate<T: BitwiseCopyable>(
    _ type: T.Type, count: Int
  ) throws -> UnsafeMutablePointer<T> {
    .allocate(capacity: count)
  }

  @inlinable
  public func deallocate(_ address: UnsafeRawPointer) throws {
    UnsafeMutableRawPointer(mutating: address).deallocate()
  }
}

public struct HashNode: BitwiseCopyable {
  public var key: UInt64
  public var value: UInt64
  public var next: UnsafeMutablePointer<HashNode>?

  @inlinable
  init(key: UInt64, value: UInt64, next: UnsafeMutablePointer<HashNode>?) {
    self.key = key
    self.value = value
    self.next = next
  }
}

/// A map from UInt64 to UInt64 that lives where its source's memory lives. The struct itself is
/// the root: put it in a pool and everything else follows from its pointers.
public struct HashMap: BitwiseCopyable {
  public typealias Bucket = UnsafeMutablePointer<HashNode>?

  @usableFromInline var buckets: UnsafeMutablePointer<Bucket>
  @usableFromInline var bucketMask: UInt64
  public private(set) var count: Int

  /// An empty map with room for `capacity` entries before its buckets are doubled.
  public init(capacity: Int, in source: some MemorySource) throws {
    var bucketCount = 16
    while bucketCount < capacity { bucketCount *= 2 }
    buckets = try Self.makeBuckets(bucketCount, source)
    bucketMask = UInt64(bucketCount - 1)
    count = 0
  }

  private static func makeBuckets(
    _ count: Int, _ source: some MemorySource
  ) throws -> UnsafeMutablePointer<Bucket> {
    let buckets = try source.allocate(Bucket.self, count: count)
    buckets.initialize(repeating: nil, count: count)
    return buckets
  }

  @inlinable
  static func hash(_ key: UInt64) -> UInt64 {
    var word = key &+ 0x9E37_79B9_7F4A_7C15
    word = (word ^ word >> 30) &* 0xBF58_476D_1CE4_E5B9
    word = (word ^ word >> 27) &* 0x94D0_49BB_1331_11EB
    return word ^ word >> 31
  }

  @inlinable
  func bucket(_ key: UInt64) -> UnsafeMutablePointer<Bucket> {
    buckets + Int(Self.hash(key) & bucketMask)
  }

  @inlinable
  func node(_ key: UInt64) -> Bucket {
    var node = bucket(key).pointee
    while let present = node, present.pointee.key != key { node = present.pointee.next }
    return node
  }

  @inlinable
  public subscript(key: UInt64) -> UInt64? { node(key)?.pointee.value }

  /// Sets the value of an existing key; returns whether there was one.
  @inlinable
  @discardableResult
  public func update(_ key: UInt64, to value: UInt64) -> Bool {
    guard let node = node(key) else { return false }
    node.pointee.value = value
    return true
  }

  /// Sets the value of a key, new or not.
  public mutating func insert(
    _ key: UInt64, _ value: UInt64, in source: some MemorySource
  ) throws {
    if update(key, to: value) { return }
    if UInt64(count) > bucketMask { try grow(in: source) }
    let bucket = bucket(key)
    let node = try source.allocate(HashNode.self, count: 1)
    node.initialize(to: HashNode(key: key, value: value, next: bucket.pointee))
    bucket.pointee = node
    count += 1
  }

  /// Removes a key; returns whether it was there.
  @discardableResult
  public mutating func remove(_ key: UInt64, in source: some MemorySource) throws -> Bool {
    let bucket = bucket(key)
    var link: UnsafeMutablePointer<HashNode>?
    var node = bucket.pointee
    while let present = node, present.pointee.key != key {
      link = present
      node = present.pointee.next
    }
    guard let found = node else { return false }
    if let link {
      link.pointee.next = found.pointee.next
    } else {
      bucket.pointee = found.pointee.next
    }
    try source.deallocate(found)
    count -= 1
    return true
  }

  private mutating func grow(in source: some MemorySource) throws {
    let oldCount = Int(bucketMask) + 1
    let old = buckets
    buckets = try Self.makeBuckets(oldCount * 2, source)
    bucketMask = UInt64(oldCount * 2 - 1)
    for index in 0..<oldCount {
      var node = old[index]
      while let present = node {
        node = present.pointee.next
        let bucket = bucket(present.pointee.key)
        present.pointee.next = bucket.pointee
        bucket.pointee = present
      }
    }
    try source.deallocate(old)
  }

  /// Calls `body` for every entry, in no particular order.
  public func forEach(_ body: (_ key: UInt64, _ value: UInt64) throws -> Void) rethrows {
    for index in 0...Int(bucketMask) {
      var node = buckets[index]
      while let present = node {
        try body(present.pointee.key, present.pointee.value)
        node = present.pointee.next
      }
    }
  }

  /// The address of every block that the map owns: buckets and nodes.
  public func forEachBlock(_ body: (UnsafeRawPointer) -> Void) {
    body(buckets)
    for index in 0...Int(bucketMask) {
      var node = buckets[index]
      while let present = node {
        body(present)
        node = present.pointee.next
      }
    }
  }
}
