import Glibc
import TestSupport
import Testing

@testable import VolipMem
@testable import VolipPool

/// A pool file as bytes, to be damaged with or without right checksums.
struct CraftedPool {
  var bytes: [UInt8]

  /// A small pool with a few blocks and roots, closed, or left by a process that died with
  /// `sections` records in its log; `isFull` leaves hardly any memory free.
  static func make(
    in directory: TemporaryDirectory, sections: Int, isFull: Bool = false
  ) async throws -> CraftedPool {
    let path = directory.file("crafted-\(UInt64.random(in: 0...UInt64.max)).pool")
    let outcome = try await Helper.run(
      "volip-test-helper", ["leave-log", path, "\(sections)"] + (isFull ? ["full"] : []),
      environment: [PersistencePath.switchName: "cache-line"])
    try #require(outcome.output == "left\n", "\(outcome)")
    defer { unlink(path) }
    return CraftedPool(bytes: FileBytes.read(path))
  }

  /// Words of the file, zero where it has none: a mutant's superblock may name any place.
  func words(at offset: Int, count: Int) -> [UInt64] {
    bytes.withUnsafeBytes { bytes in
      (0..<count).map {
        let byte = offset + $0 * 8
        guard byte >= 0, byte <= bytes.count - 8 else { return 0 }
        return bytes.loadUnaligned(fromByteOffset: byte, as: UInt64.self)
      }
    }
  }

  mutating func setWord(_ value: UInt64, at offset: Int) {
    guard offset >= 0, offset <= bytes.count - 8 else { return }
    bytes.withUnsafeMutableBytes { bytes in
      bytes.storeBytes(of: value, toByteOffset: offset, as: UInt64.self)
    }
  }

  /// Neither copy can be decoded; mutants come to that.
  struct NoSuperblock: Error {}

  /// The newer copy.
  var superblock: Superblock {
    get throws {
      let copies = Superblock.copyOffsets.compactMap {
        try? Superblock.decode(words(at: $0, count: 32))
      }
      guard let newer = copies.max(by: { $0.sequence < $1.sequence }) else { throw NoSuperblock() }
      return newer
    }
  }

  /// Writes both copies, or one, with a right checksum.
  mutating func set(_ superblock: Superblock, copies: [Int] = [0, 1]) {
    for copy in copies {
      for (index, word) in superblock.encoded.enumerated() {
        setWord(word, at: Superblock.copyOffsets[copy] + index * 8)
      }
    }
  }

  /// Where each sealed record begins in the file, in order.
  var records: [(fileOffset: Int, header: RecordHeader)] {
    get throws {
      let superblock = try superblock
      let geometry = superblock.geometry
      var result: [(Int, RecordHeader)] = []
      var position = superblock.logTail
      while position < superblock.logTail + geometry.logBytes {
        let offset = Int(geometry.logOffset + position % geometry.logBytes)
        guard let header = header(at: offset), header.position == position,
          header.generation == superblock.generation
        else { break }
        result.append((offset, header))
        position = header.end
      }
      return result
    }
  }

  func header(at offset: Int) -> RecordHeader? {
    let line = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 64)
    defer { line.deallocate() }
    for (index, word) in words(at: offset, count: 8).enumerated() {
      line.storeBytes(of: word, toByteOffset: index * 8, as: UInt64.self)
    }
    return RecordHeader.decode(from: line)?.header
  }

  /// Gives the record at `offset` the seal that its bytes call for.
  mutating func reseal(recordAt offset: Int) throws {
    let superblock = try superblock
    setWord(0, at: offset + RecordHeader.checksumByte)
    guard let header = header(at: offset) else { return }
    let available = max(bytes.count - offset, 0) / 8
    let count = min(header.recordBytes / 8, available / 8 * 8)
    let seed = RecordHeader.seed(
      poolIdentity: superblock.poolIdentity, generation: header.generation, lsn: header.lsn)
    let seal = checksumOfLines(words(at: offset, count: count), seed: seed)
    setWord(seal, at: offset + RecordHeader.checksumByte)
  }

  /// Writes the bytes to a new file, expects `open` to refuse it, and the file to stay as it is.
  @discardableResult
  func refusal(
    in directory: TemporaryDirectory, _ comment: Comment? = nil,
    sourceLocation: SourceLocation = #_sourceLocation
  ) -> (path: String, error: PoolError?) {
    let path = directory.file("refused-\(UInt64.random(in: 0...UInt64.max)).pool")
    FileBytes.write(bytes, to: path)
    defer { unlink(path) }
    do throws(PoolError) {
      _ = try Pool.open(path, options: .test())
      Issue.record("opened \(comment ?? "")", sourceLocation: sourceLocation)
      return (path, nil)
    } catch {
      #expect(!error.description.isEmpty, sourceLocation: sourceLocation)
      #expect(error.exitCode != 0, sourceLocation: sourceLocation)
      #expect(
        isEqual(FileBytes.read(path), bytes), "the file was changed", sourceLocation: sourceLocation
      )
      return (path, error)
    }
  }

  /// Writes the bytes to a new file and opens it.
  func open(in directory: TemporaryDirectory) throws -> (path: String, pool: Pool) {
    let path = directory.file("opened-\(UInt64.random(in: 0...UInt64.max)).pool")
    FileBytes.write(bytes, to: path)
    return (path, try Pool.open(path, options: .test()))
  }
}

/// Compares a mebibyte in less than the standard library's debug build needs for a page.
func isEqual(_ left: [UInt8], _ right: [UInt8]) -> Bool {
  left.count == right.count && memcmp(left, right, left.count) == 0
}

extension Pool {
  /// What the helper's `leave-log` counts up: the number of the last section that is there.
  var sectionNumber: UInt64? {
    get throws { try root("number", as: UInt64.self)?.pointee }
  }

  /// Expects a pool that works: whole, and able to do a section.
  func expectUsable(sourceLocation: SourceLocation = #_sourceLocation) throws {
    #expect(checkHeap().problems == [], sourceLocation: sourceLocation)
    let block = try section { _ in
      let block = try allocate(byteCount: 100)
      block.storeBytes(of: 42, as: Int.self)
      return block
    }
    #expect(block.load(as: Int.self) == 42, sourceLocation: sourceLocation)
    try section { _ in try deallocate(block) }
    #expect(checkHeap().problems == [], sourceLocation: sourceLocation)
  }
}
