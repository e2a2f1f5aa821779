import CTestSupport
import Glibc
import VolipMem

// Pages of a pool that fail while the process is a virtual machine: the kernel's SIGBUS reaches the
// library's handler in the guest.

/// guest-bad-media POOL TRACKER RETENTION SEED: 20 sections each whose image page fails, and 10
/// whose memory fails, with a copy of what has to be there at its side.
func guestBadMedia(_ arguments: [String]) throws {
  let page = mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
  let poisoned = cts_poison(page)
  guard poisoned == 0 else { return print("skipped: UFFDIO_POISON: errno \(-poisoned)") }
  var options = Pool.Options()
  options.engine.persistencePath = .cacheLines
  options.engine.tracker = TrackerKind(rawValue: arguments[1])
  options.engine.retention = arguments[2] == "true"
  let pool = try Pool.create(arguments[0], byteCount: 8 << 20, options: options)
  var media = try GuestMedia(pool, path: arguments[0], seed: UInt64(arguments[3])!)
  for _ in 0..<20 { try media.failImage() }
  for _ in 0..<10 { try media.failMemory() }
  try pool.close()
  print("wrong \(media.wrong) failed \(media.failed)")
}

private struct GuestMedia {
  static let pageCount = 64
  let pool: Pool
  let bytes: UnsafeMutableBufferPointer<UInt8>
  /// Where the file is mapped that `bytes` are a working copy of.
  let image: UnsafeMutableRawPointer
  var expected: [UInt8]
  var generator: SplitMix
  var wrong = 0, failed = 0

  init(_ pool: Pool, path: String, seed: UInt64) throws {
    self.pool = pool
    let byteCount = Self.pageCount * 4096
    let memory = try pool.section { _ in try pool.allocate(byteCount: byteCount) }
    bytes = .init(start: memory.assumingMemoryBound(to: UInt8.self), count: byteCount)
    expected = [UInt8](repeating: 0, count: byteCount)
    try pool.section { [bytes] _ in bytes.update(repeating: 0) }
    let offset = UnsafeRawPointer(memory) - pool.base
    image = try mapping(of: path) + Int(imageOffset(of: path)) + offset
    generator = SplitMix(state: seed)
  }

  private mutating func write() {
    for _ in 0..<40 {
      let place = Int.random(in: 0..<bytes.count, using: &generator)
      bytes[place] = UInt8.random(in: 0...255, using: &generator)
    }
  }

  private mutating func check() {
    if !bytes.elementsEqual(expected) { wrong += 1 }
    if memcmp(image, expected, expected.count) != 0 { wrong += 1 }
  }

  private mutating func poison(_ page: UnsafeMutableRawPointer) {
    if cts_poison(page) != 0 { wrong += 1000 }
  }

  /// Rebuilt from what the section wrote.
  mutating func failImage() throws {
    let page = Int.random(in: 0..<Self.pageCount, using: &generator) * 4096
    try pool.pstart()
    write()
    bytes[page] ^= 0xFF
    expected = Array(bytes)
    poison(image + page)
    try pool.pend()
    check()
  }

  /// The section is rolled back.
  mutating func failMemory() throws {
    let page = Int.random(in: 0..<Self.pageCount, using: &generator) * 4096
    try pool.pstart()
    write()
    bytes[page] ^= 0xFF
    poison(bytes.baseAddress! + page)
    do throws(PoolError) {
      try pool.pend()
      wrong += 1
    } catch {
      let offset = UInt64(UnsafeRawPointer(bytes.baseAddress!) - pool.base + page)
      if error == .memoryFailed(offset: offset) { failed += 1 }
    }
    check()
    try pool.section { [bytes] _ in bytes[page] ^= 1 }
    expected[page] ^= 1
    check()
  }
}

private struct NotFound: Error {}

private func imageOffset(of path: String) throws -> UInt64 {
  guard let file = fopen(path, "r") else { throw NotFound() }
  defer { fclose(file) }
  var words = [UInt64](repeating: 0, count: 32)
  fseek(file, Superblock.copyOffsets[0], SEEK_SET)
  fread(&words, 8, words.count, file)
  return try Superblock.decode(words).geometry.imageOffset
}

/// Where the whole file is mapped shared.
private func mapping(of path: String) throws -> UnsafeMutableRawPointer {
  var status = stat()
  guard stat(path, &status) == 0, let file = fopen("/proc/self/maps", "r") else { throw NotFound() }
  defer { fclose(file) }
  var line = [CChar](repeating: 0, count: 1024)
  while fgets(&line, 1024, file) != nil {
    let text = String(decoding: line.prefix { $0 != 0 }.map(UInt8.init), as: UTF8.self)
    let fields = text.split(separator: " ", omittingEmptySubsequences: true)
    guard fields[4] == "\(status.st_ino)", fields[1].hasSuffix("s"),
      let start = UInt(fields[0].prefix { $0 != "-" }, radix: 16),
      let offset = UInt(fields[2], radix: 16), offset == 0
    else { continue }
    return UnsafeMutableRawPointer(bitPattern: start)!
  }
  throw NotFound()
}
