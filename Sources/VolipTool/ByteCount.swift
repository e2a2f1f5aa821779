// ByteCount: sizes as people write and read them: 64M, 1536K, 10G are powers of 1,024.

import ArgumentParser

struct ByteCount: ExpressibleByArgument {
  let bytes: UInt64

  private static let units: [(Character, UInt64)] = [
    ("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("T", 1 << 40),
  ]

  init?(argument: String) {
    let last = argument.last.map { Character($0.uppercased()) }
    let unit = Self.units.first { $0.0 == last }
    guard let number = UInt64(unit == nil ? argument[...] : argument.dropLast()) else { return nil }
    let (bytes, overflow) = number.multipliedReportingOverflow(by: unit?.1 ?? 1)
    guard !overflow else { return nil }
    self.bytes = bytes
  }

  /// The size with a unit, to a tenth.
  static func text(_ bytes: UInt64) -> String {
    guard let (letter, unit) = units.last(where: { bytes >= $0.1 }) else { return "\(bytes) bytes" }
    if bytes % unit == 0 { return "\(bytes / unit) \(letter)iB" }
    let tenths = bytes / (unit / 10)
    return "\(tenths / 10).\(tenths % 10) \(letter)iB"
  }
}
