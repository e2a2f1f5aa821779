import Glibc
import VolipMem

/// The whole pools that inputs change.
enum Source: CaseIterable {
  case closed, withRecords, full, grown

  /// The bytes of the file as a killed process leaves it, or a closed one.
  func make(_ options: Pool.Options) throws -> [UInt8] {
    var template = Array("/dev/shm/volip-hostile-XXXXXX".utf8CString)
    guard let made = mkdtemp(&template) else { fatalError("no temporary directory") }
    let directory = String(cString: made)
    let path = directory + "/pool"
    defer {
      unlink(path)
      rmdir(directory)
    }
    var options = options
    options.logBytes = 64 << 10
    options.logBytesMax = 128 << 10
    let pool = try Pool.create(path, byteCount: 1 << 20, options: options)
    try fill(pool)
    if self == .grown { try pool.grow(byteCount: 1_500_000) }
    try pool.checkpoint()
    if self == .withRecords || self == .grown { try count(pool) }
    guard self != .closed else {
      try pool.close()
      return try read(path)
    }
    let bytes = try read(path)
    try pool.close()
    return bytes
  }

  /// Roots, blocks of many sizes, and holes between them.
  private func fill(_ pool: Pool) throws {
    try pool.section { section in
      for index in 0..<3 { _ = try pool.root("root \(index)", in: &section) { index } }
      var holes: [UnsafeMutableRawPointer] = []
      for byteCount in [16, 100, 1000, 5000, 20_000] {
        _ = try pool.allocate(byteCount: byteCount)
        holes.append(try pool.allocate(byteCount: byteCount))
        _ = try pool.allocate(byteCount: byteCount)
      }
      if self == .full {
        while let block = try? pool.allocate(byteCount: 4096) { holes.append(block) }
        holes.removeSubrange(5..<holes.count - 20)
      }
      for hole in holes { try pool.deallocate(hole) }
    }
  }

  private func count(_ pool: Pool) throws {
    for index in 0..<8 {
      try pool.section { section in
        try pool.root("number", in: &section) { UInt64(0) }.pointee += 1
        memset(try pool.allocate(byteCount: 200), Int32(index), 200)
      }
    }
  }

  private func read(_ path: String) throws -> [UInt8] {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    defer { close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: Int(lseek(descriptor, 0, SEEK_END)))
    precondition(pread(descriptor, &bytes, bytes.count, 0) == bytes.count)
    return bytes
  }
}
