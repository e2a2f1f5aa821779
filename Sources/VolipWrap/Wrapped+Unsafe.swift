// Wrapped: what the library in a wrapped program (CSupport/CVolipWrap) asks of the pools. Its C
// side decides when.

import Glibc

/// What C knows of an open pool; the layout is that of `struct wrap_pool` there.
public struct WrappedPool {
  var handle: UnsafeMutableRawPointer?
  var base: UnsafeMutableRawPointer?
  var lengthWord: UnsafeMutablePointer<UInt64>?
  var capacity: UInt64
}

/// Says why on standard error. Returns the errno that the program's call shall have.
private func report(_ error: PoolError, _ path: String) -> Int32 {
  let text = "volip: \(path): \(error)\n"
  _ = write(STDERR_FILENO, text, text.utf8.count)
  switch error {
  case .inUse: return EBUSY
  case .diskFull: return ENOSPC
  case .noPermission: return EACCES
  case .addressTaken, .addressSpaceExhausted: return ENOMEM
  default: return EIO
  }
}

private var engineOptions: EngineOptions {
  var options = EngineOptions()
  options.tracker = VirtualMachine.isEntered ? .adaptive : .pageMapScan
  return options
}

/// Opens the pool of a file, or makes it of the first `length` bytes behind `descriptor`.
///
/// - Returns: 0 or an errno; what is wrong stands on standard error.
@c(volip_wrapped_open)
public func volipWrappedOpen(
  _ path: UnsafePointer<CChar>, _ descriptor: Int32, _ length: UInt64, _ isNew: Bool,
  _ result: UnsafeMutableRawPointer
) -> Int32 {
  // SAFETY: the C side's string, copied at once.
  let path = String(cString: path)
  do throws(PoolError) {
    let pool =
      isNew
      ? try FilePool.create(path, from: descriptor, length: length, options: engineOptions)
      : try FilePool.open(path, options: engineOptions)
    // SAFETY: the C side's struct wrap_pool.
    result.assumingMemoryBound(to: WrappedPool.self).pointee = WrappedPool(
      handle: Unmanaged.passRetained(pool).toOpaque(), base: pool.base,
      lengthWord: pool.lengthWord, capacity: pool.capacity)
    return 0
  } catch {
    return report(error, path)
  }
}

private func pool(_ handle: UnsafeMutableRawPointer) -> FilePool {
  // SAFETY: a handle that `volip_wrapped_open` retained and nobody has closed.
  Unmanaged<FilePool>.fromOpaque(handle).takeUnretainedValue()
}

/// Commits what was written since the last epoch.
@c(volip_wrapped_commit)
public func volipWrappedCommit(
  _ handle: UnsafeMutableRawPointer, _ pages: UnsafeMutablePointer<UInt64>,
  _ lines: UnsafeMutablePointer<UInt64>
) -> Int32 {
  let pool = pool(handle)
  do throws(PoolError) {
    let counts = try pool.engine.commitEpoch()
    pages.pointee += UInt64(counts.pages)
    lines.pointee += UInt64(counts.lines)
    return 0
  } catch {
    return report(error, pool.path)
  }
}

/// Lets the first bytes of the file be written.
@c(volip_wrapped_watch)
public func volipWrappedWatch(_ handle: UnsafeMutableRawPointer, _ byteCount: UInt64) -> Int32 {
  let pool = pool(handle)
  do throws(PoolError) {
    try pool.watch(upTo: byteCount)
    return 0
  } catch {
    return report(error, pool.path)
  }
}

/// Makes bytes of the file zero.
@c(volip_wrapped_zero)
public func volipWrappedZero(
  _ handle: UnsafeMutableRawPointer, _ start: UInt64, _ end: UInt64
) -> Int32 {
  let pool = pool(handle)
  do throws(PoolError) {
    try pool.zero(start..<end)
    return 0
  } catch {
    return report(error, pool.path)
  }
}

/// Closes a pool for good; what was not committed is lost.
@c(volip_wrapped_close)
public func volipWrappedClose(_ handle: UnsafeMutableRawPointer) {
  // SAFETY: as in `pool`; this is the last use of the handle.
  let pool = Unmanaged<FilePool>.fromOpaque(handle).takeRetainedValue()
  do throws(PoolError) {
    try pool.engine.close()
  } catch {
    _ = report(error, pool.path)
  }
}

/// How often the virtual machine was left.
@c(volip_wrapped_exits)
public func volipWrappedExits() -> UInt64 { VirtualMachine.allExits }
