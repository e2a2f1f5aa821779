// swift-format-ignore-file: AlwaysUseLowerCamelCase
// Sections: pstart, pend, pabort, pcommit of the calling thread.
//
// Invariant: cvf_section_pool is the pool of the thread's section while there is one. Only these
// functions open and end sections here; a thread that ends takes both with it.

import CVolip

@c @implementation
public func volip_pstart(_ given: OpaquePointer!) -> volip_code {
  code {
    try pool(given).pstart()
    cvf_set_section_pool(given)
  }
}

/// Runs what may end the thread's section.
private func ending(_ body: (Pool) throws(PoolError) -> Void) -> volip_code {
  code {
    guard let handle = cvf_section_pool() else { throw PoolError.noSection }
    defer { if PoolEngine.ofThisThread == nil { cvf_set_section_pool(nil) } }
    // SAFETY: a handle whose section is open was not closed.
    try body(pool(handle))
  }
}

@c @implementation
public func volip_pend() -> volip_code {
  ending { (pool) throws(PoolError) in try pool.pend() }
}

@c @implementation
public func volip_pabort() -> volip_code {
  ending { (pool) throws(PoolError) in try pool.pabort() }
}

@c @implementation
public func volip_pcommit() -> volip_code {
  ending { (pool) throws(PoolError) in try pool.pcommit() }
}

@c @implementation
public func volip_will_write(_ address: UnsafeRawPointer!, _ byteCount: Int) -> volip_code {
  code {
    guard let address else { throw PoolError.invalidArgument("NULL in place of an address") }
    try sectionPool().willWrite(address, byteCount: byteCount)
  }
}
