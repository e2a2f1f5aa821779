// PageTable: walks and edits the guest's page table. Pure: it knows memory only through
// `TableMemory`, so that it runs without a machine as well.
//
//   level 3   512 GiB an entry   made by CVolimem as chunks are touched
//   level 2     1 GiB            "
//   level 1     2 MiB            "; large entries until a region is made
//   level 0     4 KiB            pools' tables, by GuestRegion
//
// Invariants
// 1. Levels 3 and 2 are CVolimem's: this only reads them.
// 2. A walk takes at most four steps, whatever the memory holds.

/// Where tables are in this process.
public protocol TableMemory {
  /// The 512 entries of the table at a guest-physical address.
  func table(at address: GuestPhysicalAddress) -> UnsafeMutablePointer<UInt64>
}

public struct PageTable<Memory: TableMemory> {
  public let root: GuestPhysicalAddress
  public let memory: Memory

  public init(root: GuestPhysicalAddress, memory: Memory) {
    self.root = root
    self.memory = memory
  }

  /// The entry that decides about an address: the first on the way down that is not present or maps
  /// memory.
  public struct Leaf {
    public let level: Int
    let place: UnsafeMutablePointer<UInt64>

    public var entry: PageTableEntry {
      get { PageTableEntry(bits: place.pointee) }
      nonmutating set { place.pointee = newValue.bits }
    }
  }

  public func leaf(for address: GuestVirtualAddress) -> Leaf {
    var table = memory.table(at: root)
    var level = 3
    while true {
      // SAFETY: tables have 512 entries and the index is below that.
      let leaf = Leaf(level: level, place: table + address.index(level: level))
      let entry = leaf.entry
      guard level > 0, entry.contains(.present), !entry.contains(.large) else { return leaf }
      table = memory.table(at: entry.target)
      level -= 1
    }
  }

  /// The guest-physical address of an address, nil where nothing is mapped.
  public func translate(_ address: GuestVirtualAddress) -> GuestPhysicalAddress? {
    let leaf = leaf(for: address)
    guard leaf.entry.contains(.present) else { return nil }
    let offsetMask = UInt64(1) << UInt64(12 + 9 * leaf.level) - 1
    return GuestPhysicalAddress(
      leaf.entry.target.value & ~offsetMask | address.value & offsetMask)
  }

  /// The entry of level 1 on the way to an address, whatever it leads to.
  public func directoryEntry(for address: GuestVirtualAddress) -> Leaf {
    let entry = chunkEntry(for: address).entry
    precondition(entry.contains(.present), "the chunk is mapped")
    let table = memory.table(at: entry.target)
    // SAFETY: tables have 512 entries and the index is below that.
    return Leaf(level: 1, place: table + address.index(level: 1))
  }

  /// The entry of level 2 on the way to an address. It decides about rights in a whole GiB.
  public func chunkEntry(for address: GuestVirtualAddress) -> Leaf {
    let entry = PageTableEntry(bits: memory.table(at: root)[address.index(level: 3)])
    precondition(entry.contains(.present), "the chunk is mapped")
    // SAFETY: tables have 512 entries and the index is below that.
    return Leaf(level: 2, place: memory.table(at: entry.target) + address.index(level: 2))
  }
}
