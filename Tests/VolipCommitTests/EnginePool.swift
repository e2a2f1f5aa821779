import Glibc
import TestSupport
import Testing

@testable import VolipCommit

/// A pool without a heap, and a model of its bytes.
final class EnginePool {
  static let watchedPages = 64
  /// Where announced memory is in a pool that has any.
  static let announcedBytes = 40 * 4096..<64 * 4096
  let announces: Bool
  let directory = TemporaryDirectory()
  let path: String
  let engine: PoolEngine
  /// Bytes of the watched pages after the last committed section.
  var committed: [UInt8]

  init(
    fileBytes: UInt64 = 2 << 20, logBytes: UInt64? = 64 << 10, logBytesMax: UInt64? = nil,
    tracker: TrackerKind? = nil, retention: Bool = true,
    persistence: PersistencePath = .cacheLines, announces: Bool = false, audit: Bool = false,
    lanes: Int = 8, deadlockSeconds: Int = 60, bufferedMilliseconds: Int = 1 << 40,
    commitThreads: Int = 1,
    checkpointThread: Bool = false
  ) throws {
    self.announces = announces
    path = directory.file("engine.pool")
    var geometry = try PoolGeometry(
      fileBytes: fileBytes, logBytes: logBytes, logBytesMax: logBytesMax)
    var options = EngineOptions()
    options.persistencePath = persistence
    options.tracker = tracker
    options.retention = retention
    options.audit = audit
    options.laneCount = lanes
    options.deadlockSeconds = deadlockSeconds
    options.bufferedMilliseconds = bufferedMilliseconds
    options.commitThreads = commitThreads
    options.checkpointThread = checkpointThread
    options.pagesAlone = 2
    engine = try Self.create(path, &geometry, options)
    try engine.watch(upTo: Self.watchedPages)
    if announces {
      let pages = Self.announcedBytes.lowerBound / 4096..<Self.announcedBytes.upperBound / 4096
      try engine.useAnnounced(pages)
      try engine.addAnnounced(pages)
    }
    committed = [UInt8](repeating: 0, count: Self.watchedPages * 4096)
  }

  /// Draws base addresses until one is free: other tests have pools open.
  private static func create(
    _ path: String, _ geometry: inout PoolGeometry, _ options: EngineOptions
  ) throws -> PoolEngine {
    var generator = SystemRandomNumberGenerator()
    while true {
      geometry.baseAddress = try AddressMap.drawBase(
        imageBytes: geometry.imageBytes, using: &generator)
      try PoolFile.create(path: path, geometry: geometry).publish()
      do {
        return try PoolEngine(PoolFile.open(path: path), options: options)
      } catch {
        unlink(path)
        guard case .addressTaken = error else { throw error }
      }
    }
  }

  var bytes: UnsafeMutablePointer<UInt8> { engine.base.assumingMemoryBound(to: UInt8.self) }

  /// Bytes of the watched pages as the program sees them now.
  var current: [UInt8] {
    Array(UnsafeBufferPointer(start: bytes, count: Self.watchedPages * 4096))
  }

  /// Writes like a program: a few words, some pages, sometimes a stretch over many pages.
  func scribble(using generator: inout SeededGenerator) {
    let size = Self.watchedPages * 4096
    switch Int.random(in: 0..<10, using: &generator) {
    case 0:
      let first = Int.random(in: 0..<size / 2, using: &generator)
      let count = Int.random(in: 1...12_000, using: &generator)
      for offset in first..<first + count { bytes[offset] = generator.next() as UInt8 }
      announce(first..<first + count)
    default:
      for _ in 0..<Int.random(in: 0...40, using: &generator) {
        let offset = Int.random(in: 0..<size, using: &generator)
        bytes[offset] = generator.next() as UInt8
        announce(offset..<offset + 1)
      }
    }
  }

  /// Announces what of a range is announced memory.
  func announce(_ range: Range<Int>) {
    let part = range.clamped(to: Self.announcedBytes)
    guard announces, !part.isEmpty else { return }
    engine.announcedOfThisThread.announce(engine.base + part.lowerBound, byteCount: part.count)
  }

  /// Writes announced memory like a program with collections: extents of all lengths, some again.
  func scribbleAnnounced(using generator: inout SeededGenerator) {
    for _ in 0..<Int.random(in: 0...30, using: &generator) {
      let longest = Int.random(in: 0..<8, using: &generator) == 0 ? 9000 : 40
      let count = Int.random(in: 1...longest, using: &generator)
      let area = Self.announcedBytes
      let first = Int.random(in: area.lowerBound...area.upperBound - count, using: &generator)
      let announcesFirst = Bool.random(using: &generator)
      if announcesFirst { announce(first..<first + count) }
      for offset in first..<first + count { bytes[offset] = generator.next() as UInt8 }
      if !announcesFirst || Bool.random(using: &generator) { announce(first..<first + count) }
    }
  }

  func commitScribbles(using generator: inout SeededGenerator) throws {
    let isAnnounced = announces && Bool.random(using: &generator)
    try engine.openSection(isAnnounced ? .announced : .exclusive)
    if announces { scribbleAnnounced(using: &generator) }
    if !isAnnounced { scribble(using: &generator) }
    let next = current
    try engine.closeSection()
    committed = next
  }
}

/// What `make` makes, or nil and why not, where this machine has no such tracker.
func whereTrackerIsAvailable(_ make: () throws -> EnginePool) throws -> EnginePool? {
  do {
    return try make()
  } catch PoolError.trackerUnavailable(let tracker, let reason) {
    print("skipped: \(tracker): \(reason)")
    return nil
  }
}

extension SeededGenerator {
  mutating func next() -> UInt8 { UInt8(truncatingIfNeeded: next() as UInt64) }
}

/// What is found in a copy of a pool file after recovery.
struct RecoveredImage {
  let bytes: [UInt8]
  let superblock: Superblock
  let summary: RecoverySummary

  /// Recovers the file `contents`, as the next open would, without mapping its base address.
  init(_ contents: [UInt8], in directory: TemporaryDirectory) throws {
    let path = directory.file("copy.pool")
    unlink(path)
    FileBytes.write(contents, to: path)
    let file = try PoolFile.open(path: path)
    let memory = try DurableMemory.map(descriptor: file.descriptor, forced: .cacheLines)
    summary = try Recovery(file, memory).run()
    superblock = file.superblock
    let image = memory.address(Int(superblock.geometry.imageOffset))
    bytes = Array(
      UnsafeRawBufferPointer(start: image, count: EnginePool.watchedPages * 4096))
  }
}
