// PoolRecovery: recovery alone: no address is taken, no tracker is needed.

/// Recovery of a pool that nobody opens.
public enum PoolRecovery {
  /// What a recovery did.
  public struct Summary: Equatable, Sendable {
    /// Records that were applied.
    public let replayed: Int
    /// Log sequence number of the last section.
    public let lastLsn: UInt64
  }

  /// Applies the log of a pool file to its image, durably.
  ///
  /// - Throws: ``PoolError``: `.inUse`, and what ``Pool/open(_:options:)`` throws of a file.
  @discardableResult
  public static func run(_ path: String) throws(PoolError) -> Summary {
    try PoolEngine.withoutCancellation { () throws(PoolError) in
      let file = try PoolFile.open(path: path)
      defer { file.unlock() }
      let memory = try DurableMemory.map(
        descriptor: file.descriptor, forced: PersistencePath.forced)
      let summary = try Recovery(file, memory).run()
      return Summary(replayed: summary.recordCount, lastLsn: file.superblock.appliedLsn)
    }
  }
}
