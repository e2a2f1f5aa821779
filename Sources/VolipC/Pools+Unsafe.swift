// swift-format-ignore-file: AlwaysUseLowerCamelCase
// Pools: open, create, close, and what is asked of a whole pool.
//
// A volip_pool is a retained Pool. SAFETY: here and in the other files the caller passes handles
// that it got and did not close, strings that end with a zero byte, and pointers to what the header
// says; only NULL is looked for.

import CVolip

/// The pool of a handle.
@inline(__always)
func pool(_ handle: OpaquePointer?) throws(PoolError) -> Pool {
  guard let handle else { throw .invalidArgument("NULL in place of a pool") }
  return Unmanaged<Pool>.fromOpaque(UnsafeRawPointer(handle)).takeUnretainedValue()
}

func handle(_ pool: Pool) -> OpaquePointer {
  OpaquePointer(Unmanaged.passRetained(pool).toOpaque())
}

func text(_ string: UnsafePointer<CChar>?, _ what: String) throws(PoolError) -> String {
  guard let string else { throw .invalidArgument("NULL in place of a \(what)") }
  return String(cString: string)
}

private func options(
  _ given: UnsafePointer<volip_options>?
) throws(PoolError) -> Pool.Options {
  var options = Pool.Options()
  guard let given = given?.pointee else { return options }
  if let name = given.tracker {
    let name = String(cString: name)
    guard let kind = TrackerKind(rawValue: name) else {
      throw .invalidArgument("no tracker is called \"\(name)\"")
    }
    options.engine.tracker = kind
  }
  if given.log_bytes != 0 { options.logBytes = given.log_bytes }
  if given.log_bytes_max != 0 { options.logBytesMax = given.log_bytes_max }
  let reserved = given.reserved
  guard reserved.0 | reserved.1 | reserved.2 | reserved.3 | reserved.4 == 0 else {
    throw .invalidArgument("options that this version does not know")
  }
  return options
}

@c @implementation
public func volip_pmap(
  _ path: UnsafePointer<CChar>!, _ byteCount: UInt64, _ given: UnsafePointer<volip_options>!
) -> OpaquePointer! {
  result {
    handle(
      try Pool.openOrCreate(
        text(path, "path"), byteCount: byteCount, options: options(given)))
  }
}

@c @implementation
public func volip_open(
  _ path: UnsafePointer<CChar>!, _ given: UnsafePointer<volip_options>!
) -> OpaquePointer! {
  result { handle(try Pool.open(text(path, "path"), options: options(given))) }
}

@c @implementation
public func volip_create(
  _ path: UnsafePointer<CChar>!, _ byteCount: UInt64, _ given: UnsafePointer<volip_options>!
) -> OpaquePointer! {
  result {
    handle(try Pool.create(text(path, "path"), byteCount: byteCount, options: options(given)))
  }
}

@c @implementation
public func volip_close(_ given: OpaquePointer!) -> volip_code {
  code {
    let closed = try pool(given)
    do throws(PoolError) {
      try closed.close()
    } catch {
      if case .nestedSection = error { throw error }
      Unmanaged.passUnretained(closed).release()
      throw error
    }
    Unmanaged.passUnretained(closed).release()
  }
}

@c @implementation
public func volip_base(_ given: OpaquePointer!) -> UnsafeMutableRawPointer! {
  result { UnsafeMutableRawPointer(mutating: try pool(given).base) }
}

/// The trackers' names for C: they live as long as the process.
private let trackerNames: [TrackerKind: StaticString] = [
  .pageMapScan: "page-map-scan", .writeProtect: "write-protect", .dirtyBits: "dirty-bits",
  .detectOnWrite: "detect-on-write", .adaptive: "adaptive", .dirtyLog: "dirty-log",
]

@c @implementation
public func volip_tracker(_ given: OpaquePointer!) -> UnsafePointer<CChar>! {
  result {
    guard let name = trackerNames[try pool(given).tracker] else { return nil }
    return UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self)
  } ?? nil
}

@c @implementation
public func volip_grow(_ given: OpaquePointer!, _ byteCount: UInt64) -> volip_code {
  code { try pool(given).grow(byteCount: byteCount) }
}

@c @implementation
public func volip_check(
  _ given: OpaquePointer!, _ blockCount: UnsafeMutablePointer<UInt64>!,
  _ byteCount: UnsafeMutablePointer<UInt64>!
) -> volip_code {
  code {
    let report = try pool(given).checkHeap()
    if let problem = report.problems.first {
      throw PoolError.damagedHeap(offset: problem.offset.bytes, reason: problem.reason)
    }
    blockCount?.pointee = UInt64(report.blocks.count)
    byteCount?.pointee = UInt64(report.allocatedBytes)
  }
}

@c @implementation
public func volip_enter() -> volip_code {
  code { try VirtualMachine.enter() }
}

@c @implementation
public func volip_is_guest() -> Int32 { VirtualMachine.isEntered ? 1 : 0 }
