// allocate: blocks of 64 bytes in sections of 1,000, the pool's heap against glibc's.
//
//   pairs      each step allocates a block and frees it
//   turnover   each section allocates 1,000 blocks, then frees the 1,000 of the section before

import ArgumentParser
import Glibc
import VolipMem

struct Allocate: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Allocate and free of 64 bytes in sections of 1,000, against malloc and free.")

  @OptionGroup var runOptions: RunOptions
  @OptionGroup var configurations: ConfigurationOptions

  func run() throws {
    try Report(runOptions).show(allocateBenchmark(runOptions, configurations.list))
  }
}

private let blockBytes = 64
private let blocksInSection = 1000

private protocol BlockSource: SectionRunner {
  func take() throws -> UnsafeMutableRawPointer
  func give(_ block: UnsafeMutableRawPointer) throws
}

private struct PoolBlocks: BlockSource {
  let pool: Pool

  @inline(__always)
  func section(_ body: () throws -> Void) throws { try pool.section { _ in try body() } }
  @inline(__always)
  func take() throws -> UnsafeMutableRawPointer { try pool.allocate(byteCount: blockBytes) }
  @inline(__always)
  func give(_ block: UnsafeMutableRawPointer) throws { try pool.deallocate(block) }
}

private struct MallocBlocks: BlockSource {
  @inline(__always)
  func section(_ body: () throws -> Void) throws { try body() }
  @inline(__always)
  func take() throws -> UnsafeMutableRawPointer { malloc(blockBytes)! }
  @inline(__always)
  func give(_ block: UnsafeMutableRawPointer) throws { free(block) }
}

private enum AllocationPattern: String, CaseIterable {
  case pairs, turnover

  /// Nanoseconds of a pair of allocate and free.
  func sample(_ source: some BlockSource, for duration: Double) throws -> Double {
    switch self {
    case .pairs: try pairs(source, for: duration)
    case .turnover: try turnover(source, for: duration)
    }
  }

  private func pairs(_ source: some BlockSource, for duration: Double) throws -> Double {
    // The block's address goes through memory: the compiler may not drop the pair.
    let slot = UnsafeMutablePointer<UnsafeMutableRawPointer>.allocate(capacity: 1)
    defer { slot.deallocate() }
    let (sections, seconds) = try repeated(for: duration) {
      try source.section {
        for _ in 0..<blocksInSection {
          slot.pointee = try source.take()
          try source.give(slot.pointee)
        }
      }
    }
    return seconds * 1e9 / Double(sections * blocksInSection)
  }

  private func turnover(_ source: some BlockSource, for duration: Double) throws -> Double {
    typealias Block = UnsafeMutableRawPointer
    var older = UnsafeMutablePointer<Block>.allocate(capacity: blocksInSection)
    var newer = UnsafeMutablePointer<Block>.allocate(capacity: blocksInSection)
    defer {
      older.deallocate()
      newer.deallocate()
    }
    try source.section {
      for index in 0..<blocksInSection { older[index] = try source.take() }
    }
    let (sections, seconds) = try repeated(for: duration) {
      try source.section {
        for index in 0..<blocksInSection { newer[index] = try source.take() }
        for index in 0..<blocksInSection { try source.give(older[index]) }
      }
      swap(&older, &newer)
    }
    try source.section {
      for index in 0..<blocksInSection { try source.give(older[index]) }
    }
    return seconds * 1e9 / Double(sections * blocksInSection)
  }
}

/// At most so many times glibc's pair.
private let ratioMax = 3.0

func allocateBenchmark(
  _ run: RunOptions, _ configurations: [PoolConfiguration]
) throws -> BenchmarkResult {
  let duration = run.quick ? 0.05 : 0.5
  let pools = try configurations.map { configuration in
    try ScratchPool(byteCount: 256 << 20).open(configuration)
  }
  var measurements: [Measurement] = []
  for pattern in AllocationPattern.allCases {
    var glibc = Measurement("allocate", pattern.rawValue, unit: "ns/pair")
    glibc.system = "glibc"
    var ours = configurations.map {
      Measurement("allocate", pattern.rawValue, unit: "ns/pair").with($0)
    }
    var ratios = configurations.map {
      Measurement("allocate", pattern.rawValue, unit: "times glibc").with($0)
    }
    for _ in 0..<run.repetitionCount {
      _ = try pattern.sample(MallocBlocks(), for: duration / 5)
      let base = try pattern.sample(MallocBlocks(), for: duration)
      glibc.samples.append(base)
      for (index, pool) in pools.enumerated() {
        _ = try pattern.sample(PoolBlocks(pool: pool), for: duration / 5)
        let sample = try pattern.sample(PoolBlocks(pool: pool), for: duration)
        ours[index].samples.append(sample)
        ratios[index].samples.append(sample / base)
      }
    }
    for index in ratios.indices { ratios[index].target = "<= \(short(ratioMax))" }
    measurements += [glibc] + ours + ratios
  }
  for index in measurements.indices { measurements[index].batch = blocksInSection }
  return BenchmarkResult(
    title: "allocate: \(blockBytes) bytes, allocated and freed in sections of \(blocksInSection)",
    measurements: measurements, table: .list(measurements))
}
