// GuestRegion: the 4 KiB entries of one pool's pages in the guest's page table.
//
// The entries of a pool are contiguous in memory, whatever its size; their tables are reserved when
// the pool is opened and built as far as its heap is used.
//
//   not watched   inside a 2 MiB entry, or with an entry of its own, without write permission
//   watched       an entry of its own, with the flags that the tracker gives it
//
// Who may touch what: the thread that has the pool's gate edits entries, in guest mode only (under
// shadow paging edits from the host that take rights away go unseen); any processor sets A and D,
// any fault handler W and LISTED, at any time. Entries of watched pages are therefore changed by
// atomic operations. Rights that were taken away are gone after `flush`.

import CVolimem
import Glibc

/// The upper levels of this process's page table.
public struct MachineTables: TableMemory {
  public init() {}

  public func table(at address: GuestPhysicalAddress) -> UnsafeMutablePointer<UInt64> {
    cvm_table_at(address.value)
  }

  public static var pageTable: PageTable<MachineTables> {
    PageTable(root: GuestPhysicalAddress(cvm_root()), memory: MachineTables())
  }
}

public final class GuestRegion {
  public let pageCount: Int
  /// One entry a page. Those of pages that are not watched may not exist yet and read as 0.
  public let entries: UnsafeMutablePointer<UInt64>
  private let pages: Range<UInt64>
  private let firstBlock: UInt64
  private let tables: TableReservation
  private let region: UnsafeMutablePointer<cvm_region>
  private var consumed: UInt64 = 0
  private var isOpen = true
  /// Entries that led to tables of the machine's own.
  private var splitBefore: [Int: PageTableEntry] = [:]

  private static let pagesPerBlock = 512
  private static let pageBytes: UInt64 = 4096
  private static let blockBytes: UInt64 = 2 << 20

  /// The region of a working copy. Its pages lose write permission.
  public init(base: UnsafeMutableRawPointer, pageCount: Int) throws(PoolError) {
    let address = UInt64(UInt(bitPattern: base))
    self.pageCount = pageCount
    pages = address..<address + UInt64(pageCount) * Self.pageBytes
    firstBlock = address & ~(Self.blockBytes - 1)
    let blockCount = Int((pages.upperBound - firstBlock + Self.blockBytes - 1) / Self.blockBytes)
    let mapped = cvm_map(firstBlock, UInt64(blockCount) * Self.blockBytes)
    guard mapped >= 0 else {
      throw .system(operation: "guest memory slot", errorNumber: Int32(-mapped))
    }
    tables = try TableReservation(blockCount: blockCount, pageCount: pageCount)
    // SAFETY: the reservation has 512 entries for each block, of which the first is firstBlock.
    entries = tables.entries + Int((address - firstBlock) / Self.pageBytes)
    let created = cvm_region_create(
      address, UInt64(pageCount), entries, tables.list, UInt64(tables.listCapacity))
    guard let created else {
      throw .trackerUnavailable(tracker: "guest", reason: "too many open pools")
    }
    region = created
    cvm_stop_in_fault(Int64(killNumber(.pageFault)))
    try protectBlocks()
    flush()
  }

  deinit {
    close()
  }

  private func blockAddress(_ block: Int) -> GuestVirtualAddress {
    GuestVirtualAddress(firstBlock + UInt64(block) * Self.blockBytes)
  }

  private func isWhole(_ block: Int) -> Bool {
    let start = blockAddress(block).value
    return pages.contains(start) && start + Self.blockBytes <= pages.upperBound
  }

  private func isAnotherRegions(_ block: Int) -> Bool {
    let address = blockAddress(block)
    return !MachineTables.pageTable.directoryEntry(for: address).entry.contains(.large)
      && cvm_split_table(address.value) == nil
  }

  /// Whole blocks lose write permission in their 2 MiB entries. Blocks that the pool shares with
  /// its neighbours get tables at once: there may be stacks in them, the processor's own too, which
  /// must not be read-only for a moment.
  private func protectBlocks() throws(PoolError) {
    let table = MachineTables.pageTable
    for block in 0..<tables.blockCount where isAnotherRegions(block) {
      abandon()
      throw .trackerUnavailable(
        tracker: "guest", reason: "another pool has pages in the same 2 MiB")
    }
    for block in 0..<tables.blockCount {
      let leaf = table.directoryEntry(for: blockAddress(block))
      if isWhole(block), leaf.entry.contains(.large) {
        leaf.entry = PageTableEntry(bits: leaf.entry.bits & ~PageTableEntry.Flags.writable.rawValue)
      } else {
        build(block)
      }
    }
  }

  /// A table for a block, if it has none yet. Pages in `range` get `flags` before the processor
  /// sees the table: under shadow paging an edit of one in use costs more than a hundred of others.
  private func build(
    _ block: Int, watching range: Range<Int> = 0..<0, _ flags: PageTableEntry.Flags = []
  ) {
    let table = MachineTables.pageTable
    let address = blockAddress(block)
    let leaf = table.directoryEntry(for: address)
    let before = cvm_split_table(address.value)
    guard leaf.entry.contains(.large) || before != nil else { return }
    let first = leaf.entry.target.value & ~(Self.blockBytes - 1)
    // SAFETY: the reservation has 512 entries for each block.
    let entries = tables.entries + block * Self.pagesPerBlock
    let firstPage = entries - self.entries
    for index in 0..<Self.pagesPerBlock {
      let page = firstPage + index
      let own: PageTableEntry.Flags = range.contains(page) ? flags.union(.readable) : .readable
      let place =
        before.map { PageTableEntry(bits: $0[index]).target }
        ?? GuestPhysicalAddress(first + UInt64(index) * Self.pageBytes)
      entries[index] =
        PageTableEntry(place, (0..<pageCount).contains(page) ? own : [.table, .dirty]).bits
    }
    if before != nil { splitBefore[block] = leaf.entry }
    // Not a walk: the table itself may lie in a block that is split by another pool's table, which
    // is not where `table(at:)` looks.
    let place = cvm_physical(UInt64(UInt(bitPattern: entries)))
    leaf.entry = PageTableEntry(GuestPhysicalAddress(place), .table)
  }

  /// Gives pages entries of their own with `flags` besides the readable ones. To be followed by
  /// `flush` where blocks had been in use as 2 MiB entries.
  public func watch(_ range: Range<Int>, _ flags: PageTableEntry.Flags) {
    guard let last = range.last else { return }
    // SAFETY: these are pages of this region, so their entries are inside the reservation.
    let first = (entries + range.lowerBound - tables.entries) / Self.pagesPerBlock
    for block in first...(entries + last - tables.entries) / Self.pagesPerBlock {
      build(block, watching: range, flags)
    }
    for page in range where entries[page] & flags.rawValue != flags.rawValue {
      cvm_entry_or(entries + page, flags.rawValue)
    }
  }

  @inline(__always)
  public func add(_ flags: PageTableEntry.Flags, to page: Int) {
    cvm_entry_or(entries + page, flags.rawValue)
  }

  /// Returns the entry as it was before.
  @inline(__always) @discardableResult
  public func remove(_ flags: PageTableEntry.Flags, from page: Int) -> PageTableEntry {
    PageTableEntry(bits: cvm_entry_and(entries + page, ~flags.rawValue))
  }

  /// Makes it true for every processor that rights were taken away. No exit if no other thread is
  /// running inside the guest.
  public func flush() {
    if isRemoved(.guestFlush) { return }
    cvm_raise_flush_generation()
    cvm_flush_self()
    cvm_flush_others()
  }

  /// Has system calls mark the pages that they write in `words`, `firstBit` for the first page, and
  /// not in the entries. The words stay mapped for ever.
  func markCalls(in words: UnsafeMutablePointer<UInt64>, firstBit: Int) {
    cvm_region_mark_in(region, words, UInt64(firstBit))
  }

  // MARK: The list of granted pages

  /// Pages that fault handlers have listed since the last `takeListed`; some perhaps twice.
  public var listedCount: Int { Int(cvm_region_listed(region) - consumed) }

  public func takeListed(_ body: (Int) -> Void) {
    let end = cvm_region_listed(region)
    while consumed < end {
      body(Int(cvm_region_take(region, consumed)))
      consumed += 1
    }
  }

  /// For a region that has changed no entry: what is there belongs to others.
  private func abandon() {
    isOpen = false
    cvm_region_destroy(region)
    tables.release()
  }

  /// Gives the addresses back to 2 MiB entries. The pages must not be used any more.
  public func close() {
    guard isOpen else { return }
    isOpen = false
    cvm_region_destroy(region)
    for block in 0..<tables.blockCount {
      let leaf = MachineTables.pageTable.directoryEntry(for: blockAddress(block))
      let target =
        leaf.entry.contains(.large)
        ? GuestPhysicalAddress(leaf.entry.target.value & ~(Self.blockBytes - 1))
        : PageTableEntry(bits: tables.entries[block * Self.pagesPerBlock]).target
      leaf.entry = splitBefore[block] ?? PageTableEntry(target, [.table, .dirty, .large])
    }
    flush()
    tables.release()
  }
}

/// Memory for the tables and the list of a region: reserved whole, backed as far as it is used.
private struct TableReservation {
  let blockCount: Int
  let entries: UnsafeMutablePointer<UInt64>
  let list: UnsafeMutablePointer<UInt32>
  let listCapacity: Int

  init(blockCount: Int, pageCount: Int) throws(PoolError) {
    self.blockCount = blockCount
    var capacity = 1
    // A page that is armed while it is being granted stands in the list twice.
    while capacity < 2 * pageCount { capacity *= 2 }
    listCapacity = capacity
    // SAFETY: the mappings are fresh, zero, and large enough for what they are bound to.
    entries = try reserveTables(blockCount * 4096).bindMemory(
      to: UInt64.self, capacity: blockCount * 512)
    list = try reserveTables(capacity * 4).bindMemory(to: UInt32.self, capacity: capacity)
  }

  /// Gives the memory back and keeps the addresses: a system call of another thread that is just
  /// marking its buffers may still look.
  func release() {
    madvise(entries, blockCount * 4096, MADV_DONTNEED)
    madvise(list, listCapacity * 4, MADV_DONTNEED)
  }
}

/// Zeroed memory, backed as far as it is used. Mapped in the guest as well: processors and the
/// fault handler cannot wait for it.
func reserveTables(_ byteCount: Int) throws(PoolError) -> UnsafeMutableRawPointer {
  let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
  let mapped = mmap(nil, byteCount, PROT_READ | PROT_WRITE, flags, -1, 0)
  guard let mapped, mapped != MAP_FAILED else {
    throw .system(operation: "mmap", errorNumber: errno)
  }
  madvise(mapped, byteCount, MADV_DONTFORK)
  madvise(mapped, byteCount, MADV_NOHUGEPAGE)
  let result = cvm_map(UInt64(UInt(bitPattern: mapped)), UInt64(byteCount))
  guard result >= 0 else {
    munmap(mapped, byteCount)
    throw .system(operation: "guest memory slot", errorNumber: Int32(-result))
  }
  return mapped
}
