// HeapHeader: page 0 of persistent memory.
//
//   byte  size  field
//      0     8  magic "VOLIHEAP"
//      8     8  version, 1
//     16     8  page limit: pages that the page tables describe
//     24     8  high-water mark: pages from it on were never used
//     32     8  page table count, 1 to 16
//     40     8  first root page, 0 for none
//     48     8  zero
//     56     8  checksum of the line's other words
//     64   256  page tables: first page, page count, page of the table, zero (4 bytes each)
//    320   128  free runs: for each power of two, the first free run of at least that many pages
//    448   160  slabs: for each size class, the first slab with a free block
//   1024     8  arena count, 0 to 128
//   1032     8  each arena: first page, page count (4 bytes each)
//   2056     8  of an arena: blocks of others that its lane freed, the first; each names the next
//   2064     8  how many they are
//
// A page index of 0 means none: page 0 is this one.

import CVolipPersistence

struct HeapHeader {
  static let magic: UInt64 = 0x5041_4548_494C_4F56  // "VOLIHEAP", little-endian
  static let version: UInt64 = 1
  static let pageTablesMax = 16
  static let highWaterByte = 24
  static let pageTablesByte = 64
  static let runBinsByte = 320
  static let runBinCount = 32
  static let slabHeadsByte = 448
  static let arenasByte = 1024
  static let arenasMax = 128
  static let deferredByte = 2056

  let memory: HeapMemory

  private func word(_ index: Int) -> UInt64 { memory.load(index * 8, as: UInt64.self) }

  private func setWord(_ index: Int, _ value: UInt64) {
    memory.store(value, index * 8)
    memory.store(checksum, 56)
  }

  private var checksum: UInt64 {
    (0..<7).reduce(Self.magic) { cvp_mix($0 ^ word($1)) }
  }

  var isFormatted: Bool { word(0) != 0 || word(7) != 0 }
  /// Whether the page is as the file had it when it was made: a heap may be made here.
  var isBlank: Bool {
    (0..<DurableMemory.pageBytes / 8).allSatisfy { memory.load($0 * 8, as: UInt64.self) == 0 }
  }
  var pageLimit: Int { Int(truncatingIfNeeded: word(2)) }
  var highWater: Int { Int(truncatingIfNeeded: word(3)) }
  var pageTableCount: Int { Int(truncatingIfNeeded: word(4)) }
  var rootPage: Int { Int(truncatingIfNeeded: word(5)) }

  func setPageLimit(_ value: Int) { setWord(2, UInt64(value)) }
  func setHighWater(_ value: Int) { setWord(3, UInt64(value)) }
  func setPageTableCount(_ value: Int) { setWord(4, UInt64(value)) }
  func setRootPage(_ value: Int) { setWord(5, UInt64(value)) }

  var arenaCount: Int {
    Int(truncatingIfNeeded: memory.load(Self.arenasByte, as: UInt64.self))
  }

  /// The pages of an arena, as they stand there.
  func arena(_ index: Int) -> (first: Int, count: Int) {
    let byte = Self.arenasByte + 8 + index * 8
    return (
      Int(memory.load(byte, as: UInt32.self)), Int(memory.load(byte + 4, as: UInt32.self))
    )
  }

  func appendArena(first: Int, count: Int) {
    let index = arenaCount
    precondition(index < Self.arenasMax)
    memory.store(UInt32(first), Self.arenasByte + 8 + index * 8)
    memory.store(UInt32(count), Self.arenasByte + 12 + index * 8)
    memory.store(UInt64(index + 1), Self.arenasByte)
  }

  /// Offset in the pool of the first block that a lane freed in arenas of others.
  var deferredFirst: UInt64 { memory.load(Self.deferredByte, as: UInt64.self) }
  var deferredCount: UInt64 { memory.load(Self.deferredByte + 8, as: UInt64.self) }

  func setDeferred(first: UInt64, count: UInt64) {
    memory.store(first, Self.deferredByte)
    memory.store(count, Self.deferredByte + 8)
  }

  func format() {
    setWord(1, Self.version)
    setWord(0, Self.magic)
  }

  /// What is wrong with the header's own line, or nil. Everything else may be used after this.
  func contradiction(pageCount: Int) -> String? {
    guard word(0) == Self.magic else { return "no heap header" }
    guard word(7) == checksum || isRemoved(.heapHeaderCheck) else { return "heap header checksum" }
    guard word(1) == Self.version else { return "heap version \(word(1))" }
    guard word(2) <= UInt64(pageCount), word(3) <= word(2), word(3) > 0 else {
      return "more pages in use than the pool has"
    }
    guard (1...UInt64(Self.pageTablesMax)).contains(word(4)) else { return "page table count" }
    guard word(5) < word(3) else { return "root page" }
    return nil
  }
}
