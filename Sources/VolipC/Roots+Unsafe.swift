// swift-format-ignore-file: AlwaysUseLowerCamelCase
// Roots: blocks with names, as C knows their types: by a name and a size.

import CVolip

/// What stands in a root's entry for a type's name. Swift's own types have other fingerprints.
private func fingerprint(_ type: UnsafePointer<CChar>?) -> UInt64 {
  // SAFETY: the string is copied.
  VolipMem.fingerprint(of: "C " + (type.map { String(cString: $0) } ?? ""))
}

extension Pool {
  /// The address of a root that has that size, and that type if it is given; nil for no root.
  fileprivate func address(
    _ name: String, _ byteCount: Int, _ type: UnsafePointer<CChar>?
  ) throws -> UnsafeMutableRawPointer? {
    guard let root = try roots().first(where: { $0.name == name }) else { return nil }
    guard root.byteCount == byteCount else {
      throw Failure(
        code: VOLIP_ROOT_LAYOUT_MISMATCH,
        text:
          "Root \"\(name)\" has \(root.byteCount) bytes, not \(byteCount): its type has changed.")
    }
    let expected = fingerprint(type)
    guard type == nil || root.fingerprint == expected else {
      throw PoolError.rootLayoutMismatch(name: name, expected: expected, found: root.fingerprint)
    }
    return address(root)
  }

  fileprivate func address(_ root: Root) -> UnsafeMutableRawPointer {
    // SAFETY: the entry was checked to lie inside the pool.
    UnsafeMutableRawPointer(mutating: base + Int(root.offset.bytes))
  }
}

private let noRoot = "There is no root of this name: make it with volip_root in a section."

@c @implementation
public func volip_root(
  _ given: OpaquePointer!, _ name: UnsafePointer<CChar>!, _ byteCount: Int,
  _ type: UnsafePointer<CChar>!
) -> UnsafeMutableRawPointer! {
  result {
    let (pool, name) = (try pool(given), try text(name, "name"))
    if let existing = try pool.address(name, byteCount, type) { return existing }
    return pool.address(
      try pool.heap.addRoot(
        name, fingerprint: fingerprint(type), byteCount: byteCount, alignment: 64))
  }
}

@c @implementation
public func volip_find_root(
  _ given: OpaquePointer!, _ name: UnsafePointer<CChar>!, _ byteCount: Int,
  _ type: UnsafePointer<CChar>!
) -> UnsafeMutableRawPointer! {
  result {
    let found = try pool(given).address(text(name, "name"), byteCount, type)
    guard let found else { throw Failure(code: VOLIP_NO_ROOT, text: noRoot) }
    return found
  }
}

@c @implementation
public func volip_remove_root(
  _ given: OpaquePointer!, _ name: UnsafePointer<CChar>!
) -> volip_code {
  code {
    let (pool, name) = (try pool(given), try text(name, "name"))
    guard try pool.roots().contains(where: { $0.name == name }) else {
      throw Failure(code: VOLIP_NO_ROOT, text: noRoot)
    }
    try pool.heap.removeRoot(name)
  }
}

@c @implementation
public func volip_for_each_root(
  _ given: OpaquePointer!,
  _ each: (
    @convention(c) (
      UnsafePointer<CChar>?, UnsafeMutableRawPointer?, Int, UnsafeMutableRawPointer?
    ) -> Void
  )!,
  _ context: UnsafeMutableRawPointer!
) -> volip_code {
  code {
    let pool = try pool(given)
    guard let each else { throw PoolError.invalidArgument("NULL in place of a function") }
    for root in try pool.roots() { each(root.name, pool.address(root), root.byteCount, context) }
  }
}
