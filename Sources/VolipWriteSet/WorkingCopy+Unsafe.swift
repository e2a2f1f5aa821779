// WorkingCopy: persistent memory as the program sees it, at the pool's base address.
//
// A private mapping of the image: clean pages are the image itself, the first write to a page makes
// a private one. Pages are readable and not writable until a tracker watches them.
//
// Invariants
// 1. Outside sections every page equals its image, but for announced pages, whose image may lack
//    what live records of the log have.
// 2. It is not inherited by forked children (rule 19).

import CVolipPersistence
import Glibc

/// The image as bytes to compare with: the shared mapping of the pool file from its image offset.
public struct ImageView {
  let base: UnsafeRawPointer

  /// - Parameter base: first byte of the image in this process, page-aligned.
  public init(base: UnsafeRawPointer) { self.base = base }
}

public final class WorkingCopy {
  public let base: UnsafeMutableRawPointer
  @exclusivity(unchecked) public private(set) var pageCount: Int
  private var isMapped = true
  /// Pages of announced memory, ascending, which no tracker watches: runs of many pages, and few.
  @exclusivity(unchecked) public private(set) var announcedPages: [Range<Int>] = []
  /// Pages of which what was written is lost; they have been dropped.
  package let failedPages: FailedPages
  static let pageBytes = DurableMemory.pageBytes

  private init(base: UnsafeMutableRawPointer, pageCount: Int) throws(PoolError) {
    self.base = base
    self.pageCount = pageCount
    do throws(PoolError) {
      failedPages = try FailedPages(
        CVP_MEDIA_PRIVATE, base, byteCount: pageCount * Self.pageBytes)
    } catch {
      munmap(base, pageCount * Self.pageBytes)
      throw error
    }
  }

  /// Maps `geometry`'s image at its base address.
  public static func map(
    descriptor: Int32, geometry: PoolGeometry
  ) throws(PoolError) -> WorkingCopy {
    try mapFixed(
      descriptor, address: geometry.baseAddress, fileOffset: geometry.imageOffset,
      byteCount: geometry.imageBytes, replacing: false)
    // SAFETY: the address was mapped a moment ago.
    let base = UnsafeMutableRawPointer(bitPattern: UInt(geometry.baseAddress))!
    return try WorkingCopy(base: base, pageCount: Int(geometry.pageCount))
  }

  /// Maps a whole file wherever there is room: for measurements and tests of trackers.
  public static func mapAnywhere(
    descriptor: Int32, pageCount: Int
  ) throws(PoolError) -> WorkingCopy {
    let flags = MAP_PRIVATE | MAP_NORESERVE
    let answer = try require("mmap") {
      Int(bitPattern: mmap(nil, pageCount * pageBytes, PROT_READ, flags, descriptor, 0))
    }
    // SAFETY: mapped a moment ago.
    let mapped = UnsafeMutableRawPointer(bitPattern: answer)!
    madvise(mapped, pageCount * pageBytes, MADV_DONTFORK)
    return try WorkingCopy(base: mapped, pageCount: pageCount)
  }

  private static func mapFixed(
    _ descriptor: Int32, address: UInt64, fileOffset: UInt64, byteCount: UInt64, replacing: Bool
  ) throws(PoolError) {
    let mapFixedNoReplace: Int32 = 0x100000  // not in Swift's view of the C library
    let flags = MAP_PRIVATE | MAP_NORESERVE | (replacing ? MAP_FIXED : mapFixedNoReplace)
    let wanted = UnsafeMutableRawPointer(bitPattern: UInt(address))
    let answer = attempt("mmap") {
      Int(bitPattern: mmap(wanted, Int(byteCount), PROT_READ, flags, descriptor, off_t(fileOffset)))
    }
    guard answer >= 0, let mapped = UnsafeMutableRawPointer(bitPattern: answer) else {
      switch Int32(-answer) {
      case EEXIST: throw .addressTaken(address: address, bytes: byteCount)
      case ENOMEM: throw .addressSpaceExhausted(bytes: byteCount)
      default: throw .system(operation: "mmap", errorNumber: Int32(-answer))
      }
    }
    guard mapped == wanted else {  // kernels before MAP_FIXED_NOREPLACE take it as a hint
      munmap(mapped, Int(byteCount))
      throw .addressTaken(address: address, bytes: byteCount)
    }
    // Not inherited (rule 19); single pages so that one write copies 4 KiB and not 2 MiB.
    do throws(PoolError) {
      if !isRemoved(.memoryNotInherited) {
        try require("madvise") { Int(madvise(mapped, Int(byteCount), MADV_DONTFORK)) }
      }
    } catch {
      if !replacing { munmap(mapped, Int(byteCount)) }
      throw error
    }
    madvise(mapped, Int(byteCount), MADV_NOHUGEPAGE)
  }

  deinit {
    unmap()
  }

  /// Gives the addresses back before the last reference goes. Nothing may use them any more.
  public func unmap() {
    guard isMapped else { return }
    isMapped = false
    failedPages.stop()
    munmap(base, pageCount * Self.pageBytes)
  }

  /// Takes the addresses that a grown image needs behind the present ones. Nothing is replaced: if
  /// they are taken, nothing has changed.
  public func reserve(descriptor: Int32, geometry: PoolGeometry) throws(PoolError) {
    let oldBytes = UInt64(pageCount * Self.pageBytes)
    precondition(geometry.imageBytes > oldBytes)
    try Self.mapFixed(
      descriptor, address: geometry.baseAddress + oldBytes,
      fileOffset: geometry.imageOffset + oldBytes, byteCount: geometry.imageBytes - oldBytes,
      replacing: false)
  }

  /// Maps a grown image over what `reserve` took. Every page must be clean. Readers may go on
  /// meanwhile. After an error no tracker knows what it watches any more: no section may follow.
  public func remap(descriptor: Int32, geometry: PoolGeometry) throws(PoolError) {
    let oldBytes = pageCount * Self.pageBytes
    do throws(PoolError) {
      try Self.mapFixed(
        descriptor, address: geometry.baseAddress, fileOffset: geometry.imageOffset,
        byteCount: geometry.imageBytes, replacing: true)
      try failedPages.watchInstead(
        CVP_MEDIA_PRIVATE, base, byteCount: Int(geometry.imageBytes))
    } catch {
      munmap(base + oldBytes, Int(geometry.imageBytes) - oldBytes)
      throw error
    }
    pageCount = Int(geometry.pageCount)
  }

  /// Makes a run of pages announced memory: then the tracker is to release it.
  public func addAnnounced(_ pages: Range<Int>) {
    announcedPages.append(pages)
    announcedPages.sort { $0.lowerBound < $1.lowerBound }
  }

  /// Takes back what the last section that was rolled back added: then the tracker is to reclaim
  /// it.
  public func removeAnnounced(_ pages: Range<Int>) {
    announcedPages.removeAll { $0 == pages }
  }

  /// Calls `body` for each run of pages below `limit` that trackers watch.
  @inline(__always)
  func forEachTracked<Failure: Error>(
    _ pages: Range<Int>, _ body: (Range<Int>) throws(Failure) -> Void
  ) throws(Failure) {
    guard !isRemoved(.announcedGaps) else { return try body(pages) }
    var start = pages.lowerBound
    for run in announcedPages where run.upperBound > start && run.lowerBound < pages.upperBound {
      if start < run.lowerBound { try body(start..<run.lowerBound) }
      start = run.upperBound
    }
    if start < pages.upperBound { try body(start..<pages.upperBound) }
  }

  /// Calls `body` for each run of pages that arming goes over: those that `writeSet` does not
  /// retain and up to `gapPagesMax` others between them, but no announced ones, whose image waits
  /// for a checkpoint.
  @inline(__always)
  func forEachRunToArm<Failure: Error>(
    _ writeSet: WriteSet, gapPagesMax: Int, _ body: (Range<Int>) throws(Failure) -> Void
  ) throws(Failure) {
    try writeSet.forEachRun(
      gapPagesMax: gapPagesMax, where: { !writeSet.isRetained($0) }
    ) { (run) throws(Failure) in
      try forEachTracked(run, body)
    }
  }

  /// The first of some pages that cannot be read, or nil: for walks through metadata.
  package func unreadablePage(in pages: Range<Int>) -> Int? {
    guard !pages.isEmpty,
      !FailedPages.canRead(address(page: pages.lowerBound), byteCount: pages.count * Self.pageBytes)
    else { return nil }
    return pages.first { !FailedPages.canRead(address(page: $0), byteCount: Self.pageBytes) }
  }

  /// Takes away what stands in for pages that the file does not have: who reads them gets SIGBUS as
  /// from any file. No section may follow.
  package func uncover(descriptor: Int32, geometry: PoolGeometry) throws(PoolError) {
    try Self.mapFixed(
      descriptor, address: geometry.baseAddress, fileOffset: geometry.imageOffset,
      byteCount: UInt64(pageCount * Self.pageBytes), replacing: true)
  }

  /// What a section wrote to a page that failed is lost. The page has been dropped.
  package func requireWhole() throws(PoolError) {
    guard failedPages.isEmpty else {
      throw .memoryFailed(offset: UInt64(failedPages.offsets[0]))
    }
  }

  /// The bytes of some pages.
  func address(page: Int) -> UnsafeMutableRawPointer {
    // SAFETY: page indexes come from trackers, which only know pages below pageCount.
    base + page * Self.pageBytes
  }

  /// The first byte of a line, for the log.
  @inline(__always)
  public func line(_ index: UInt64) -> UnsafeRawPointer {
    UnsafeRawPointer(base + Int(index) * DurableMemory.lineBytes)
  }

  /// Which lines of a page differ from the image: bit i for line i. `next` is the page that will be
  /// asked for after this one; its lines are loaded meanwhile.
  @inline(__always)
  public func difference(page: Int, next: Int, from image: ImageView) -> UInt64 {
    cvp_page_difference(pair(page, image), pair(next, image))
  }

  @inline(__always)
  private func pair(_ page: Int, _ image: ImageView) -> cvp_page_pair {
    // SAFETY: both mappings have pageCount whole pages.
    cvp_page_pair(
      page: base + page * Self.pageBytes, image: image.base + page * Self.pageBytes)
  }

  /// Copies the changed lines of a compared write set back from the image. Its pages must not be
  /// armed.
  public func restore(_ writeSet: WriteSet, from image: ImageView) {
    writeSet.forEachExtent { extent in
      let offset = Int(extent.firstLine) * DurableMemory.lineBytes
      // SAFETY: extents lie in pages of the write set, which both mappings have.
      (base + offset).copyMemory(
        from: image.base + offset, byteCount: extent.lineCount * DurableMemory.lineBytes)
    }
  }

  /// Gives private pages back, so that the next access finds the image: rollback for written pages
  /// and memory reclaim for clean ones. Only with the gate closed (rule 15).
  public func drop(_ pages: Range<Int>) throws(PoolError) {
    let (start, byteCount) = (address(page: pages.lowerBound), pages.count * Self.pageBytes)
    let dropped = attempt("madvise") { Int(madvise(start, byteCount, MADV_DONTNEED)) }
    if dropped == 0 { return }
    // A program that locked its memory (mlockall) needs another word for it, Linux 5.18.
    let dropLocked: Int32 = 24
    guard dropped == -Int(EINVAL) else {
      throw .system(operation: "madvise", errorNumber: Int32(-dropped))
    }
    try require("madvise") { Int(madvise(start, byteCount, dropLocked)) }
  }

  /// Lets pages be written, as far as a tracker allows.
  func makeWritable(_ pages: Range<Int>) throws(PoolError) {
    try protect(pages, PROT_READ | PROT_WRITE)
  }

  func makeReadOnly(_ pages: Range<Int>) throws(PoolError) {
    try protect(pages, PROT_READ)
  }

  private func protect(_ pages: Range<Int>, _ protection: Int32) throws(PoolError) {
    try require("mprotect") {
      Int(mprotect(address(page: pages.lowerBound), pages.count * Self.pageBytes, protection))
    }
  }
}
