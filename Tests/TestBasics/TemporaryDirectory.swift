import Glibc
import VolipMem

/// A directory of a test's own, removed with the last reference to it.
///
/// On tmpfs where there is one: the cache-line path is the one that most tests want.
public final class TemporaryDirectory: Sendable {
  public let path: String

  public init() {
    let parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp"
    var template = Array("\(parent)/volip-test-XXXXXX".utf8CString)
    let made = template.withUnsafeMutableBufferPointer { mkdtemp($0.baseAddress!) }
    precondition(made != nil, "no temporary directory")
    path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
  }

  deinit {
    if let directory = opendir(path) {
      while let entry = readdir(directory) {
        let name = withUnsafePointer(to: &entry.pointee.d_name) {
          $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
        }
        if name != ".", name != ".." { unlink("\(path)/\(name)") }
      }
      closedir(directory)
    }
    rmdir(path)
  }

  public func file(_ name: String) -> String { "\(path)/\(name)" }
}

extension Pool.Options {
  /// Options for tests: the cache-line path wherever the file is.
  public static func test(
    tracker: TrackerKind? = nil, retention: Bool = true, logBytes: UInt64? = nil,
    logBytesMax: UInt64? = nil
  ) -> Pool.Options {
    var options = Pool.Options()
    options.engine.tracker = tracker
    options.engine.retention = retention
    options.engine.persistencePath = .cacheLines
    options.logBytes = logBytes
    options.logBytesMax = logBytesMax
    return options
  }
}

/// Whole files as bytes, for tests that damage them or look whether they changed.
public enum FileBytes {
  public static func read(_ path: String) -> [UInt8] {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    precondition(descriptor >= 0, "cannot open \(path)")
    defer { close(descriptor) }
    let byteCount = Int(lseek(descriptor, 0, SEEK_END))
    var bytes = [UInt8](repeating: 0, count: byteCount)
    var done = 0
    while done < byteCount {
      let count = bytes.withUnsafeMutableBytes {
        pread(descriptor, $0.baseAddress! + done, byteCount - done, off_t(done))
      }
      precondition(count > 0)
      done += count
    }
    return bytes
  }

  public static func write(_ bytes: [UInt8], to path: String, at offset: Int = 0) {
    let descriptor = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
    precondition(descriptor >= 0, "cannot open \(path)")
    defer { close(descriptor) }
    var done = 0
    while done < bytes.count {
      let count = bytes.withUnsafeBytes {
        pwrite(descriptor, $0.baseAddress! + done, bytes.count - done, off_t(offset + done))
      }
      precondition(count > 0)
      done += count
    }
  }
}
