import Testing

@testable import VolipMachine

/// Page tables in plain memory, with guest-physical addresses of their own invention.
final class FakeTables: TableMemory {
  private var pages: [UInt64: UnsafeMutablePointer<UInt64>] = [:]
  private var next: UInt64 = 0x7000_0000

  func make() -> GuestPhysicalAddress {
    let page = UnsafeMutablePointer<UInt64>.allocate(capacity: 512)
    page.initialize(repeating: 0, count: 512)
    next += 4096
    pages[next] = page
    return GuestPhysicalAddress(next)
  }

  func table(at address: GuestPhysicalAddress) -> UnsafeMutablePointer<UInt64> {
    pages[address.value]!
  }

  deinit {
    for page in pages.values { page.deallocate() }
  }
}

@Suite struct PageTableTests {
  let tables = FakeTables()
  let table: PageTable<FakeTables>
  /// A 2 MiB entry maps this address to 0x1_4020_0000.
  let mapped = GuestVirtualAddress(0x5712_3460_0000)

  init() {
    table = PageTable(root: tables.make(), memory: tables)
    var level = table.root
    for each in [3, 2] {
      let below = tables.make()
      tables.table(at: level)[mapped.index(level: each)] = PageTableEntry(below, .table).bits
      level = below
    }
    tables.table(at: level)[mapped.index(level: 1)] =
      PageTableEntry(GuestPhysicalAddress(0x1_4020_0000), [.table, .large]).bits
  }

  @Test func anAddressIsFourIndexesAndAnOffset() {
    let address = GuestVirtualAddress(1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 5)
    #expect((0...3).map { address.index(level: $0) } == [4, 3, 2, 1])
  }

  @Test func aLargeEntryTranslatesEveryAddressUnderIt() {
    #expect(table.leaf(for: mapped).level == 1)
    let inside = GuestVirtualAddress(mapped.value + 0x1F_F123)
    #expect(table.translate(inside) == GuestPhysicalAddress(0x1_403F_F123))
  }

  @Test func whatNoEntryMapsHasNoTranslation() {
    #expect(table.translate(GuestVirtualAddress(0x1000)) == nil)
    #expect(table.translate(GuestVirtualAddress(mapped.value + (2 << 20))) == nil)
    #expect(table.leaf(for: GuestVirtualAddress(0)).level == 3)
  }

  @Test func aTableInThePlaceOfALargeEntryDecidesForEachPage() {
    let small = tables.make()
    for index in 0..<512 where index != 9 {
      tables.table(at: small)[index] =
        PageTableEntry(GuestPhysicalAddress(UInt64(index) << 12), .readable).bits
    }
    table.directoryEntry(for: mapped).entry = PageTableEntry(small, .table)
    let eighth = GuestVirtualAddress(mapped.value + (8 << 12) + 77)
    #expect(table.translate(eighth) == GuestPhysicalAddress((8 << 12) + 77))
    #expect(table.leaf(for: eighth).level == 0)
    #expect(!table.leaf(for: eighth).entry.contains(.writable))
    #expect(table.translate(GuestVirtualAddress(mapped.value + (9 << 12))) == nil)
  }

  @Test func theFlagsAreTheProcessors() {
    let entry = PageTableEntry(GuestPhysicalAddress(0x1234_5000), [.present, .dirty])
    #expect(entry.bits == 0x1234_5041)
    #expect(entry.target == GuestPhysicalAddress(0x1234_5000))
    #expect(PageTableEntry(bits: UInt64.max).target.value == 0x000F_FFFF_FFFF_F000)
  }
}
