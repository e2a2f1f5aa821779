// pmap, pstart, pend, pabort, pcommit: the primitives under their own names, for code that has no
// handle at hand. They mean the section's pool inside a section, else the pool mapped last.

import Synchronization

private let mappedLast = Mutex<Pool?>(nil)

/// Maps a pool: opens it, or creates it with `byteCount` bytes where there is none.
///
/// - Throws: `PoolError`, as ``Pool/open(_:options:)`` and ``Pool/create(_:byteCount:options:)``.
public func pmap(
  _ path: String, byteCount: UInt64 = 64 << 20, options: Pool.Options = Pool.Options()
) throws(PoolError) -> Pool {
  let pool = try Pool.openOrCreate(path, byteCount: byteCount, options: options)
  mappedLast.withLock { $0 = pool }
  return pool
}

extension Pool {
  /// What `pmap` maps.
  package static func openOrCreate(
    _ path: String, byteCount: UInt64, options: Pool.Options
  ) throws(PoolError) -> Pool {
    do throws(PoolError) {
      return try open(path, options: options)
    } catch {
      guard case .notFound = error else { throw error }
      return try createOrOpen(path, byteCount: byteCount, options: options)
    }
  }
}

/// Where somebody else makes the pool meanwhile, it is the one to open.
private func createOrOpen(
  _ path: String, byteCount: UInt64, options: Pool.Options
) throws(PoolError) -> Pool {
  do throws(PoolError) {
    return try Pool.create(path, byteCount: byteCount, options: options)
  } catch {
    guard case .alreadyExists = error else { throw error }
    return try Pool.open(path, options: options)
  }
}

/// Closes the pool that `pmap` mapped last and forgets it.
///
/// - Throws: `.nestedSection` inside a section; nothing has changed then.
public func punmap() throws(PoolError) {
  guard PoolEngine.ofThisThread == nil else { throw .nestedSection }
  try lastPool().close()
  mappedLast.withLock { $0 = nil }
}

private func lastPool() throws(PoolError) -> Pool {
  guard let pool = mappedLast.withLock({ $0 }) else { throw .closed }
  return pool
}

private func engineInSection() throws(PoolError) -> PoolEngine {
  guard let engine = PoolEngine.ofThisThread else { throw .noSection }
  return engine
}

/// See ``Pool/pstart()``.
public func pstart() throws(PoolError) {
  if let engine = PoolEngine.ofThisThread { return try engine.openSection() }
  try lastPool().pstart()
}

/// See ``Pool/pend()``.
public func pend() throws(PoolError) { try engineInSection().closeSection() }

/// See ``Pool/pabort()``.
public func pabort() throws(PoolError) { try engineInSection().abortSection() }

/// See ``Pool/pcommit()``.
public func pcommit() throws(PoolError) { try engineInSection().commitSection() }
