// ProcessStatistics: what a wrapped program's epochs cost, read from outside while it runs. The
// library in the program keeps the words (CSupport/CVolipWrap/statistics.c) in a memory file, which
// is found among the program's descriptors.
//
// SAFETY: words are read with pread into an array's own bytes; names of the kernel are copied at
// once.

import Glibc

/// Counts of a wrapped program since it opened its first file.
public struct ProcessStatistics: Equatable, Sendable {
  /// Commits, and those of them in which nothing had changed.
  public var epochs: UInt64
  public var empty: UInt64
  /// Epochs that were due and given up, because a thread computed on.
  public var skipped: UInt64
  /// Pages compared and lines logged.
  public var pages: UInt64
  public var lines: UInt64
  /// Of all commits together.
  public var microseconds: UInt64
  /// How often the virtual machine was left, for whatever reason, until the last commit.
  public var exits: UInt64
  /// Commits of less than 2, 4, 8... microseconds, and not less than half of it.
  public var times: [UInt64]

  /// "VOLIWRAP", little-endian.
  static let magic: UInt64 = 0x5041_5257_494C_4F56
  static let version: UInt64 = 1
  static let bucketCount = 24
  static let name = "/memfd:volip-statistics (deleted)"

  /// What a process has published, or nil: it wraps no file, or is another user's.
  public static func read(process: pid_t) -> ProcessStatistics? {
    let folder = "/proc/\(process)/fd"
    guard let entries = opendir(folder) else { return nil }
    defer { closedir(entries) }
    while let entry = readdir(entries) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      if target(of: "\(folder)/\(name)") == Self.name, let found = read("\(folder)/\(name)") {
        return found
      }
    }
    return nil
  }

  private static func target(of link: String) -> String {
    var bytes = [UInt8](repeating: 0, count: 256)
    let count = bytes.withUnsafeMutableBytes { readlink(link, $0.baseAddress!, $0.count) }
    return String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self)
  }

  private static func read(_ path: String) -> ProcessStatistics? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var words = [UInt64](repeating: 0, count: 9 + bucketCount)
    let count = words.withUnsafeMutableBytes { pread(descriptor, $0.baseAddress, $0.count, 0) }
    guard count == words.count * 8, words[0] == magic, words[1] == version else { return nil }
    return ProcessStatistics(
      epochs: words[2], empty: words[3], skipped: words[4], pages: words[5], lines: words[6],
      microseconds: words[7], exits: words[8], times: Array(words[9...]))
  }
}
