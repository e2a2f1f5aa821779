import Glibc
import VolipMem

/// Each single bit of superblocks, log and allocator metadata, flipped: refused, reported by the
/// heap check, or without any effect. Only the last record may be gone, as if it had been torn.
extension HostileFile {
  public struct FlipTally: Sendable {
    public var flips = 0
    public var refused = 0
    public var reported = 0
    public var harmless = 0
    public var tornLast = 0
    /// Bits whose flip was believed: byte of the file, bit, what was found.
    public var believed: [String] = []
  }

  /// What a pool holds, as far as metadata say.
  private struct Contents: Equatable {
    var number: UInt64
    var roots: [Root]
    var blocks: [PoolOffset]
    var isWell: Bool

    init(_ pool: Pool) throws(PoolError) {
      number = try pool.root("number", as: UInt64.self)?.pointee ?? 0
      roots = try pool.roots().sorted { $0.name < $1.name }
      let report = pool.checkHeap()
      blocks = report.blocks.map(\.offset)
      isWell = report.isConsistent
    }
  }

  /// Flips every `step`-th bit from `first` on.
  public func flipBits(from first: Int, step: Int) throws -> FlipTally {
    var tally = FlipTally()
    for source in [Source.withRecords, .closed] {
      let whole = sources[Source.allCases.firstIndex(of: source)!]
      let expected = try contents(of: whole, touched: [])
      let places = source == .closed ? heapBytes(whole) : mediaBytes(whole)
      let last = source == .closed ? 0..<0 : lastRecord(whole)
      for bit in stride(from: first, to: places.count * 8, by: step) {
        let byte = places[bit / 8]
        whole.bytes[byte] ^= 1 << UInt8(bit % 8)
        tally.flips += 1
        do throws(PoolError) {
          let found = try contents(of: whole, touched: [byte / 4096])
          var before = expected
          before.number -= last.contains(byte) ? 1 : 0
          if !found.isWell {
            tally.reported += 1
          } else if found == expected {
            tally.harmless += 1
          } else if last.contains(byte), found.number == before.number {
            tally.tornLast += 1
          } else {
            tally.believed.append("\(source) byte \(byte) bit \(bit % 8)")
          }
        } catch {
          tally.refused += 1
        }
        whole.restore([byte / 4096])
      }
    }
    return tally
  }

  private func contents(
    of whole: WholePool, touched: Set<Int>
  ) throws(PoolError) -> Contents {
    write(whole, touched, length: whole.bytes.count)
    let pool = try Pool.open(path, options: options)
    let contents = try Contents(pool)
    try pool.close()
    return contents
  }

  private func word(_ whole: WholePool, _ offset: Int) -> UInt64 {
    whole.bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
  }

  /// Where each record begins and ends.
  private func records(_ whole: WholePool) -> [Range<Int>] {
    guard let superblock = try? Superblock.decode((0..<32).map { word(whole, $0 * 8) }) else {
      return []
    }
    var result: [Range<Int>] = []
    var position = superblock.logTail
    while true {
      let geometry = superblock.geometry
      let offset = Int(geometry.logOffset + position % geometry.logBytes)
      // SAFETY: the log is inside the file, and lines are aligned.
      guard let (header, _) = RecordHeader.decode(from: whole.bytes.baseAddress! + offset),
        header.position == position, header.generation == superblock.generation
      else { return result }
      result.append(offset..<offset + header.recordBytes)
      position = header.end
    }
  }

  private func lastRecord(_ whole: WholePool) -> Range<Int> { records(whole).last ?? 0..<0 }

  /// Bytes of both superblocks and of all records.
  private func mediaBytes(_ whole: WholePool) -> [Int] {
    Superblock.copyOffsets.flatMap { Array($0..<$0 + Superblock.byteCount) }
      + records(whole).joined()
  }

  /// Bytes of the heap's header, page table, slab headers and roots, as far as they are in use.
  private func heapBytes(_ whole: WholePool) -> [Int] {
    let image = whole.image
    let pages = Int(word(whole, image + 24))
    var bytes = Array(image..<image + 608)
    bytes += Array(image + 4096..<image + 4096 + pages * 16)
    for page in 1..<pages where word(whole, image + 4096 + page * 16) & 0xFF == 3 {
      bytes += Array(image + page * 4096..<image + page * 4096 + 40)
    }
    let root = image + Int(word(whole, image + 40)) * 4096
    let count = Int(word(whole, root + 16))
    bytes += Array(root..<root + 32)
    for index in 1...max(count, 1) { bytes += Array(root + index * 128..<root + index * 128 + 96) }
    return bytes
  }
}
