import Dispatch
import Glibc
import TestSupport
import Testing

@testable import VolipCommit

/// Programs whose habits change: pages that are hot for a while, then cold, so that retention
/// begins and ends again and again, and is observed in some commits only.
@Suite struct RetentionCampaignTests {
  @Test(arguments: TrackerKind.hostKinds)
  func noWriteIsMissedHoweverHabitsChange(_ kind: TrackerKind) throws {
    var generator = SeededGenerator.forTest("habits \(kind.rawValue)")
    guard let pool = try whereTrackerIsAvailable({ try EnginePool(tracker: kind) }) else { return }
    let habits = Habits(pool)
    var (idle, retained, stray) = (0, 0, 0)
    for _ in 0..<40 {
      habits.change(using: &generator)
      for _ in 0..<Int.random(in: 1...60, using: &generator) {
        try habits.section(using: &generator)
        #expect(habits.isImageEqual())
        if pool.engine.parts.retention.isIdle { idle += 1 } else { retained += 1 }
        if kind == .pageMapScan, Int.random(in: 0..<20, using: &generator) == 0 {
          stray += 1
          habits.writeOutsideASection(using: &generator)
        }
      }
    }
    print("\(idle) commits idle, \(retained) retaining, \(stray) stray writes")
  }
}

/// A program over the watched pages of a pool.
private final class Habits {
  let pool: EnginePool
  private var hot: [Int] = []
  private var cold: [Int] = []
  private var heat = 0
  private var expected: [UInt8]

  init(_ pool: EnginePool) {
    self.pool = pool
    expected = [UInt8](repeating: 0, count: EnginePool.watchedPages * 4096)
  }

  func change(using generator: inout SeededGenerator) {
    let pages = Array(0..<EnginePool.watchedPages).shuffled(using: &generator)
    hot = Array(pages[..<Int.random(in: 1...20, using: &generator)])
    cold = Array(pages[hot.count...])
    heat = Int.random(in: 0...10, using: &generator)
  }

  /// One store of a random value (also the old one) to each of some pages, by this thread or two.
  func section(using generator: inout SeededGenerator) throws {
    var offsets: [Int] = []
    for page in hot where Int.random(in: 0..<10, using: &generator) < heat {
      offsets.append(page * 4096 + Int.random(in: 0..<4096, using: &generator))
    }
    for page in cold where Int.random(in: 0..<100, using: &generator) == 0 {
      offsets.append(page * 4096 + Int.random(in: 0..<4096, using: &generator))
    }
    let values = offsets.map { _ in UInt8(truncatingIfNeeded: generator.next() as UInt64) & 3 }
    try openSection()
    let bytes = pool.engine.base.assumingMemoryBound(to: UInt8.self)
    store(offsets, values, to: bytes, byTwo: Int.random(in: 0..<10, using: &generator) == 0)
    switch Int.random(in: 0..<12, using: &generator) {
    case 0:
      try pool.engine.abortSection()
      return
    case 1: try pool.engine.commitSection()
    default: break
    }
    try pool.engine.closeSection()
    for (offset, value) in zip(offsets, values) { expected[offset] = value }
    // A stray write to a retained page belongs to the section.
    if let strayOffset, bytes[strayOffset] == strayValue { expected[strayOffset] = strayValue }
    strayOffset = nil
  }

  private func openSection() throws {
    do {
      try pool.engine.openSection()
    } catch {
      guard case .writeOutsideSection = error else { throw error }
      try pool.engine.openSection()
    }
  }

  private func store(
    _ offsets: [Int], _ values: [UInt8], to bytes: UnsafeMutablePointer<UInt8>, byTwo: Bool
  ) {
    guard byTwo else {
      for (offset, value) in zip(offsets, values) { bytes[offset] = value }
      return
    }
    nonisolated(unsafe) let bytes = bytes
    DispatchQueue.concurrentPerform(iterations: 2) { thread in
      for index in offsets.indices where index % 2 == thread {
        bytes[offsets[index]] = values[index]
      }
    }
  }

  private var strayOffset: Int?
  private var strayValue: UInt8 = 0

  func writeOutsideASection(using generator: inout SeededGenerator) {
    let offset = Int.random(in: 0..<expected.count, using: &generator)
    strayOffset = offset
    strayValue = pool.bytes[offset] &+ 1
    pool.bytes[offset] = strayValue
  }

  /// Working copy, image and model after a section.
  func isImageEqual() -> Bool {
    let count = expected.count
    let image = pool.engine.parts.memory.address(pool.engine.parts.imageOffset)
    return memcmp(image, pool.engine.base, count) == 0 && memcmp(expected, image, count) == 0
  }
}
