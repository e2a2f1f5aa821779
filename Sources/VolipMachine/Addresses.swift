// Addresses: three kinds that must not be mixed up, each its own type.

import CVolimem

/// An address as the program uses it. The same number inside the guest and on the host.
public struct GuestVirtualAddress: Hashable, Comparable, Sendable {
  public var value: UInt64

  public init(_ value: UInt64) { self.value = value }

  public static func < (left: Self, right: Self) -> Bool { left.value < right.value }

  /// Number of the address's page.
  public var page: UInt64 { value >> 12 }

  /// Index into the table of a level: 0 is the one whose entries map 4 KiB, 3 the top.
  public func index(level: Int) -> Int { Int(value >> UInt64(12 + 9 * level)) & 511 }
}

/// An address as the guest's page table says it.
public struct GuestPhysicalAddress: Hashable, Sendable {
  public var value: UInt64

  public init(_ value: UInt64) { self.value = value }
}

/// One entry of a page table, at any level.
public struct PageTableEntry: Hashable, Sendable {
  public var bits: UInt64

  public init(bits: UInt64) { self.bits = bits }

  public init(_ target: GuestPhysicalAddress, _ flags: Flags) {
    bits = target.value | flags.rawValue
  }

  public struct Flags: OptionSet, Sendable {
    public let rawValue: UInt64

    public init(rawValue: UInt64) { self.rawValue = rawValue }

    public static let present = Flags(rawValue: 1)
    public static let writable = Flags(rawValue: 2)
    public static let user = Flags(rawValue: 4)
    public static let accessed = Flags(rawValue: 0x20)
    public static let dirty = Flags(rawValue: 0x40)
    /// The entry maps 2 MiB and not a table.
    public static let large = Flags(rawValue: 0x80)
    /// Ours: the fault handler gives write permission and lists the page.
    public static let grantable = Flags(rawValue: 0x200)
    /// Ours: the page is in its region's list.
    public static let listed = Flags(rawValue: 0x400)

    /// What an entry that leads to a table has.
    public static let table: Flags = [.present, .writable, .user, .accessed]
    /// What a page that may be read has.
    public static let readable: Flags = [.present, .user, .accessed]
  }

  static let addressMask: UInt64 = 0x000F_FFFF_FFFF_F000

  public var target: GuestPhysicalAddress { GuestPhysicalAddress(bits & Self.addressMask) }

  public func contains(_ flags: Flags) -> Bool { bits & flags.rawValue == flags.rawValue }
}
