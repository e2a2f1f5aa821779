// LaneTable: how the log is divided while concurrent sections commit.
//
//   log offset                                                  + log bytes
//   | lane 0        | lane 1        | ...            | the rest |
//     laneBytes       laneBytes                        unused
//
// Live records are in the log as a whole or in its lanes, never in both: the superblock says which,
// and the generation is raised whenever that changes, so that no old record counts.

import CVolipPersistence

public struct LaneTable: Equatable, Sendable {
  /// What one superblock has room for.
  public static let countMax = 14
  /// Smallest lane: a page, which is what a sector may be.
  public static let laneBytesMin: UInt64 = 4096

  /// For each lane the position of its first record that need not be in the image yet.
  public var tails: [UInt64]

  public var count: Int { tails.count }

  public init(count: Int) {
    precondition((2...Self.countMax).contains(count))
    tails = Array(repeating: 0, count: count)
  }

  /// From words 16 to 30 of a superblock.
  init(words: [UInt64]) {
    tails = Array(words[1...].prefix(words[0] <= UInt64(Self.countMax) ? Int(words[0]) : 0))
  }

  /// Words 16 to 30 of a superblock.
  static func words(_ table: LaneTable?) -> [UInt64] {
    guard let table else { return [UInt64](repeating: 0, count: countMax + 1) }
    let rest = [UInt64](repeating: 0, count: countMax - table.count)
    return [UInt64(table.count)] + table.tails + rest
  }

  /// What is impossible about a table that was read from a file, or nil (rule 21).
  func contradiction(logBytes: UInt64) -> String? {
    guard (2...Self.countMax).contains(count), laneBytes(logBytes: logBytes) >= Self.laneBytesMin
    else { return "number of lanes" }
    let isPlausible = tails.allSatisfy {
      $0 < 1 << 62 && $0 % UInt64(DurableMemory.lineBytes) == 0
    }
    return isPlausible ? nil : "lane tail out of range"
  }

  /// Bytes of each lane.
  public func laneBytes(logBytes: UInt64) -> UInt64 {
    logBytes / UInt64(count) / PoolGeometry.pageBytes * PoolGeometry.pageBytes
  }
}

/// A part of the file that is written like a log.
public struct LogRegion: Equatable, Sendable {
  /// In the file.
  public let offset: UInt64
  public let bytes: UInt64
  /// Seeds the records' checksums: those of another pool or lane have no valid one here.
  public let identity: UInt64
  /// Position of the first record that is not applied for good.
  public let tail: UInt64

  /// Where in the file a position is.
  @inlinable @inline(__always)
  public func start(of position: UInt64) -> Int { Int(offset + position % bytes) }

  /// The first position of the next lap.
  @inlinable @inline(__always)
  public func lap(after position: UInt64) -> UInt64 { (position / bytes + 1) * bytes }
}

extension Superblock {
  /// The log as a whole.
  public var logRegion: LogRegion {
    LogRegion(
      offset: geometry.logOffset, bytes: geometry.logBytes, identity: poolIdentity, tail: logTail)
  }

  /// One of the lanes that it is divided into.
  public func laneRegion(_ index: Int, of table: LaneTable) -> LogRegion {
    let bytes = table.laneBytes(logBytes: geometry.logBytes)
    let identity = isRemoved(.laneIdentity) ? 0 : cvp_mix(poolIdentity &+ UInt64(index) &+ 1)
    return LogRegion(
      offset: geometry.logOffset + UInt64(index) * bytes, bytes: bytes, identity: identity,
      tail: table.tails[index])
  }
}
