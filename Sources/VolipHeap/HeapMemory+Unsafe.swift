// HeapMemory: persistent memory as the heap reads and writes it: little-endian words at offsets.

@_exported import VolipCommit

struct HeapMemory {
  let base: UnsafeMutableRawPointer
  let byteCount: Int
  /// Where stores are announced; nil for page-tracked memory.
  var announced: AnnouncedWrites? = nil

  /// Reads a word. Offsets that come from the pool are checked by the caller; this check is the
  /// last one, against our own mistakes.
  @inline(__always)
  func load<T: FixedWidthInteger & BitwiseCopyable>(_ offset: Int, as type: T.Type) -> T {
    precondition(offset >= 0 && offset <= byteCount - MemoryLayout<T>.size)
    // SAFETY: inside the working copy; every field is naturally aligned.
    return T(littleEndian: base.load(fromByteOffset: offset, as: T.self))
  }

  @inline(__always)
  func store<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, _ offset: Int) {
    precondition(offset >= 0 && offset <= byteCount - MemoryLayout<T>.size)
    // SAFETY: as above, and a section is open.
    base.storeBytes(of: value.littleEndian, toByteOffset: offset, as: T.self)
    announced?.announce(base + offset, byteCount: MemoryLayout<T>.size)
  }

  func address(_ offset: Int) -> UnsafeMutableRawPointer {
    precondition(offset >= 0 && offset < byteCount)
    return base + offset
  }

  /// The offset of an address, or nil outside the pool.
  @inline(__always)
  func offset(_ address: UnsafeRawPointer) -> Int? {
    let offset = address - UnsafeRawPointer(base)
    return offset >= 0 && offset < byteCount ? offset : nil
  }

  func copy(from: Int, to: Int, byteCount: Int) {
    address(to).copyMemory(from: address(from), byteCount: byteCount)
    if byteCount > 0 { announced?.announce(address(to), byteCount: byteCount) }
  }

  /// The first of some pages that cannot be read, or nil: before metadata is walked.
  func unreadablePage(in pages: Range<Int>) -> Int? {
    guard !pages.isEmpty,
      !FailedPages.canRead(address(pages.lowerBound << 12), byteCount: pages.count << 12)
    else { return nil }
    return pages.first { !FailedPages.canRead(address($0 << 12), byteCount: 4096) }
  }
}
