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
    let root = try heap.addRoot(
      name, fingerprint: fingerprint(of: T.layout), byteCount: 8, alignment: 16)
    // SAFETY: the root's own block of 8 bytes.
    address(root).storeBytes(of: reference, as: Ref<T>.self)
    return reference
  }

  /// The persistent value under `name`, or nil. Needs no section.
  public func root<T: Persistable & ~Copyable>(
    _ name: String, of type: T.Type
  ) throws(PoolError) -> Ref<T>? {
    try heap.engine.requireOpen()
    guard let root = try heap.root(name) else { return nil }
    let expected = fingerprint(of: T.layout)
    guard root.fingerprint == expected, root.byteCount == 8 else {
      throw .rootLayoutMismatch(name: name, expected: expected, found: root.fingerprint)
    }
    // SAFETY: the layout is that of a reference to T.
    return address(root).load(as: Ref<T>.self)
  }

  private func address(_ root: Root) -> UnsafeMutableRawPointer {
    // SAFETY: the entry was checked to lie inside the pool.
    UnsafeMutableRawPointer(mutating: base + Int(root.offset.bytes))
  }
}
