// What the collections ask of a section.
//
// SAFETY: the addresses here are those of blocks that the caller took from announced memory.

extension Section {
  /// See `AnnouncedWrites.sectionNumber`: what says it was allocated in the section of this number
  /// was allocated in this one.
  @inlinable @inline(__always)
  var number: UInt64 { announced.sectionNumber }

  /// A block for a collection's header, initialized and announced.
  @inlinable
  mutating func allocateHeader<Header: BitwiseCopyable>(
    _ header: Header
  ) throws(PoolError) -> UnsafeMutablePointer<Header> {
    let block = try allocateAnnounced(byteCount: MemoryLayout<Header>.size, alignment: 16)
    let pointer = block.assumingMemoryBound(to: Header.self)
    pointer.initialize(to: header)
    announce(pointer, byteCount: MemoryLayout<Header>.size)
    return pointer
  }

  /// Announces the word at a byte of a header.
  @inlinable @inline(__always)
  mutating func announceWord(_ header: UnsafeRawPointer, at byte: Int) {
    announce(header + byte, byteCount: 8)
  }

  /// Takes back what was announced of a block that this section allocated and is about to free.
  @usableFromInline
  mutating func forget(_ address: UnsafeRawPointer, byteCount: Int) {
    requireOpen()
    // An audit finds them in later sections, and nobody to announce them.
    if byteCount >= Self.forgetBytesMin, !pool.isAudited {
      announced.forget(address, byteCount: byteCount)
    }
  }

  /// Below it looking through the list costs more than logging the bytes.
  static let forgetBytesMin = 4096

  func usableBytes(_ address: UnsafeRawPointer) throws(PoolError) -> Int {
    try heap.takeUnretainedValue().usableBytes(address)
  }
}
