import CVolipPersistence
import TestSupport

@testable import VolipHeap
@testable import VolipPool

/// Damages pools: blindly, and as a forger does who knows the format and makes every check right.
struct Mutator {
  var generator: SeededGenerator
  /// Pools to begin with and to splice from, all of one size.
  let sources: [CraftedPool]

  /// A mutant of one of the sources.
  mutating func mutant() throws -> CraftedPool {
    var pool = sources.randomElement(using: &generator)!
    for _ in 0..<Int.random(in: 1...3, using: &generator) where pool.bytes.count >= 1 << 20 {
      if Int.random(in: 0..<3, using: &generator) == 0 {
        mutateBlindly(&pool)
      } else {
        try forge(&pool)
      }
    }
    return pool
  }

  // MARK: Choices

  private mutating func below(_ bound: Int) -> Int { Int.random(in: 0..<bound, using: &generator) }

  /// An offset where something stands: superblocks, log, heap metadata, or anywhere.
  private mutating func place(_ pool: CraftedPool) -> Int {
    switch below(5) {
    case 0: below(256) + Superblock.copyOffsets[below(2)]
    case 1: 8192 + below(16 << 10)
    case 2: image(pool) + below(8192)
    case 3: image(pool) + below(40) * 4096 + below(256)
    default: below(pool.bytes.count - 8)
    }
  }

  private func image(_ pool: CraftedPool) -> Int {
    // A size that leaves room behind: the superblock may be a mutant already.
    let offset = (try? pool.superblock.geometry.imageOffset) ?? 1 << 18
    return Int(min(offset, UInt64(pool.bytes.count / 2)))
  }

  private mutating func value(_ old: UInt64) -> UInt64 {
    switch below(8) {
    case 0: 0
    case 1: 1 << UInt64(below(64))
    case 2: .max >> UInt64(below(64))
    case 3: old &+ UInt64(below(3)) &- 1
    case 4: old ^ 1 << UInt64(below(64))
    case 5: UInt64(below(300))
    case 6: UInt64(below(1 << 20)) * 4096
    default: generator.next()
    }
  }

  private mutating func value32(_ old: UInt32) -> UInt32 {
    UInt32(truncatingIfNeeded: value(UInt64(old)))
  }

  // MARK: Blind

  private mutating func mutateBlindly(_ pool: inout CraftedPool) {
    switch below(7) {
    case 0, 1:
      for _ in 0..<1 + below(20) { pool.bytes[place(pool)] ^= 1 << UInt8(below(8)) }
    case 2: copy(&pool, from: nil)
    case 3: copy(&pool, from: pool)
    case 4: copy(&pool, from: sources.randomElement(using: &generator)!)
    case 5: pool.bytes.removeLast(below(pool.bytes.count))
    default:
      let offset = place(pool) & ~7
      pool.setWord(value(pool.words(at: offset, count: 1)[0]), at: offset)
    }
  }

  /// Overwrites a range with zeros, with another range of `source`, or with the same.
  private mutating func copy(_ pool: inout CraftedPool, from source: CraftedPool?) {
    let target = place(pool)
    let count = min(1 << below(17), pool.bytes.count - target)
    guard let source else {
      pool.bytes.replaceSubrange(
        target..<target + count, with: repeatElement(0, count: count))
      return
    }
    let from = below(2) == 0 ? target : min(place(pool), pool.bytes.count - count)
    guard from + count <= source.bytes.count else { return }
    pool.bytes.replaceSubrange(target..<target + count, with: source.bytes[from..<from + count])
  }

  // MARK: Forged

  private mutating func forge(_ pool: inout CraftedPool) throws {
    switch below(8) {
    case 0: forgeSuperblock(&pool)
    case 1: try forgeRecord(&pool)
    case 2: forgeHeapHeader(&pool)
    case 3: forgeListOrSegment(&pool)
    case 4: forgePageEntry(&pool)
    case 5, 6: forgeSlab(&pool)
    default: forgeRoots(&pool)
    }
  }

  private mutating func forgeSuperblock(_ pool: inout CraftedPool) {
    let field = 1 + below(15)
    let copies = below(3) == 0 ? [below(2)] : [0, 1]
    let new = value(pool.words(at: field * 8, count: 1)[0])
    for copy in copies {
      let offset = Superblock.copyOffsets[copy]
      pool.setWord(new, at: offset + field * 8)
      let seal = checksumOfLines(pool.words(at: offset, count: 31) + [0], seed: Superblock.magic)
      pool.setWord(seal, at: offset + 248)
    }
  }

  private mutating func forgeRecord(_ pool: inout CraftedPool) throws {
    guard let record = (try? pool.records)?.randomElement(using: &generator) else { return }
    let word = below(4) == 0 ? 8 + below(8) : below(7)
    let offset = record.fileOffset + word * 8
    pool.setWord(value(pool.words(at: offset, count: 1)[0]), at: offset)
    try? pool.reseal(recordAt: record.fileOffset)
  }

  private func hash(_ pool: CraftedPool, _ offset: Int, words: Int, from seed: UInt64) -> UInt64 {
    pool.words(at: offset, count: words).reduce(seed) { cvp_mix($0 ^ $1) }
  }

  private mutating func forgeHeapHeader(_ pool: inout CraftedPool) {
    let header = image(pool)
    let offset = header + below(7) * 8
    pool.setWord(value(pool.words(at: offset, count: 1)[0]), at: offset)
    pool.setWord(hash(pool, header, words: 7, from: 0x5041_4548_494C_4F56), at: header + 56)
  }

  private mutating func set32(_ pool: inout CraftedPool, _ value: UInt32, at offset: Int) {
    let word = pool.words(at: offset & ~7, count: 1)[0]
    let shift = UInt64(offset & 4) * 8
    pool.setWord(word & ~(0xFFFF_FFFF << shift) | UInt64(value) << shift, at: offset & ~7)
  }

  private mutating func forgeListOrSegment(_ pool: inout CraftedPool) {
    let offset = image(pool) + (below(3) == 0 ? 64 + below(8) * 4 : 320 + below(60) * 4)
    let word = pool.words(at: offset & ~7, count: 1)[0]
    let old = UInt32(truncatingIfNeeded: word >> (UInt64(offset & 4) * 8))
    set32(&pool, below(2) == 0 ? UInt32(below(below(2) == 0 ? 3 : 260)) : value32(old), at: offset)
  }

  /// Pages of a small pool's heap: what a forger would name.
  private mutating func page() -> UInt64 {
    below(8) == 0 ? value(0) & 0xFFFF_FFFF : UInt64(below(below(2) == 0 ? 40 : 260))
  }

  /// A page of the heap: one of the first, which are in use, the last ones, or any.
  private mutating func anyPage(_ pool: CraftedPool) -> Int {
    let pages = max((pool.bytes.count - image(pool)) / 4096, 50)
    return switch below(4) {
    case 0, 1: below(40)
    case 2: pages - 1 - below(10)
    default: below(pages)
    }
  }

  private mutating func forgePageEntry(_ pool: inout CraftedPool) {
    let index = anyPage(pool)
    let offset = image(pool) + 4096 + index * 16
    var (first, second) = (
      pool.words(at: offset, count: 2)[0], pool.words(at: offset, count: 2)[1]
    )
    first &= ~0xFFFF_0000
    for _ in 0..<1 + below(3) {
      switch below(5) {
      case 0: first = first & ~0xFF | UInt64(below(10))
      case 1: first = first & ~0xFF00 | UInt64(below(30)) << 8
      case 2: first = first & 0xFFFF_FFFF | page() << 32
      case 3: second = second & ~0xFFFF_FFFF | page()
      default: second = second & 0xFFFF_FFFF | page() << 32
      }
    }
    let check = PageEntry.check(first, second, page: index)
    pool.setWord(first | check << 16, at: offset)
    pool.setWord(second, at: offset + 8)
  }

  /// Makes any page a slab, or changes the counts of one.
  private mutating func forgeSlab(_ pool: inout CraftedPool) {
    let index = 1 + anyPage(pool)
    let sizeClass = below(30)
    let offset = image(pool) + index * 4096
    // As a new slab has it, or not.
    let isPlausible = sizeClass < SizeClass.count && below(3) > 0
    let blocks = isPlausible ? SizeClass.shapes[sizeClass].blocks : below(65536)
    pool.setWord(Heap.slabHeader(index, sizeClass) | UInt64(blocks) << 48, at: offset)
    for word in 0..<4 {
      let count = min(max(blocks - word * 64, 0), 64)
      let bits = count == 64 ? UInt64.max : (1 << UInt64(count)) - 1
      pool.setWord(isPlausible ? bits : value(0), at: offset + 8 + word * 8)
    }
    guard below(4) > 0 else { return }
    set32(&pool, UInt32(index), at: image(pool) + 448 + sizeClass * 4)
    let entry = image(pool) + 4096 + index * 16
    let pages = isPlausible ? SizeClass.shapes[sizeClass].pages : 1 << below(4)
    let first = 3 | UInt64(sizeClass) << 8 | UInt64(pages) << 32
    let entryCheck = PageEntry.check(first, 0, page: index)
    pool.setWord(first | entryCheck << 16, at: entry)
    pool.setWord(0, at: entry + 8)
  }

  private mutating func forgeRoots(_ pool: inout CraftedPool) {
    let header = image(pool)
    let index = Int(pool.words(at: header + 40, count: 1)[0] & 0xFF)
    let page = header + index * 4096
    if below(2) == 0 {
      let offset = page + below(3) * 8
      pool.setWord(below(2) == 0 ? self.page() : value(0), at: offset)
      pool.setWord(hash(pool, page, words: 3, from: UInt64(index)), at: page + 24)
    } else {
      let entry = page + (1 + below(4)) * 128
      let offset = entry + below(11) * 8
      pool.setWord(value(pool.words(at: offset, count: 1)[0]), at: offset)
      pool.setWord(hash(pool, entry, words: 11, from: UInt64(entry - header)), at: entry + 88)
    }
  }
}
