// PersistentArray: elements one after the other in a block that grows.
//
//   header (32 bytes)   elements, count, capacity, the section that allocated the elements
//
// A growing array announces what it moved; elements that are appended after that continue the same
// extent. So filling an array is one extent a MiB.
//
// SAFETY: `header` names the block that `init` took; elements below `count`
// are initialized, and the block behind `elements` has room for `capacity`. Indexes are checked.

/// An ordered, random-access collection of elements in a pool.
///
/// Reading needs no section; what changes the array takes `inout Section`. The array itself is a
/// name for memory of the pool: it is freed by ``destroy(in:)`` and not by going out of scope.
public struct PersistentArray<Element: Persistable & ~Copyable>: ~Copyable {
  @usableFromInline
  struct Header: BitwiseCopyable {
    @usableFromInline var elements: UnsafeMutableRawPointer?
    @usableFromInline var count: Int
    @usableFromInline var capacity: Int
    @usableFromInline var sectionNumber: UInt64

    @usableFromInline
    init() {
      elements = nil
      (count, capacity, sectionNumber) = (0, 0, 0)
    }
  }

  @usableFromInline let header: UnsafeMutablePointer<Header>

  /// The name of what is there.
  @inlinable @inline(__always)
  init(_ header: UnsafeMutablePointer<Header>) { self.header = header }

  /// An empty array with room for `capacity` elements.
  ///
  /// - Throws: `.poolFull`.
  @inlinable
  public init(minimumCapacity capacity: Int = 0, in section: inout Section) throws(PoolError) {
    // Not in place: what cannot be copied must not be half made when an error leaves.
    let empty = PersistentArray(try section.allocateHeader(Header()))
    try empty.reserveCapacity(capacity, in: &section)
    self = empty
  }

  // MARK: Reading

  /// The number of elements. O(1).
  @inlinable @inline(__always)
  public var count: Int { header.pointee.count }

  /// Whether there are none.
  @inlinable @inline(__always)
  public var isEmpty: Bool { count == 0 }

  /// How many elements there may be before the array moves.
  @inlinable
  public var capacity: Int { header.pointee.capacity }

  /// The valid indexes.
  @inlinable
  public var indices: Range<Int> { 0..<count }

  @inlinable @inline(__always)
  var start: UnsafeMutablePointer<Element> {
    // Of an empty array nothing is read: any address does.
    (header.pointee.elements ?? UnsafeMutableRawPointer(header))
      .assumingMemoryBound(to: Element.self)
  }

  @inlinable @inline(__always)
  func address(_ index: Int) -> UnsafeMutablePointer<Element> {
    precondition(UInt(bitPattern: index) < UInt(bitPattern: count), "index out of range")
    return start + index
  }

  /// The element at an index, to read. O(1).
  @inlinable
  public subscript(index: Int) -> Element {
    @inline(__always)
    unsafeAddress { UnsafePointer(address(index)) }
  }

  /// All elements as they are, without a copy: until the array is changed.
  @inlinable
  public var span: Span<Element> {
    @_lifetime(borrow self)
    @inline(__always)
    get {
      let span = Span(_unsafeStart: start, count: count)
      return _overrideLifetime(span, borrowing: self)
    }
  }

  /// Calls `body` for each element in order.
  @inlinable
  public func forEach(_ body: (borrowing Element) throws -> Void) rethrows {
    for index in indices { try body(start[index]) }
  }

  // MARK: Changing

  @inlinable @inline(__always)
  func announce(_ address: UnsafeMutablePointer<Element>, count: Int, in section: inout Section) {
    guard count > 0, MemoryLayout<Element>.stride > 0 else { return }
    section.announce(address, byteCount: count * MemoryLayout<Element>.stride)
  }

  @inlinable @inline(__always)
  func setCount(_ count: Int, in section: inout Section) {
    header.pointee.count = count
    section.announceWord(header, at: 8)
  }

  /// Adds an element at the end. O(1), amortised.
  ///
  /// - Throws: `.poolFull`.
  @inlinable @inline(__always)
  public func append(
    _ element: consuming Element, in section: inout Section
  ) throws(PoolError) {
    let count = header.pointee.count
    if count == header.pointee.capacity { try grow(to: count + 1, in: &section) }
    let address = start + count
    address.initialize(to: element)
    announce(address, count: 1, in: &section)
    setCount(count &+ 1, in: &section)
  }

  /// Changes the element at an index. O(1).
  @inlinable @inline(__always)
  public func update<Result>(
    at index: Int, in section: inout Section, _ body: (inout Element) throws -> Result
  ) rethrows -> Result {
    let address = address(index)
    announce(address, count: 1, in: &section)
    return try body(&address.pointee)
  }

  /// Inserts an element before the one at `index`, or at the end. O(n).
  @inlinable
  public func insert(
    _ element: consuming Element, at index: Int, in section: inout Section
  ) throws(PoolError) {
    let count = header.pointee.count
    precondition(index >= 0 && index <= count, "index out of range")
    if count == header.pointee.capacity { try grow(to: count + 1, in: &section) }
    let address = start + index
    (address + 1).moveInitialize(from: address, count: count - index)
    address.initialize(to: element)
    announce(address, count: count - index + 1, in: &section)
    setCount(count + 1, in: &section)
  }

  /// Takes the element at an index out; the caller owns what it refers to. O(n).
  @inlinable
  public func remove(at index: Int, in section: inout Section) -> Element {
    let address = address(index)
    let left = header.pointee.count - index - 1
    let element = address.move()
    address.moveInitialize(from: address + 1, count: left)
    announce(address, count: left, in: &section)
    setCount(header.pointee.count - 1, in: &section)
    return element
  }

  /// Takes the last element out, if there is one. O(1).
  @inlinable
  public func popLast(in section: inout Section) -> Element? {
    guard !isEmpty else { return nil }
    let element = (start + (count - 1)).move()
    setCount(count - 1, in: &section)
    return element
  }

  /// Exchanges two elements. O(1).
  @inlinable
  public func swapAt(_ first: Int, _ second: Int, in section: inout Section) {
    guard first != second else { return }
    let (left, right) = (address(first), address(second))
    let element = left.move()
    left.initialize(to: right.move())
    right.initialize(to: element)
    announce(left, count: 1, in: &section)
    announce(right, count: 1, in: &section)
  }

  /// Frees all elements. O(n), for bitwise elements O(1).
  public func removeAll(
    keepingCapacity: Bool = false, in section: inout Section
  ) throws(PoolError) {
    for index in 0..<count { try start[index].destroy(in: &section) }
    setCount(0, in: &section)
    if !keepingCapacity { try freeElements(in: &section) }
  }

  /// Makes room for `capacity` elements in all.
  public func reserveCapacity(_ capacity: Int, in section: inout Section) throws(PoolError) {
    if capacity > header.pointee.capacity { try move(toCapacity: capacity, in: &section) }
  }

  @usableFromInline @inline(never)
  func grow(to least: Int, in section: inout Section) throws(PoolError) {
    try move(toCapacity: max(least, header.pointee.capacity * 2, 4), in: &section)
  }

  private func move(toCapacity wanted: Int, in section: inout Section) throws(PoolError) {
    let stride = max(MemoryLayout<Element>.stride, 1)
    let (bytes, overflow) = wanted.multipliedReportingOverflow(by: stride)
    guard !overflow else { throw .invalidArgument("\(wanted) elements") }
    let block = try section.allocateAnnounced(
      byteCount: bytes, alignment: max(MemoryLayout<Element>.alignment, 16))
    let target = block.assumingMemoryBound(to: Element.self)
    let count = header.pointee.count
    target.moveInitialize(from: start, count: count)
    try freeElements(in: &section)
    header.pointee.elements = block
    header.pointee.capacity = try section.usableBytes(block) / stride
    header.pointee.sectionNumber = section.number
    section.announce(header, byteCount: MemoryLayout<Header>.size)
    announce(target, count: count, in: &section)
  }

  private func freeElements(in section: inout Section) throws(PoolError) {
    guard let old = header.pointee.elements else { return }
    if header.pointee.sectionNumber == section.number {
      section.forget(old, byteCount: capacity * MemoryLayout<Element>.stride)
    }
    try section.deallocateAnnounced(old)
    header.pointee.elements = nil
    header.pointee.capacity = 0
    section.announce(header, byteCount: MemoryLayout<Header>.size)
  }
}

extension PersistentArray: Persistable where Element: ~Copyable {
  /// Frees the elements and the array.
  public func destroy(in section: inout Section) throws(PoolError) {
    try removeAll(in: &section)
    try section.deallocateAnnounced(header)
  }

  /// An array of its own with copies of the elements. O(n).
  public func copy(in section: inout Section) throws(PoolError) -> PersistentArray<Element> {
    let result = try PersistentArray(minimumCapacity: count, in: &section)
    for index in 0..<count {
      try result.append(try start[index].copy(in: &section), in: &section)
    }
    return result
  }

  /// See ``Persistable/layout``.
  public static var layout: String { "PersistentArray<\(Element.layout)>" }
}

extension PersistentArray where Element: BitwiseCopyable {
  /// An array with the elements of a sequence.
  public init(
    _ elements: some Sequence<Element>, in section: inout Section
  ) throws(PoolError) {
    let array = try PersistentArray(minimumCapacity: elements.underestimatedCount, in: &section)
    try array.append(contentsOf: elements, in: &section)
    self = array
  }

  /// Stores an element at an index. O(1).
  @inlinable @inline(__always)
  public func set(_ index: Int, to element: Element, in section: inout Section) {
    let address = address(index)
    address.pointee = element
    announce(address, count: 1, in: &section)
  }

  /// Adds the elements of a sequence at the end.
  public func append(
    contentsOf elements: some Sequence<Element>, in section: inout Section
  ) throws(PoolError) {
    for element in elements { try append(element, in: &section) }
  }

  /// The first element, if there is one.
  @inlinable
  public var first: Element? { isEmpty ? nil : self[0] }

  /// The last element, if there is one.
  @inlinable
  public var last: Element? { isEmpty ? nil : self[count - 1] }
}
