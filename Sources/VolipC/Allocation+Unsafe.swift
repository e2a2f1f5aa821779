// swift-format-ignore-file: AlwaysUseLowerCamelCase
// Allocation: blocks of the pool whose section the calling thread has open.
//
// An allocation is one load of the thread's register, then the heap's own quick path; errors are
// made into words elsewhere.

import CVolip

/// The pool of the thread's section.
func sectionPool() throws(PoolError) -> Pool {
  guard let handle = cvf_section_pool() else { throw .noSection }
  // SAFETY: a handle whose section is open was not closed.
  return Unmanaged<Pool>.fromOpaque(UnsafeRawPointer(handle)).takeUnretainedValue()
}

/// What the heap's quick path makes of it, or nil; without counting references, which would cost
/// more than the rest.
@inline(__always)
private func quickly<Result>(_ body: (Heap) -> Result?) -> Result? {
  guard let handle = cvf_section_pool() else { return nil }
  // SAFETY: the handle holds the pool, and the pool its heap, longer than the section.
  return Unmanaged<Pool>.fromOpaque(UnsafeRawPointer(handle))._withUnsafeGuaranteedRef {
    body($0.heap)
  }
}

@c @implementation
public func volip_allocate(_ byteCount: Int) -> UnsafeMutableRawPointer! {
  quickly { $0.takeOrdinary(byteCount: byteCount) } ?? allocate(byteCount, 16)
}

@inline(never)
private func allocate(_ byteCount: Int, _ alignment: Int) -> UnsafeMutableRawPointer? {
  result { try sectionPool().allocate(byteCount: byteCount, alignment: alignment) }
}

@c @implementation
public func volip_allocate_aligned(
  _ byteCount: Int, _ alignment: Int
) -> UnsafeMutableRawPointer! {
  allocate(byteCount, alignment)
}

@c @implementation
public func volip_free(_ address: UnsafeMutableRawPointer!) -> volip_code {
  guard let address else { return VOLIP_OK }
  if quickly({ $0.giveOrdinary(address) ? true : nil }) != nil { return VOLIP_OK }
  return free(address)
}

@inline(never)
private func free(_ address: UnsafeMutableRawPointer) -> volip_code {
  code { try sectionPool().deallocate(address) }
}

@c @implementation
public func volip_reallocate(
  _ address: UnsafeMutableRawPointer!, _ byteCount: Int
) -> UnsafeMutableRawPointer! {
  guard let address else { return volip_allocate(byteCount) }
  return result { try sectionPool().reallocate(address, byteCount: byteCount) }
}

@c @implementation
public func volip_usable_bytes(_ address: UnsafeRawPointer!) -> Int {
  result {
    guard let address else { throw PoolError.invalidArgument("NULL in place of a block") }
    return try sectionPool().usableBytes(address)
  } ?? 0
}
