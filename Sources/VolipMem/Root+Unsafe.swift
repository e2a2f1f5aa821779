// Typed roots.

extension Pool {
  /// The value under `name`, made by `create` when there is none yet.
  ///
  /// - Parameters:
  ///   - name: 1 to 63 bytes of UTF-8.
  ///   - create: the first value.
  /// - Returns: its address, the same for ever.
  /// - Throws: `.rootLayoutMismatch` when the name was made with a type of another layout,
  ///   `.invalidRootName`, `.poolFull`.
  public func root<T: BitwiseCopyable>(
    _ name: String, in section: inout Section, create: () throws -> T
  ) throws -> UnsafeMutablePointer<T> {
    if let existing = try root(name, as: T.self) { return existing }
    // Before the name: an error that the body catches leaves no root without a value.
    let value = try create()
    let root = try heap.addRoot(
      name, fingerprint: layoutFingerprint(T.self), byteCount: MemoryLayout<T>.size,
      alignment: max(MemoryLayout<T>.alignment, 16))
    let address = pointer(root, as: T.self)
    address.initialize(to: value)
    return address
  }

  /// The value under `name`, or nil. Needs no section.
  public func root<T: BitwiseCopyable>(
    _ name: String, as type: T.Type
  ) throws(PoolError) -> UnsafeMutablePointer<T>? {
    try heap.engine.requireOpen()
    guard let root = try heap.root(name) else { return nil }
    let expected = layoutFingerprint(T.self)
    guard root.fingerprint == expected, root.byteCount == MemoryLayout<T>.size else {
      throw .rootLayoutMismatch(
        name: name, expected: layoutDescription(T.self), found: layoutText(root))
    }
    return pointer(root, as: T.self)
  }

  /// Names, layouts and sizes of all roots.
  public func roots() throws(PoolError) -> [Root] {
    try heap.engine.requireOpen()
    return try heap.roots()
  }

  /// Frees a root's own value and its name.
  public func removeRoot(_ name: String, in section: inout Section) throws(PoolError) {
    try heap.removeRoot(name)
  }

  private func pointer<T>(_ root: Root, as type: T.Type) -> UnsafeMutablePointer<T> {
    // SAFETY: the entry was checked to lie inside the pool, and its layout to be T's.
    UnsafeMutableRawPointer(mutating: base + Int(root.offset.bytes)).assumingMemoryBound(to: T.self)
  }
}
