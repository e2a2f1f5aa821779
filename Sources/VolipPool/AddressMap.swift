// AddressMap: where pools live in a process. The one place with addresses in it.
//
//   0x5500_0000_0000  position-independent programs and their heaps begin (Linux x86-64)
//   0x5700_0000_0000  poolRange.lowerBound
//        pools: each at a multiple of 2 MiB, drawn at creation, the same for ever
//   0x5a00_0000_0000  poolRange.upperBound
//   0x7f.._...._....  libraries, stacks
//
// The range is inside what AddressSanitizer (above 0x1000_7fff_8000), ThreadSanitizer (0x5500 to
// 0x5a00, its middle range) and MemorySanitizer (0x5100 to 0x6000) give to applications, and below
// 2^47, so that guest-physical can equal host-virtual.

import Glibc

public enum AddressMap {
  /// Addresses that pools may have: 3 TiB.
  public static let poolRange: Range<UInt64> = 0x5700_0000_0000..<0x5A00_0000_0000

  /// Pools begin at multiples of this, one entry of a second-level page table: 1.5 million places,
  /// so that two pools of usual sizes that one process opens hardly ever want the same.
  public static let baseAlignment: UInt64 = 2 << 20

  /// Test switch: `VOLIP_POOL_BASE=0x...` moves the base address of pools that are created.
  public static let switchName = "VOLIP_POOL_BASE"

  /// The base address that the environment asks for, if any.
  public static var forcedBase: UInt64? {
    guard let text = getenv(switchName).map({ String(cString: $0) }) else { return nil }
    return UInt64(text.hasPrefix("0x") ? String(text.dropFirst(2)) : text, radix: 16)
  }

  /// Number of bases at which a pool of `imageBytes` fits.
  static func slotCount(imageBytes: UInt64) -> UInt64 {
    let rangeBytes = UInt64(poolRange.count)
    guard imageBytes > 0, imageBytes <= rangeBytes else { return 0 }
    return (rangeBytes - imageBytes) / baseAlignment + 1
  }

  /// Draws a base address for a pool of `imageBytes`.
  public static func drawBase(
    imageBytes: UInt64, using generator: inout some RandomNumberGenerator
  ) throws(PoolError) -> UInt64 {
    let slots = slotCount(imageBytes: imageBytes)
    guard slots > 0 else { throw .addressSpaceExhausted(bytes: imageBytes) }
    return poolRange.lowerBound + UInt64.random(in: 0..<slots, using: &generator) * baseAlignment
  }

  /// Whether a pool of `imageBytes` may stand at `base`, for addresses read from a file. Pools that
  /// were created with the test switch stand elsewhere in the lower half.
  public static func isPlausible(base: UInt64, imageBytes: UInt64) -> Bool {
    let end = base.addingReportingOverflow(imageBytes)
    return base % 4096 == 0 && base >= 1 << 32 && !end.overflow && end.partialValue <= 1 << 47
  }
}
