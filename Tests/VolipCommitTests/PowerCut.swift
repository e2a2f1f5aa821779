#if DEBUG
  import Glibc
  import TestSupport

  @testable import VolipCommit

  /// A pool file as it is on media while a program runs, and what a power cut would leave of it.
  ///
  /// What was stored may or may not have arrived, in any order, in units that are never torn: lines
  /// of 64 bytes on the cache-line path, sectors of 512 bytes on the msync path. What was flushed,
  /// or stored past the cache, has arrived after the next fence.
  final class PowerCut: PersistenceObserver {
    let memory: DurableMemory
    /// The bytes on media. Behind `end` there is nothing that the test looks at.
    private(set) var durable: [UInt8]
    private let unit: Int
    private let parts: [Range<Int>]
    private var pending: [Range<Int>] = []
    private var generator: SeededGenerator
    /// Called at each fence, before it, and after it; the test cuts the power there.
    var atFence: (PowerCut) throws(PoolError) -> Void = { _ throws(PoolError) in }
    private(set) var fences = 0
    /// Whether the next fence is about a superblock copy.
    var isAtSuperblock: Bool { pending.contains { $0.lowerBound < 8192 } }

    /// - Parameter durable: the bytes on media; those that can be read when nil.
    init(
      _ memory: DurableMemory, _ geometry: PoolGeometry, durable: [UInt8]? = nil,
      using generator: inout SeededGenerator
    ) {
      self.memory = memory
      self.generator = SeededGenerator(seed: generator.next())
      unit = memory.path == .cacheLines ? 64 : 512
      let log = Int(geometry.logOffset)..<Int(geometry.logOffset + geometry.logBytesMax)
      let image = Int(geometry.imageOffset)
      parts = [0..<8192, log, image..<image + EnginePool.watchedPages * 4096]
      self.durable =
        durable
        ?? Array(UnsafeRawBufferPointer(start: memory.base, count: memory.byteCount))
      memory.observer = self
    }

    func willBeDurable(_ range: Range<Int>) { pending.append(range) }

    func willFence() throws(PoolError) {
      fences += 1
      do throws(PoolError) {
        try atFence(self)
      } catch {
        pending.removeAll()
        throw error
      }
    }

    func didFence() {
      let page = memory.path == .cacheLines ? 64 : 4096
      for range in pending {
        let whole = range.lowerBound / page * page..<(range.upperBound + page - 1) / page * page
        arrive(whole)
      }
      pending.removeAll()
    }

    private func arrive(_ range: Range<Int>) {
      durable.withUnsafeMutableBytes {
        _ = memcpy($0.baseAddress! + range.lowerBound, memory.base + range.lowerBound, range.count)
      }
    }

    /// Units that are stored and not on media.
    private func lost() -> [Int] {
      var result: [Int] = []
      durable.withUnsafeBytes { bytes in
        for part in parts {
          // Whole pages first: nearly all are equal.
          for page in stride(from: part.lowerBound, to: part.upperBound, by: 4096)
          where memcmp(bytes.baseAddress! + page, memory.base + page, 4096) != 0 {
            for start in stride(from: page, to: page + 4096, by: unit)
            where memcmp(bytes.baseAddress! + start, memory.base + start, unit) != 0 {
              result.append(start)
            }
          }
        }
      }
      return result
    }

    /// Some of what was stored arrives by itself: a cache evicts lines, a kernel writes pages.
    func evictSome() {
      let share = UInt64.random(in: 0...4, using: &generator)
      for start in lost() where UInt64.random(in: 0..<8, using: &generator) < share {
        arrive(start..<start + unit)
      }
    }

    /// What a power cut may leave now.
    func image() -> [UInt8] {
      var image = durable
      let units = lost()
      func take(_ start: Int) {
        image.withUnsafeMutableBytes {
          _ = memcpy($0.baseAddress! + start, memory.base + start, unit)
        }
      }
      switch Int.random(in: 0..<6, using: &generator) {
      case 0: break
      case 1: for start in units { take(start) }
      case 2:  // all but one
        let missing = units.randomElement(using: &generator)
        for start in units where start != missing { take(start) }
      case 3:  // one alone
        if let one = units.randomElement(using: &generator) { take(one) }
      default:
        let share = UInt64.random(in: 1..<8, using: &generator)
        for start in units where UInt64.random(in: 0..<8, using: &generator) < share {
          take(start)
        }
      }
      return image
    }

    /// What a kill leaves: everything that was stored can be read.
    func readable() -> [UInt8] {
      Array(UnsafeRawBufferPointer(start: memory.base, count: memory.byteCount))
    }
  }
#endif
