import Foundation
import TestSupport
import Testing
import VolipMem

/// What the heaps waste after many blocks of all sizes came and went.
/// `VOLIP_FRAGMENTATION_ROUNDS=10000000` for the long run.
@Suite struct FragmentationTests {
  static let rounds =
    ProcessInfo.processInfo.environment["VOLIP_FRAGMENTATION_ROUNDS"].flatMap { Int($0) } ?? 300_000
  /// At most so much of the memory in use is not in blocks that somebody asked for.
  static let fragmentationMax = 0.25

  /// Most blocks are small, some have pages of their own.
  private func size(_ generator: inout SeededGenerator) -> Int {
    switch Int.random(in: 0..<100, using: &generator) {
    case 0..<70: Int.random(in: 1...256, using: &generator)
    case 70..<95: Int.random(in: 257...4096, using: &generator)
    default: Int.random(in: 4097...65536, using: &generator)
    }
  }

  @Test(arguments: [true, false])
  func randomAllocationsAndFreesOfMixedSizesLeaveLittleBetweenBlocks(isAnnounced: Bool) throws {
    var generator = SeededGenerator.forTest("fragmentation \(isAnnounced)")
    let test = try CollectionPool(byteCount: 512 << 20, audit: false)
    let blocksMax = 20_000
    var blocks: [(address: UnsafeMutableRawPointer, byteCount: Int)] = []
    var (asked, worst) = (0, 0.0)
    func change(_ section: inout VolipMem.Section) throws {
      // Now few blocks, now many: what was full becomes empty again.
      let wanted = Int.random(in: blocksMax / 2...blocksMax, using: &generator)
      for _ in 0..<5000 {
        let takes =
          blocks.isEmpty
          || Int.random(in: 0..<blocksMax, using: &generator)
            < (blocks.count < wanted ? 14_000 : 6_000)
        if takes {
          let byteCount = size(&generator)
          let address =
            try isAnnounced
            ? section.allocateAnnounced(byteCount: byteCount)
            : test.pool.allocate(byteCount: byteCount)
          blocks.append((address, byteCount))
          asked += byteCount
        } else {
          let index = Int.random(in: blocks.indices, using: &generator)
          let (address, byteCount) = blocks[index]
          blocks.swapAt(index, blocks.count - 1)
          blocks.removeLast()
          asked -= byteCount
          if isAnnounced {
            try section.deallocateAnnounced(address)
          } else {
            try test.pool.deallocate(address)
          }
        }
      }
    }
    for round in 1...max(Self.rounds / 5000, 1) {
      try test.pool.section(isAnnounced ? .announced : .exclusive, change)
      guard round % 20 == 0, blocks.count >= blocksMax / 2 else { continue }
      let report = test.pool.checkHeap()
      #expect(report.isConsistent, "\(report.problems)")
      worst = max(worst, 1 - Double(asked) / Double(report.usedPages << 12))
    }
    let report = test.pool.checkHeap()
    let last = 1 - Double(asked) / Double(report.usedPages << 12)
    print(
      "fragmentation \(isAnnounced ? "announced" : "tracked"): \(Self.rounds) rounds,",
      "\(blocks.count) blocks, at the end \(last), at worst \(worst)")
    #expect(worst > 0 && max(last, worst) < Self.fragmentationMax)
    #expect(report.blocks.count == blocks.count)
  }
}
