// PageTable: what each page of the heap is: 16 bytes a page, packed, so that one written page of
// the table stands for 1 MiB of heap.
//
//   byte  size  field
//      0     1  kind
//      1     1  size class of a slab
//      2     2  check: 16 bits of a hash of the other fields and the page index
//      4     4  length: pages of the run, or the distance to its first page
//      8     4  next page in the list that the run is in
//     12     4  previous page in that list
//
// Invariants
// 1. Runs tile the pages below the high-water mark: a head with its length, then the next head.
// 2. Inside a run every entry is `.interior` with length zero, but for the last of any other
//    run of two pages or more (`.freeTail`, `.largeTail`, the run's length) and all of a slab
//    (`.slabInterior`, distance to the head).

import CVolipPersistence

enum PageKind: UInt8 {
  case interior = 0
  case free = 1
  case freeTail = 2
  case slab = 3
  case slabInterior = 4
  case large = 5
  case largeTail = 6
  /// Header, page tables, root pages.
  case metadata = 7
  /// Announced memory, with a heap of its own (AnnouncedHeap).
  case arena = 8
}

package struct PageEntry: Equatable {
  var kind: PageKind
  var sizeClass: UInt8 = 0
  var length: Int = 0
  var next: Int = 0
  var previous: Int = 0

  static let byteCount = 16

  fileprivate func words(page: Int) -> (UInt64, UInt64) {
    let first =
      UInt64(kind.rawValue) | UInt64(sizeClass) << 8 | UInt64(UInt32(length)) << 32
    let second = UInt64(UInt32(next)) | UInt64(UInt32(previous)) << 32
    return (first | Self.check(first, second, page: page) << 16, second)
  }

  /// The check of an entry's two words, the check's own bits zero. `package`: tests forge entries.
  package static func check(_ first: UInt64, _ second: UInt64, page: Int) -> UInt64 {
    // Three odd multipliers, then the high bits: 16 of them are as good as the best hash's.
    let sum =
      first &* 0x9E37_79B9_7F4A_7C15 ^ second &* 0xC2B2_AE3D_27D4_EB4F
      ^ UInt64(page) &* 0x1656_67B1_9E37_79F9
    return ((sum ^ sum >> 32) &* 0x9FB2_1C65_1E98_DF25) >> 48
  }
}

/// One stretch of pages and where its entries are.
struct PageTableSegment: Equatable {
  let firstPage: Int
  let pageCount: Int
  let tablePage: Int
}

struct PageTable {
  let memory: HeapMemory
  private(set) var segments: PageTableSegments.List
  /// Pages that the segments describe.
  private(set) var pageLimit: Int
  /// The first segment again: its pages, and where its table begins.
  private var firstSegmentPages = 0
  private var firstTableByte = 0

  /// Reads the segments from a header whose own line was checked, into memory that outlives the
  /// table. An older table in the same memory is not to be used any more.
  init(_ header: HeapHeader, in store: PageTableSegments) throws(PoolError) {
    memory = header.memory
    segments = store.list
    pageLimit = 0
    for index in 0..<header.pageTableCount {
      let segment = Self.read(memory, index)
      let tablePages = Self.tablePages(segment.pageCount)
      guard segment.firstPage == pageLimit, segment.pageCount > 0,
        segment.pageCount <= header.pageLimit - pageLimit,
        segment.tablePage >= segment.firstPage, tablePages <= segment.pageCount,
        segment.tablePage - segment.firstPage <= segment.pageCount - tablePages,
        // Not over the header, and in memory that is watched.
        segment.tablePage > 0, segment.tablePage + tablePages <= header.highWater,
        memory.load(HeapHeader.pageTablesByte + index * 16 + 12, as: UInt32.self) == 0
      else {
        throw .damagedHeap(
          offset: UInt64(HeapHeader.pageTablesByte + index * 16), reason: "page table segment")
      }
      segments.append(segment)
      pageLimit += segment.pageCount
    }
    guard pageLimit == header.pageLimit, pageLimit <= memory.byteCount >> 12 else {
      throw .damagedHeap(offset: 16, reason: "page limit differs from the page tables")
    }
    firstSegmentPages = segments[0].pageCount
    firstTableByte = segments[0].tablePage * 4096
  }

  static func tablePages(_ pageCount: Int) -> Int {
    (pageCount * PageEntry.byteCount + 4095) / 4096
  }

  private static func read(_ memory: HeapMemory, _ index: Int) -> PageTableSegment {
    let byte = HeapHeader.pageTablesByte + index * 16
    return PageTableSegment(
      firstPage: Int(memory.load(byte, as: UInt32.self)),
      pageCount: Int(memory.load(byte + 4, as: UInt32.self)),
      tablePage: Int(memory.load(byte + 8, as: UInt32.self)))
  }

  static func write(_ memory: HeapMemory, _ index: Int, _ segment: PageTableSegment) {
    let byte = HeapHeader.pageTablesByte + index * 16
    memory.store(UInt32(segment.firstPage), byte)
    memory.store(UInt32(segment.pageCount), byte + 4)
    memory.store(UInt32(segment.tablePage), byte + 8)
    memory.store(UInt32(0), byte + 12)
  }

  @inline(__always)
  private func entryOffset(_ page: Int) -> Int {
    // Nearly every pool never grew: one comparison instead of a search.
    if UInt(bitPattern: page) < UInt(bitPattern: firstSegmentPages) {
      return firstTableByte + page * PageEntry.byteCount
    }
    return laterEntryOffset(page)
  }

  /// The offset of the entry of a page of the first segment, or nil for any other page.
  @inline(__always)
  func firstSegmentEntry(_ page: Int) -> Int? {
    guard UInt(bitPattern: page) < UInt(bitPattern: firstSegmentPages) else { return nil }
    return firstTableByte &+ page &* PageEntry.byteCount
  }

  @inline(never)
  private func laterEntryOffset(_ page: Int) -> Int {
    precondition(page >= 0 && page < pageLimit)
    var index = 0
    while page >= segments[index].firstPage + segments[index].pageCount { index += 1 }
    let segment = segments[index]
    return segment.tablePage * 4096 + (page - segment.firstPage) * PageEntry.byteCount
  }

  /// The size class of a slab that begins at a page, or nil: the quick look that most frees need.
  @inline(__always)
  func slabClass(_ page: Int) -> Int? {
    guard page >= 0, page < pageLimit else { return nil }
    let offset = entryOffset(page)
    return slabClass(
      page, first: memory.load(offset, as: UInt64.self),
      second: memory.load(offset + 8, as: UInt64.self))
  }

  /// The same from the two words of the page's entry.
  @inline(__always)
  func slabClass(_ page: Int, first: UInt64, second: UInt64) -> Int? {
    guard UInt8(truncatingIfNeeded: first) == PageKind.slab.rawValue,
      first >> 16 & 0xFFFF == PageEntry.check(first & ~0xFFFF_0000, second, page: page)
    else { return nil }
    return Int(first >> 8 & 0xFF)
  }

  /// The entry of a page below the limit. Every list link in it is below the limit too.
  @inline(__always)
  subscript(page: Int) -> PageEntry {
    get throws(PoolError) {
      guard page >= 0, page < pageLimit else {
        throw .damagedHeap(offset: UInt64(max(page, 0)) << 12, reason: "page index out of range")
      }
      let offset = entryOffset(page)
      let first = memory.load(offset, as: UInt64.self)
      let second = memory.load(offset + 8, as: UInt64.self)
      let next = Int(second & 0xFFFF_FFFF)
      let previous = Int(second >> 32)
      guard let kind = PageKind(rawValue: UInt8(truncatingIfNeeded: first)),
        next < pageLimit, previous < pageLimit,
        first >> 16 & 0xFFFF == PageEntry.check(first & ~0xFFFF_0000, second, page: page)
          || first | second == 0 || isRemoved(.pageEntryCheck)
      else {
        throw .damagedHeap(offset: UInt64(offset), reason: "page table entry of page \(page)")
      }
      return PageEntry(
        kind: kind, sizeClass: UInt8(truncatingIfNeeded: first >> 8), length: Int(first >> 32),
        next: next, previous: previous)
    }
  }

  @inline(__always)
  func set(_ page: Int, _ entry: PageEntry) {
    let offset = entryOffset(page)
    let (first, second) = entry == PageEntry(kind: .interior) ? (0, 0) : entry.words(page: page)
    memory.store(first, offset)
    memory.store(second, offset + 8)
  }

  /// The offset of a page's entry, for messages.
  /// Describes a new run of metadata. Inside it a file that nobody has forged has zeros: entries
  /// that are no zeros alone are written, so that the table's pages stay holes.
  func setMetadata(_ pages: Range<Int>) {
    set(pages.lowerBound, PageEntry(kind: .metadata, length: pages.count))
    for page in pages.dropFirst().dropLast() {
      let offset = entryOffset(page)
      let first = memory.load(offset, as: UInt64.self)
      let second = memory.load(offset + 8, as: UInt64.self)
      if first | second != 0 { set(page, PageEntry(kind: .interior)) }
    }
    if pages.count > 1 {
      set(pages.upperBound - 1, PageEntry(kind: .largeTail, length: pages.count))
    }
  }

  func offset(ofEntry page: Int) -> UInt64 { UInt64(entryOffset(page)) }
}
