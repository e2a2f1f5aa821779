import TestSupport
import Testing

@testable import VolipPool

@Suite struct RecordHeaderTests {
  private func sample(using generator: inout SeededGenerator) -> RecordHeader {
    let extents = Int.random(in: 1...100_000, using: &generator)
    var header = RecordHeader(
      alignmentShift: Bool.random(using: &generator) ? 6 : 12, generation: generator.next(),
      lsn: generator.next() >> 12, position: generator.next() >> 2,
      previousEnd: generator.next() >> 2,
      extentCount: extents, lineCount: extents + Int.random(in: 0...100_000, using: &generator),
      firstExtent: LineExtent(
        firstLine: generator.next() >> 16, lineCount: Int.random(in: 0...0xFFFF, using: &generator))
    )
    header.unfencedCount = Int.random(in: 0...RecordHeader.unfencedMax, using: &generator)
    return header
  }

  private func line(of header: RecordHeader) -> [UInt64] {
    withLine { line in
      header.encode(to: line)
    }
  }

  /// Eight words that `body` writes as one aligned line.
  private func withLine(
    _ words: [UInt64] = .init(repeating: 0, count: 8),
    _ body: (UnsafeMutableRawPointer) -> Void
  ) -> [UInt64] {
    let line = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 64)
    defer { line.deallocate() }
    for (index, word) in words.enumerated() {
      line.storeBytes(of: word, toByteOffset: index * 8, as: UInt64.self)
    }
    body(line)
    return (0..<8).map { line.load(fromByteOffset: $0 * 8, as: UInt64.self) }
  }

  private func decode(_ words: [UInt64]) -> (header: RecordHeader, seal: UInt64)? {
    var result: (header: RecordHeader, seal: UInt64)?
    _ = withLine(words) { result = RecordHeader.decode(from: $0) }
    return result
  }

  @Test func whatIsEncodedDecodesToTheSame() throws {
    var generator = SeededGenerator.forTest()
    for _ in 0..<500 {
      let header = sample(using: &generator)
      var words = line(of: header)
      #expect(words[7] == 0)
      words[7] = 42
      let decoded = try #require(decode(words))
      #expect(decoded.header == header)
      #expect(decoded.seal == 42)
    }
  }

  /// The byte table at the head of RecordHeader+Unsafe.swift.
  @Test func fieldsStandAtTheBytesOfTheTable() {
    let words = line(
      of: RecordHeader(
        alignmentShift: 12, generation: 3, lsn: 4, position: 5, previousEnd: 6, extentCount: 7,
        lineCount: 8, firstExtent: LineExtent(firstLine: 0x1234_5678_9ABC, lineCount: 0xDEF0)))
    let bytes = words.withUnsafeBytes { Array($0) }
    #expect(String(decoding: bytes[..<4], as: UTF8.self) == "VREC")
    #expect(bytes[4..<8].elementsEqual([1, 0, 12, 0]))
    #expect(words[1...4].elementsEqual([3, 4, 5, 6]))
    #expect(words[5] == 7 | 8 << 32)
    #expect(words[6] == 0x1234_5678_9ABC_DEF0)
    #expect(RecordHeader.checksumByte == 56)
  }

  @Test func whatNoRecordBeginsWithIsNone() throws {
    var generator = SeededGenerator.forTest()
    let good = line(of: sample(using: &generator))
    try #require(decode(good) != nil)
    let changes: [(String, (inout [UInt64]) -> Void)] = [
      ("zeros", { $0 = .init(repeating: 0, count: 8) }),
      ("ones", { $0 = .init(repeating: .max, count: 8) }),
      ("magic", { $0[0] ^= 1 }),
      ("kind", { $0[0] ^= 1 << 32 }),
      ("alignment 7", { $0[0] = $0[0] & 0xFFFF_FFFF_FFFF | 7 << 48 }),
      ("alignment 65,535", { $0[0] |= 0xFFFF << 48 }),
      ("position", { $0[3] = 1 << 62 }),
      ("previous end", { $0[4] = .max }),
      ("no extents", { $0[5] = 8 << 32 }),
      ("fewer lines than extents", { $0[5] = 8 | 7 << 32 }),
    ]
    for (name, change) in changes {
      var words = good
      change(&words)
      #expect(decode(words) == nil, "\(name)")
    }
  }

  /// Header, extents behind the first eight to a line, lines; then up to the next alignment.
  @Test func recordLengthsCountHeaderExtentsAndLines() {
    #expect(RecordHeader.recordBytes(extentCount: 1, lineCount: 1) == 128)
    #expect(RecordHeader.recordBytes(extentCount: 2, lineCount: 2) == 256)
    #expect(RecordHeader.recordBytes(extentCount: 9, lineCount: 9) == (1 + 1 + 9) * 64)
    #expect(RecordHeader.recordBytes(extentCount: 10, lineCount: 10) == (1 + 2 + 10) * 64)
    var header = RecordHeader(
      alignmentShift: 6, generation: 1, lsn: 1, position: 4096, previousEnd: 4096, extentCount: 1,
      lineCount: 1, firstExtent: LineExtent(firstLine: 0, lineCount: 1))
    #expect(header.end == 4096 + 128)
    header.alignmentShift = 12
    #expect(header.end == 8192)
  }

  /// The largest numbers that a header can carry do not overflow: they come from a file.
  @Test func lengthsOfTheLargestCountsDoNotOverflow() throws {
    var words = line(
      of: RecordHeader(
        alignmentShift: 12, generation: .max, lsn: .max, position: (1 << 62) - 1,
        previousEnd: (1 << 62) - 1, extentCount: 1, lineCount: 1,
        firstExtent: LineExtent(word: .max)))
    words[5] = .max
    let header = try #require(decode(words)).header
    #expect(header.recordBytes > 1 << 38)
    #expect(header.end > 1 << 62)
  }

  @Test func extentsPackIntoAWord() {
    var generator = SeededGenerator.forTest()
    for _ in 0..<500 {
      let word = generator.next()
      let extent = LineExtent(word: word)
      #expect(extent.word == word)
      #expect(extent.lineCount == Int(word & 0xFFFF) && extent.firstLine == word >> 16)
    }
  }

  @Test func seedsOfNeighboursDiffer() {
    var seeds: Set<UInt64> = []
    for identity in 0..<10 as Range<UInt64> {
      for generation in 0..<10 as Range<UInt64> {
        for lsn in 0..<10 as Range<UInt64> {
          seeds.insert(
            RecordHeader.seed(poolIdentity: identity, generation: generation, lsn: lsn))
        }
      }
    }
    #expect(seeds.count == 1000)
  }
}
