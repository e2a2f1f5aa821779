// DemoPool: where the demo's pool is and what lies at its root.

import Glibc
import PersistentHashmap
import VolipMem

/// The pool's root: the map, and the last section that changed it, in the same section.
struct DemoState: BitwiseCopyable {
  var map: HashMap
  var section: UInt64
}

struct DemoPool {
  let path: String
  /// nil takes the first tracker that works.
  let tracker: TrackerKind?

  /// Where Linux has a file system in memory.
  static let tmpfs = "/dev/shm"
  static let rootName = "hashmap-demo"
  static let byteCount: UInt64 = 64 << 20
  /// The smallest log. It is full after a few sections, so that kills meet checkpoints and laps;
  /// it grows once, when the map doubles its buckets and moves every node in one section.
  static let logBytes = PoolGeometry.logBytesMin
  static let logBytesMax: UInt64 = 8 << 20
  /// Buckets at the beginning, few so that the doubling happens under kills too.
  static let firstCapacity = 1024

  var options: Pool.Options {
    var options = Pool.Options()
    options.engine.tracker = tracker
    // A killed process leaves tmpfs as it was, so there the cache-line path keeps what it promises
    // against kills; libpmem, which thinks of power failures, would choose msync. The documented
    // switch VOLIP_PERSISTENCE goes first.
    options.engine.persistencePath =
      PersistencePath.forced ?? (path.hasPrefix(Self.tmpfs + "/") ? .cacheLines : nil)
    options.logBytes = Self.logBytes
    options.logBytesMax = Self.logBytesMax
    return options
  }

  /// The pool, recovered; nil when no worker has lived long enough to make it.
  func open() throws -> Pool? {
    do {
      return try Pool.open(path, options: options)
    } catch PoolError.notFound {
      return nil
    }
  }

  /// The pool, made when there is none. A kill may leave a file that is no pool yet, so it gets
  /// its name only when it is one.
  func openOrCreate() throws -> Pool {
    if let pool = try open() { return pool }
    unlink(draftPath)
    let pool = try Pool.create(draftPath, byteCount: Self.byteCount, options: options)
    guard rename(draftPath, path) == 0 else {
      throw PoolError.system(operation: "rename", errorNumber: errno)
    }
    return pool
  }

  private var draftPath: String { Self.draftPath(of: path) }

  static func draftPath(of path: String) -> String { path + ".new" }
}

/// The pool file's place: the user's, to keep, or a fresh directory in memory.
struct PoolPlace {
  let path: String
  private let directory: String?

  init(given: String?) throws {
    if let given {
      guard access(given, F_OK) != 0 else { throw PoolError.alreadyExists(path: given) }
      path = given
      directory = nil
      return
    }
    let otherwise = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
    let parent = access(DemoPool.tmpfs, W_OK) == 0 ? DemoPool.tmpfs : otherwise
    var template = Array("\(parent)/hashmap-demo-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else {
      throw PoolError.system(operation: "mkdtemp in \(parent)", errorNumber: errno)
    }
    let made = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    directory = made
    path = "\(made)/hashmap.pool"
  }

  func remove() {
    unlink(DemoPool.draftPath(of: path))
    guard let directory else { return }
    unlink(path)
    rmdir(directory)
  }
}
