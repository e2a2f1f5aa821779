/// Everything that can go wrong with a pool, each its own case.
///
/// Offsets are bytes: `fileOffset` counts from the start of the pool file, `offset` from the start
/// of persistent memory (the pool's base address). After any of these errors the durable bytes are
/// those of the last committed section, unless the case says otherwise.
public enum PoolError: Error, Equatable, Sendable {
  // The file
  /// The file does not begin like a pool.
  case notAPool(path: String, fileOffset: UInt64, reason: String)
  /// The file is shorter than its superblock says.
  case truncated(path: String, expectedBytes: UInt64, actualBytes: UInt64)
  /// The file was written by a version of the format that this library does not read.
  case foreignVersion(path: String, fileOffset: UInt64, found: UInt32, supported: UInt32)
  /// The file uses features without which it cannot be understood.
  case unknownFeatures(path: String, fileOffset: UInt64, bits: UInt64)
  /// Neither copy of the superblock is whole.
  case damagedSuperblock(path: String, fileOffset: UInt64, reason: String)
  /// A record in the middle of the log is damaged; nothing was applied.
  case damagedLog(path: String, fileOffset: UInt64, reason: String)
  /// A pool has to be recovered before this can be done.
  case needsRecovery(path: String)
  /// A file that a pool was exported to is damaged.
  case damagedExport(path: String, fileOffset: UInt64, reason: String)
  /// A page of the file can be neither read nor rebuilt from the log.
  case unreadable(fileOffset: UInt64)
  /// Memory that a section had written failed; the section was rolled back.
  case memoryFailed(offset: UInt64)
  /// Allocator or root metadata contradict themselves.
  case damagedHeap(offset: UInt64, reason: String)
  /// Another handle, in this process or another, has the pool open.
  case inUse(path: String)
  case notFound(path: String)
  case alreadyExists(path: String)
  case noPermission(path: String)
  /// A size or an option that no pool can have.
  case invalidArgument(String)
  /// The operating system refused an operation that no other case describes.
  case system(operation: String, errorNumber: Int32)

  // Space
  /// Something else is mapped where the pool has its address.
  case addressTaken(address: UInt64, bytes: UInt64)
  /// The reserved address range has no room for a pool of this size.
  case addressSpaceExhausted(bytes: UInt64)
  /// No free memory of this size is left in the pool.
  case poolFull(requestedBytes: UInt64, availableBytes: UInt64)
  /// The section's record is larger than the log may become. The section was rolled back.
  case sectionTooLarge(neededBytes: UInt64, availableBytes: UInt64)
  /// The file system has no blocks left for the pool. The section was rolled back.
  case diskFull(path: String, neededBytes: UInt64)

  // Sections
  /// `pend`, `pabort`, `pcommit` or a change of the heap without a section on this thread.
  case noSection
  /// Persistent memory was written between two sections. The bytes were put back.
  case writeOutsideSection(offset: UInt64)
  /// An audit found a byte of announced memory that the section changed and did not announce. The
  /// section was rolled back.
  case unannouncedWrite(offset: UInt64)
  /// A concurrent or buffered section changes announced memory alone; anything else of the pool
  /// needs an exclusive one.
  case pageTrackedWrite
  /// The arenas of a lane have no room for a block of this size. Abort the section and do it again:
  /// the next one gets an arena with room.
  case laneFull(requestedBytes: UInt64)
  /// A thread waits for sections to end whose threads all wait for something themselves: a lock is
  /// taken before `pstart` by one and inside a section by another. The text names threads and
  /// sections. Thrown by `pstart`, no section is open; by `pend`, the section is over, and becomes
  /// durable with the last of its group.
  case sectionsDeadlocked(String)
  /// Where that is looked for: a collection holds an address that ends with the process. The
  /// section was rolled back. `root` leads to the offset; both texts are empty where no root does.
  case volatilePointer(value: UInt64, offset: UInt64, root: String, layout: String)
  /// An operation that only the outermost section may do.
  case nestedSection
  /// A nested section or one of the same group was aborted, so all of it was rolled back.
  case sectionAborted
  /// The pool belongs to the parent of this process.
  case forkedChild
  /// The handle was closed.
  case closed
  /// An earlier failure left the handle unusable; open the pool again.
  case poisoned(reason: String)
  /// The log could not be made durable: the section may or may not be there after the next open.
  case outcomeUnknown(errorNumber: Int32)
  /// No tracker works on this machine, or not the one that was asked for.
  case trackerUnavailable(tracker: String, reason: String)

  // Heap and roots
  /// The address is not the start of an allocated block.
  case notAllocated(offset: UInt64)
  /// A root exists under this name with another layout.
  case rootLayoutMismatch(name: String, expected: String, found: String)
  /// Root names have 1 to 63 bytes of UTF-8.
  case invalidRootName(String)
}

extension PoolError: CustomStringConvertible {
  /// What happened and what to do about it, in one sentence or two.
  public var description: String {
    switch self {
    case .notAPool, .truncated, .foreignVersion, .unknownFeatures, .damagedSuperblock,
      .damagedLog, .needsRecovery, .damagedExport, .unreadable, .memoryFailed, .damagedHeap, .inUse,
      .notFound, .alreadyExists,
      .noPermission,
      .invalidArgument, .system:
      fileDescription
    case .addressTaken, .addressSpaceExhausted, .poolFull, .sectionTooLarge, .diskFull:
      spaceDescription
    default:
      sectionDescription
    }
  }

  private var fileDescription: String {
    switch self {
    case .notAPool(let path, let fileOffset, let reason):
      "\(path) is not a pool: \(reason) at byte \(fileOffset)."
    case .truncated(let path, let expected, let actual):
      "\(path) has \(actual) bytes of \(expected): restore the whole file."
    case .foreignVersion(let path, let fileOffset, let found, let supported):
      "\(path) has format version \(found) (at byte \(fileOffset)); this library reads "
        + "\(supported): use the library that wrote it."
    case .unknownFeatures(let path, let fileOffset, let bits):
      "\(path) needs features 0x\(String(bits, radix: 16)) (at byte \(fileOffset)) that this "
        + "library does not have: use a newer one."
    case .damagedSuperblock(let path, let fileOffset, let reason):
      "Both superblock copies of \(path) are damaged (\(reason) at byte \(fileOffset)): restore "
        + "the file from a copy."
    case .damagedLog(let path, let fileOffset, let reason):
      "The log of \(path) is damaged at byte \(fileOffset) (\(reason)); nothing was applied: "
        + "restore the file from a copy."
    case .needsRecovery(let path):
      "\(path) was not closed: recover it first (volip recover, or any open)."
    case .damagedExport(let path, let fileOffset, let reason):
      "\(path) is damaged at byte \(fileOffset) (\(reason)): export the pool again."
    case .unreadable(let fileOffset):
      "The page at byte \(fileOffset) of the pool cannot be read, and the log does not have it: "
        + "restore the file from a copy."
    case .memoryFailed(let offset):
      "Memory failed at pool offset 0x\(String(offset, radix: 16)): the section was rolled back."
    case .damagedHeap(let offset, let reason):
      "Heap metadata is damaged at pool offset 0x\(String(offset, radix: 16)): \(reason)."
    case .inUse(let path):
      "\(path) is open in another handle or process: close that one, or take a copy (volip copy)."
    case .notFound(let path): "\(path) does not exist, or the directory that it is to be in."
    case .alreadyExists(let path): "\(path) exists already: open it, or choose another name."
    case .noPermission(let path): "No permission to read and write \(path)."
    case .invalidArgument(let reason): "Invalid argument: \(reason)."
    case .system(let operation, let errorNumber): "\(operation) failed with errno \(errorNumber)."
    default: ""
    }
  }

  private var spaceDescription: String {
    switch self {
    case .addressTaken(let address, let bytes):
      "The pool's address range 0x\(String(address, radix: 16)), \(bytes) bytes, is in use in this "
        + "process: unmap what is there, or open the pool earlier."
    case .addressSpaceExhausted(let bytes):
      "No address range of \(bytes) bytes is left for a pool: make it smaller."
    case .poolFull(let requested, let available):
      "The pool is full: \(requested) bytes asked for, at most \(available) in one piece: free "
        + "memory or grow the pool."
    case .sectionTooLarge(let needed, let available):
      "The section needs a record of \(needed) bytes and the log may have \(available): it was "
        + "rolled back; write less in one section or create a pool whose log may be larger."
    case .diskFull(let path, let needed):
      "No space for \(needed) bytes of \(path) on its file system: the section was rolled back."
    default: ""
    }
  }

  private var sectionDescription: String {
    switch self {
    case .noSection: "No section is open on this thread: call pstart first."
    case .writeOutsideSection(let offset):
      "Persistent memory was written outside a section at pool offset "
        + "0x\(String(offset, radix: 16)); the bytes were put back: write between pstart and pend."
    case .unannouncedWrite(let offset):
      "The section changed announced memory at pool offset 0x\(String(offset, radix: 16)) without "
        + "announcing it: it was rolled back; announce every write, or use the collections."
    case .pageTrackedWrite:
      "This section may change announced memory alone: use an exclusive one, or the collections."
    case .laneFull(let requested):
      "The section's lane has no room for \(requested) bytes: abort the section and do it again."
    case .sectionsDeadlocked(let text):
      "Sections wait for each other: \(text). Take a lock before pstart or inside sections, never "
        + "both ways."
    case .volatilePointer(let value, let offset, let root, let layout):
      "The section stored 0x\(String(value, radix: 16)), an address of memory that ends with the "
        + "process, at pool offset 0x\(String(offset, radix: 16)), "
        + (root.isEmpty ? "to which no root leads" : "in root \"\(root)\" of layout \(layout)")
        + ": it was rolled back; store references, or numbers that are no addresses."
    case .nestedSection: "Only the outermost section can do this."
    case .sectionAborted: "A nested section or one of the group was aborted; all was rolled back."
    case .forkedChild: "The pool belongs to the parent process: open it after exec or not at all."
    case .closed: "The pool handle is closed."
    case .poisoned(let reason): "The pool handle is unusable (\(reason)): open the pool again."
    case .outcomeUnknown(let errorNumber):
      "The log could not be flushed (errno \(errorNumber)): the section is there after the next "
        + "open or it is not; open the pool again and look."
    case .trackerUnavailable(let tracker, let reason): "Tracker \(tracker) unavailable: \(reason)."
    case .notAllocated(let offset):
      "Pool offset 0x\(String(offset, radix: 16)) is not the start of an allocated block."
    case .rootLayoutMismatch(let name, let expected, let found):
      "Root \"\(name)\" was made with layout \(found), not \(expected): its type has changed; "
        + "migrate it, or open it as what it is."
    case .invalidRootName(let name): "\"\(name)\" is no root name: 1 to 63 bytes of UTF-8."
    default: ""
    }
  }
}

extension PoolError {
  /// Layouts of which only the fingerprints are known.
  public static func rootLayoutMismatch(
    name: String, expected: UInt64, found: UInt64
  ) -> PoolError {
    .rootLayoutMismatch(
      name: name, expected: fingerprintText(expected), found: fingerprintText(found))
  }

  /// A layout's name where its text is not known.
  package static func fingerprintText(_ fingerprint: UInt64) -> String {
    "fingerprint " + String(fingerprint, radix: 16)
  }

  /// Exit code for a command-line tool: 1 failure, 2 inconsistent, 3 needs recovery, 4 in use, 5
  /// host unsupported, 6 unknown format, 64 usage.
  public var exitCode: Int32 {
    switch self {
    case .damagedSuperblock, .damagedLog, .unreadable, .damagedHeap, .truncated, .damagedExport: 2
    case .needsRecovery: 3
    case .inUse: 4
    case .trackerUnavailable, .addressTaken, .addressSpaceExhausted: 5
    case .notAPool, .foreignVersion, .unknownFeatures: 6
    case .invalidArgument, .invalidRootName: 64
    default: 1
    }
  }
}
