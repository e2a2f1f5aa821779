// The heap by address, as programs use it.
//
// SAFETY: an address is only compared and turned into an offset, which is then checked like one
// that was read from the pool.

extension Heap {
  /// Memory for `byteCount` bytes, aligned to `alignment` (a power of two up to 4,096), with any
  /// content. Zero bytes get a block of their own too.
  ///
  /// - Throws: `.poolFull`, `.noSection`, `.damagedHeap`.
  @inlinable @inline(__always)
  public func allocate(
    byteCount: Int, alignment: Int = 16
  ) throws(PoolError) -> UnsafeMutableRawPointer {
    if alignment == 16, let block = takeOrdinary(byteCount: byteCount) { return block }
    return try takeAddress(byteCount: byteCount, alignment: alignment)
  }

  @usableFromInline
  func takeAddress(
    byteCount: Int, alignment: Int
  ) throws(PoolError) -> UnsafeMutableRawPointer {
    try engine.withHeapLock { () throws(PoolError) in
      memory.address(try take(byteCount: byteCount, alignment: alignment))
    }
  }

  /// Gives a block back. A section that frees a block may get it again at once; others may when
  /// this one is durable, because sections are exclusive (rule 9).
  ///
  /// - Throws: `.notAllocated` for anything but the start of an allocated block.
  @inlinable @inline(__always)
  public func deallocate(_ address: UnsafeRawPointer) throws(PoolError) {
    if giveOrdinary(address) { return }
    try giveAddress(address)
  }

  @usableFromInline
  func giveAddress(_ address: UnsafeRawPointer) throws(PoolError) {
    let offset = try offset(address)
    try engine.withHeapLock { () throws(PoolError) in try give(offset) }
  }

  /// A block of another size with the same first bytes.
  public func reallocate(
    _ address: UnsafeRawPointer, byteCount: Int
  ) throws(PoolError) -> UnsafeMutableRawPointer {
    try requireWritable()
    let offset = try offset(address)
    return try engine.withHeapLock { () throws(PoolError) in
      memory.address(try reallocate(offset, byteCount: byteCount))
    }
  }

  /// Bytes that may be used at an allocated block's address.
  public func usableBytes(_ address: UnsafeRawPointer) throws(PoolError) -> Int {
    let offset = try offset(address)
    guard let engineIfOpen else { return try usableBytes(offset) }
    return try engineIfOpen.withHeapLock { () throws(PoolError) in try usableBytes(offset) }
  }

  private func offset(_ address: UnsafeRawPointer) throws(PoolError) -> Int {
    guard let offset = memory.offset(address) else {
      throw .invalidArgument("an address outside the pool")
    }
    return offset
  }
}
