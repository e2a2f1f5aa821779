// Roots of persistent values.

extension Pool {
  /// The persistent value under `name`, made by `create` when there is none yet.
  ///
  /// ```swift
  /// let accounts = try pool.root("accounts", in: &section) { section in
  ///   try PersistentDictionary<Int, Account>(in: &section)
  /// }
  /// try accounts.value.updateValue(account, forKey: 7, in: &section)
  /// ```
  ///
  /// - Throws: `.rootLayoutMismatch` when the name was made with a type of another layout,
  ///   `.invalidRootName`, `.poolFull`.
  public func root<T: Persistable & ~Copyable>(
    _ name: String, in section: inout Section, create: (inout Section) throws -> T
  ) throws -> Ref<T> {
    if let existing = try root(name, of: T.self) { return existing }
    // Before the name: an error that the body catches leaves no root without a value.
    let reference = try Ref(try create(&section), in: &section)
    try addRoot(name, reference)
    return reference
  }

  private func addRoot<T: Persistable & ~Copyable>(
    _ name: String, _ reference: Ref<T>
  ) throws(PoolError) {
    let layout = try layout(of: T.self)
    var text = Array(layout.utf8)
    let root = try heap.addRoot(
      name, fingerprint: fingerprint(of: layout), byteCount: 8 + text.count, alignment: 16)
    // SAFETY: the root's own block has room for both.
    address(root).storeBytes(of: reference, as: Ref<T>.self)
    (address(root) + 8).copyMemory(from: &text, byteCount: text.count)
  }

  /// The layout that a root was made with, in words where it has them: behind the reference.
  func layoutText(_ root: Root) -> String {
    if root.byteCount > 8 {
      // SAFETY: the entry was checked to lie inside the pool.
      let bytes = UnsafeRawBufferPointer(start: address(root) + 8, count: root.byteCount - 8)
      if let text = String(validating: bytes, as: UTF8.self),
        fingerprint(of: text) == root.fingerprint
      {
        return text
      }
    }
    return PoolError.fingerprintText(root.fingerprint)
  }

  /// Replaces a value of an older layout, in one section: `body` makes the new one from the old
  /// one, which is destroyed then. Does nothing where the new layout is there already.
  ///
  /// - Returns: the new value, or nil where there is no such root.
  /// - Throws: `.rootLayoutMismatch` when the root has neither layout; what `body` throws.
  @discardableResult
  public func migrate<Old: Persistable & ~Copyable, New: Persistable & ~Copyable>(
    _ name: String, from old: Old.Type, to new: New.Type, in section: inout Section,
    _ body: (borrowing Old, inout Section) throws -> New
  ) throws -> Ref<New>? {
    guard let found = try heap.root(name) else { return nil }
    if found.fingerprint == fingerprint(of: try layout(of: New.self)) {
      return try root(name, of: New.self)
    }
    guard let before = try root(name, of: Old.self) else { return nil }
    let after = try Ref(try body(before.value, &section), in: &section)
    try before.free(in: &section)
    try heap.removeRoot(name)
    try addRoot(name, after)
    return after
  }

  /// A type's layout in words.
  ///
  /// - Throws: `.invalidArgument` for a type with a raw pointer in it, which the compiler lets pass
  ///   as a part of a bitwise struct.
  private func layout<T: Persistable & ~Copyable>(of type: T.Type) throws(PoolError) -> String {
    let layout = T.layout
    for name in ["Unsafe", "RawPointer", "OpaquePointer", "Unmanaged"] where layout.contains(name) {
      throw .invalidArgument("a root with a pointer in its values: \(layout)")
    }
    return layout
  }

  /// The persistent value under `name`, or nil. Needs no section.
  public func root<T: Persistable & ~Copyable>(
    _ name: String, of type: T.Type
  ) throws(PoolError) -> Ref<T>? {
    try heap.engine.requireOpen()
    guard let root = try heap.root(name) else { return nil }
    let expected = try layout(of: T.self)
    guard root.fingerprint == fingerprint(of: expected), root.byteCount >= 8 else {
      throw .rootLayoutMismatch(name: name, expected: expected, found: layoutText(root))
    }
    // SAFETY: the layout is that of a reference to T.
    return address(root).load(as: Ref<T>.self)
  }

  private func address(_ root: Root) -> UnsafeMutableRawPointer {
    // SAFETY: the entry was checked to lie inside the pool.
    UnsafeMutableRawPointer(mutating: base + Int(root.offset.bytes))
  }
}
