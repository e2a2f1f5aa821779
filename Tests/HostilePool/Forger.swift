import CVolipPersistence
import VolipMem

/// Changes a pool's bytes as one does who knows the format and makes every check right.
struct Forger {
  private let bytes: UnsafeMutableRawBufferPointer
  /// Pages of the file that differ from before, perhaps.
  private(set) var touched: Set<Int> = []

  init(_ bytes: UnsafeMutableRawBufferPointer, image: Int) {
    self.bytes = bytes
    self.image = image
  }

  // MARK: Words

  private func word(_ offset: Int) -> UInt64 {
    guard offset >= 0, offset <= bytes.count - 8 else { return 0 }
    return bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
  }

  private mutating func set(_ value: UInt64, _ offset: Int) {
    guard offset >= 0, offset <= bytes.count - 8 else { return }
    bytes.storeBytes(of: value, toByteOffset: offset, as: UInt64.self)
    touched.insert(offset / 4096)
    touched.insert((offset + 7) / 4096)
  }

  private mutating func change(_ offset: Int, _ input: inout InputReader) {
    set(input.value(for: word(offset)), offset)
  }

  // MARK: Places

  private func copy(_ index: Int) -> Superblock? {
    let words = (0..<32).map { word(Superblock.copyOffsets[index] + $0 * 8) }
    return try? Superblock.decode(words)
  }

  private var superblock: Superblock? {
    [copy(0), copy(1)].compactMap { $0 }.max { $0.sequence < $1.sequence }
  }

  /// Where the image of the source begins, whatever a superblock says by now.
  private let image: Int

  // MARK: Changes

  /// One change. Its kind's high bit leaves the checksum wrong.
  mutating func change(_ input: inout InputReader) {
    let kind = input.byte()
    let seals = kind & 0x80 == 0
    switch kind & 0xF {
    case 0, 1: superblockField(&input, copies: kind & 0x30, seals: seals)
    case 2, 3: record(&input, seals: seals)
    case 4: heapHeader(&input, seals: seals)
    case 5: listHead(&input)
    case 6: segment(&input)
    case 7, 8: pageEntry(&input, seals: seals)
    case 9, 10: slab(&input, seals: seals)
    case 11: rootPage(&input, seals: seals)
    case 12: rootEntry(&input, seals: seals)
    case 13: change(Int(input.number(bytes: 2)) * 8 % bytes.count, &input)
    case 14: change(image + Int(input.number(bytes: 2)) * 8, &input)
    default: copyPages(&input)
    }
  }

  private mutating func superblockField(
    _ input: inout InputReader, copies: UInt8, seals: Bool
  ) {
    let field = Int(input.byte()) % 32
    let value = input.value(for: word(Superblock.copyOffsets[0] + field * 8))
    for (index, offset) in Superblock.copyOffsets.enumerated() where Int(copies >> 4) != index + 1 {
      set(value, offset + field * 8)
      guard seals else { continue }
      let words = (0..<31).map { word(offset + $0 * 8) }
      set(checksumOfLines(words + [0], seed: Superblock.magic), offset + 248)
    }
  }

  private mutating func record(_ input: inout InputReader, seals: Bool) {
    guard let superblock else { return }
    let geometry = superblock.geometry
    guard geometry.logBytes > 0 else { return }
    var offsets: [Int] = []
    var position = superblock.logTail
    for _ in 0..<16 {
      let offset = Int(geometry.logOffset + position % geometry.logBytes)
      guard let header = header(at: offset), header.position == position else { break }
      offsets.append(offset)
      position = header.end
    }
    // The place behind the last record as well: it may have one more.
    offsets.append(Int(geometry.logOffset + position % geometry.logBytes))
    let choice = Int(input.byte())
    let offset = offsets[choice % offsets.count]
    if choice & 0x80 != 0, let first = offsets.first {
      for byte in stride(from: 0, to: 256, by: 8) { set(word(first + byte), offset + byte) }
    }
    change(offset + Int(input.byte()) % 40 * 8, &input)
    guard seals, let header = header(at: offset) else { return }
    let room = max(bytes.count - offset, 0)
    guard header.recordBytes <= room else { return }
    set(0, offset + RecordHeader.checksumByte)
    let seed = RecordHeader.seed(
      poolIdentity: superblock.poolIdentity, generation: header.generation, lsn: header.lsn)
    let words = (0..<header.recordBytes / 8).map { word(offset + $0 * 8) }
    set(checksumOfLines(words, seed: seed), offset + RecordHeader.checksumByte)
  }

  private func header(at offset: Int) -> RecordHeader? {
    guard offset >= 0, offset <= bytes.count - 64 else { return nil }
    let line = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 64)
    defer { line.deallocate() }
    line.copyMemory(from: bytes.baseAddress! + offset, byteCount: 64)
    return RecordHeader.decode(from: line)?.header
  }

  private func hash(_ offset: Int, words: Int, from seed: UInt64) -> UInt64 {
    (0..<words).reduce(seed) { cvp_mix($0 ^ word(offset + $1 * 8)) }
  }

  private mutating func heapHeader(_ input: inout InputReader, seals: Bool) {
    change(image + Int(input.byte() & 7) * 8, &input)
    if seals { set(hash(image, words: 7, from: word(image)), image + 56) }
  }

  private mutating func listHead(_ input: inout InputReader) {
    change(image + 320 + Int(input.byte()) % 36 * 8, &input)
  }

  private mutating func segment(_ input: inout InputReader) {
    change(image + 64 + Int(input.byte()) % 32 * 8, &input)
  }

  /// Most pages that anything can be said about: those of the sources, and a few behind.
  private func page(_ input: inout InputReader) -> Int { Int(input.byte()) }

  private mutating func pageEntry(_ input: inout InputReader, seals: Bool) {
    let page = page(&input)
    let offset = image + 4096 + page * 16
    change(offset + Int(input.byte() & 1) * 8, &input)
    if seals { sealEntry(page) }
  }

  private mutating func sealEntry(_ page: Int) {
    let offset = image + 4096 + page * 16
    let first = word(offset) & ~0xFFFF_0000
    set(first | PageEntry.check(first, word(offset + 8), page: page) << 16, offset)
  }

  /// A slab's header: its words, or a new one made from nothing, with its page's entry.
  private mutating func slab(_ input: inout InputReader, seals: Bool) {
    let page = page(&input)
    let offset = image + page * 4096
    let choice = input.byte()
    change(offset + Int(choice & 7) * 8, &input)
    guard seals else { return }
    let stored = word(offset)
    let sizeClass = Int(stored >> 32 & 0x3F)
    set(Heap.slabHeader(page, sizeClass) | stored & 0xFFFF << 48, offset)
    guard choice & 0x80 != 0 else { return }
    let entry = image + 4096 + page * 16
    set(3 | UInt64(sizeClass) << 8 | UInt64(choice >> 3 & 0xF) << 32, entry)
    sealEntry(page)
    let head = image + 448 + sizeClass * 4
    let shift = UInt64(head & 4) * 8
    set(word(head & ~7) & ~(0xFFFF_FFFF << shift) | UInt64(page) << shift, head & ~7)
  }

  private var firstRootPage: Int { image + Int(word(image + 40) & 0xFF) * 4096 }

  private mutating func rootPage(_ input: inout InputReader, seals: Bool) {
    let choice = input.byte()
    let offset = choice & 0x80 == 0 ? firstRootPage : image + Int(input.byte()) * 4096
    if choice & 0x40 != 0 { set(word(firstRootPage), offset) }
    change(offset + Int(choice & 3) * 8, &input)
    let page = UInt64((offset - image) / 4096)
    if seals { set(hash(offset, words: 3, from: page), offset + 24) }
  }

  private mutating func rootEntry(_ input: inout InputReader, seals: Bool) {
    let offset = firstRootPage + (1 + Int(input.byte()) % 31) * 128
    change(offset + Int(input.byte()) % 12 * 8, &input)
    if seals {
      set(hash(offset, words: 11, from: UInt64(offset - image)), offset + 88)
    }
  }

  private mutating func copyPages(_ input: inout InputReader) {
    let from = Int(input.byte()) * 4096 % bytes.count
    let to = Int(input.byte()) * 4096 % bytes.count
    guard from != to, max(from, to) <= bytes.count - 4096 else { return }
    touched.insert(to / 4096)
    (bytes.baseAddress! + to).copyMemory(from: bytes.baseAddress! + from, byteCount: 4096)
  }
}
