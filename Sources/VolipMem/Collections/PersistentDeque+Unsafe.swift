// PersistentDeque: elements in a ring.
//
//   header (40 bytes)   elements, capacity (a power of two or 0), the place of the first, count,
//   the
//                       section that allocated the elements
//
// SAFETY: `header` names the block that `init` took; the `count` places from `first` on, around the
// end of the ring, are initialized. Indexes are checked.

/// A collection in a pool that grows and shrinks at both ends in constant time.
///
/// Reading needs no section; what changes the deque takes `inout Section`. It is freed by
/// ``destroy(in:)`` and not by going out of scope.
public struct PersistentDeque<Element: Persistable & ~Copyable>: ~Copyable {
  @usableFromInline
  struct Header: BitwiseCopyable {
    var elements: UnsafeMutableRawPointer?
    var capacity = 0
    var first = 0
    var count = 0
    var sectionNumber: UInt64 = 0
  }

  @usableFromInline let header: UnsafeMutablePointer<Header>

  /// The name of what is there.
  @inlinable @inline(__always)
  init(_ header: UnsafeMutablePointer<Header>) { self.header = header }
  private static var countByte: Int { 16 }

  /// An empty deque.
  ///
  /// - Throws: `.poolFull`.
  public init(in section: inout Section) throws(PoolError) {
    header = try section.allocateHeader(Header())
  }

  /// The number of elements. O(1).
  public var count: Int { header.pointee.count }

  /// Whether there are none.
  public var isEmpty: Bool { count == 0 }

  /// The valid indexes, 0 for the first element.
  public var indices: Range<Int> { 0..<count }

  private func place(_ index: Int) -> UnsafeMutablePointer<Element> {
    let ring = header.pointee.elements!.assumingMemoryBound(to: Element.self)
    return ring + (header.pointee.first + index) & (header.pointee.capacity - 1)
  }

  private func address(_ index: Int) -> UnsafeMutablePointer<Element> {
    precondition(indices.contains(index), "index out of range")
    return place(index)
  }

  /// The element at an index, to read. O(1).
  public subscript(index: Int) -> Element {
    unsafeAddress { UnsafePointer(address(index)) }
  }

  /// Calls `body` for each element in order.
  public func forEach(_ body: (borrowing Element) throws -> Void) rethrows {
    for index in indices { try body(place(index).pointee) }
  }

  private func announce(_ address: UnsafeMutablePointer<Element>, in section: inout Section) {
    let bytes = MemoryLayout<Element>.size
    if bytes > 0 { section.announce(address, byteCount: bytes) }
  }

  private func move(first: Int, count: Int, in section: inout Section) {
    header.pointee.first += first
    header.pointee.count += count
    section.announce(UnsafeRawPointer(header) + Self.countByte, byteCount: 16)
  }

  /// Changes the element at an index. O(1).
  public func update<Result>(
    at index: Int, in section: inout Section, _ body: (inout Element) throws -> Result
  ) rethrows -> Result {
    let address = address(index)
    announce(address, in: &section)
    return try body(&address.pointee)
  }

  /// Adds an element at the end. O(1), amortised.
  ///
  /// - Throws: `.poolFull`.
  public func append(
    _ element: consuming Element, in section: inout Section
  ) throws(PoolError) {
    try makeRoom(in: &section)
    let address = place(count)
    address.initialize(to: element)
    announce(address, in: &section)
    move(first: 0, count: 1, in: &section)
  }

  /// Adds an element before the first. O(1), amortised.
  ///
  /// - Throws: `.poolFull`.
  public func prepend(
    _ element: consuming Element, in section: inout Section
  ) throws(PoolError) {
    try makeRoom(in: &section)
    let address = place(-1)
    address.initialize(to: element)
    announce(address, in: &section)
    move(first: -1, count: 1, in: &section)
  }

  /// Takes the first element out, if there is one. O(1).
  public func popFirst(in section: inout Section) -> Element? {
    guard !isEmpty else { return nil }
    let element = place(0).move()
    move(first: 1, count: -1, in: &section)
    return element
  }

  /// Takes the last element out, if there is one. O(1).
  public func popLast(in section: inout Section) -> Element? {
    guard !isEmpty else { return nil }
    let element = place(count - 1).move()
    move(first: 0, count: -1, in: &section)
    return element
  }

  /// Frees all elements.
  public func removeAll(in section: inout Section) throws(PoolError) {
    try destroyElements(in: &section)
    header.pointee = Header()
    section.announce(header, byteCount: MemoryLayout<Header>.size)
  }

  private func destroyElements(in section: inout Section) throws(PoolError) {
    for index in indices { try place(index).pointee.destroy(in: &section) }
    try freeElements(in: &section)
  }

  private func makeRoom(in section: inout Section) throws(PoolError) {
    guard count == header.pointee.capacity else { return }
    let capacity = max(header.pointee.capacity * 2, 4)
    let stride = max(MemoryLayout<Element>.stride, 1)
    let block = try section.allocateAnnounced(
      byteCount: capacity * stride, alignment: max(MemoryLayout<Element>.alignment, 16))
    let target = block.assumingMemoryBound(to: Element.self)
    for index in 0..<count {
      (target + index).initialize(to: place(index).move())
      announce(target + index, in: &section)
    }
    try freeElements(in: &section)
    header.pointee.elements = block
    header.pointee.capacity = capacity
    header.pointee.first = 0
    header.pointee.sectionNumber = section.number
    section.announce(header, byteCount: MemoryLayout<Header>.size)
  }

  private func freeElements(in section: inout Section) throws(PoolError) {
    guard let old = header.pointee.elements else { return }
    if header.pointee.sectionNumber == section.number {
      section.forget(old, byteCount: header.pointee.capacity * MemoryLayout<Element>.stride)
    }
    try section.deallocateAnnounced(old)
  }
}

extension PersistentDeque: Persistable where Element: ~Copyable {
  /// Frees the elements and the deque.
  public func destroy(in section: inout Section) throws(PoolError) {
    try destroyElements(in: &section)
    try section.deallocateAnnounced(header)
  }

  /// A deque of its own with copies of the elements. O(n).
  public func copy(in section: inout Section) throws(PoolError) -> PersistentDeque<Element> {
    let result = try PersistentDeque(in: &section)
    for index in indices {
      try result.append(try place(index).pointee.copy(in: &section), in: &section)
    }
    return result
  }

  /// See ``Persistable/layout``.
  public static var layout: String { "PersistentDeque<\(Element.layout)>" }
}

extension PersistentDeque where Element: BitwiseCopyable {
  /// A deque with the elements of a sequence.
  ///
  /// - Throws: `.poolFull`.
  public init(
    _ elements: some Sequence<Element>, in section: inout Section
  ) throws(PoolError) {
    let deque = try PersistentDeque(in: &section)
    for element in elements { try deque.append(element, in: &section) }
    self = deque
  }

  /// The first element, if there is one.
  public var first: Element? { isEmpty ? nil : self[0] }

  /// The last element, if there is one.
  public var last: Element? { isEmpty ? nil : self[count - 1] }
}
