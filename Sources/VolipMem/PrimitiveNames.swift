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
  let pool: Pool
  do throws(PoolError) {
    pool = try Pool.open(path, options: options)
  } catch {
    guard case .notFound = error else { throw error }
    pool = try Pool.create(path, byteCount: byteCount, options: options)
  }
  mappedLast.withLock { $0 = pool }
  return pool
}

/// Closes the pool that `pmap` mapped last and forgets it.
public func punmap() throws(PoolError) {
  let pool = try lastPool()
  mappedLast.withLock { $0 = nil }
  try pool.close()
}

private func lastPool() throws(PoolError) -> Pool {
  guard let pool = mappedLast.withLock({ $0 }) else { throw .closed }
  return pool
}

/// See ``Pool/pstart()``.
public func pstart() throws(PoolError) { try lastPool().pstart() }

/// See ``Pool/pend()``.
public func pend() throws(PoolError) { try lastPool().pend() }

/// See ``Pool/pabort()``.
public func pabort() throws(PoolError) { try lastPool().pabort() }

/// See ``Pool/pcommit()``.
public func pcommit() throws(PoolError) { try lastPool().pcommit() }
