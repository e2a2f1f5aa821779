// swift-format-ignore-file: AlwaysUseLowerCamelCase
// Allocation: blocks of the pool whose section the calling thread has open.
//
// An allocation is one load of the thread's register, then the heap's own quick path; errors are
// made into words elsewhere.

import CVolip

/// The pool of the thread's section.
@inline(__always)
func sectionPool() throws(PoolError) -> Pool {
  guard let handle = cvf_section_pool() else { throw .noSection }
  // SAFETY: a handle whose section is open was not closed.
  return Unmanaged<Pool>.fromOpaque(UnsafeRawPointer(handle)).takeUnretainedValue()
}

@inline(never)
private func keep(_ error: PoolError) -> volip_code {
  let failure = failure(error)
  failure.keep()
  return failure.code
}

@c @implementation
public func volip_allocate(_ byteCount: Int) -> UnsafeMutableRawPointer! {
  do throws(PoolError) {
    return try sectionPool().allocate(byteCount: byteCount)
  } catch {
    _ = keep(error)
    return nil
  }
}

@c @implementation
public func volip_allocate_aligned(
  _ byteCount: Int, _ alignment: Int
) -> UnsafeMutableRawPointer! {
  do throws(PoolError) {
    return try sectionPool().allocate(byteCount: byteCount, alignment: alignment)
  } catch {
    _ = keep(error)
    return nil
  }
}

@c @implementation
public func volip_free(_ address: UnsafeMutableRawPointer!) -> volip_code {
  guard let address else { return VOLIP_OK }
  do throws(PoolError) {
    try sectionPool().deallocate(address)
    return VOLIP_OK
  } catch {
    return keep(error)
  }
}

@c @implementation
public func volip_reallocate(
  _ address: UnsafeMutableRawPointer!, _ byteCount: Int
) -> UnsafeMutableRawPointer! {
  guard let address else { return volip_allocate(byteCount) }
  do throws(PoolError) {
    return try sectionPool().reallocate(address, byteCount: byteCount)
  } catch {
    _ = keep(error)
    return nil
  }
}

@c @implementation
public func volip_usable_bytes(_ address: UnsafeRawPointer!) -> Int {
  result {
    guard let address else { throw PoolError.invalidArgument("NULL in place of a block") }
    return try sectionPool().usableBytes(address)
  } ?? 0
}
