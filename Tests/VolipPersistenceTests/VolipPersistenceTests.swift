import CVolipPersistence
import Glibc
import Testing
import TestSupport

@testable import VolipPersistence

/// The variants that this processor can run; scalar is always among them.
let variants: [cvp_variant] = [CVP_SCALAR, CVP_AVX2, CVP_AVX512].filter {
  $0.rawValue <= cvp_variant_widest().rawValue
}

/// Random lines at an address aligned to a page.
final class Lines {
  let base: UnsafeMutableRawPointer
  let count: Int

  init(count: Int, using generator: inout SeededGenerator) {
    self.count = count
    base = .allocate(byteCount: max(count, 1) * 64, alignment: 4096)
    for word in 0..<count * 8 {
      base.storeBytes(of: generator.next(), toByteOffset: word * 8, as: UInt64.self)
    }
  }

  deinit { base.deallocate() }

  func flip(bit: Int) {
    let byte = base.load(fromByteOffset: bit / 8, as: UInt8.self)
    base.storeBytes(of: byte ^ 1 << UInt8(bit % 8), toByteOffset: bit / 8, as: UInt8.self)
  }

  func copy() -> Lines {
    var unused = SeededGenerator(seed: 0)
    let other = Lines(count: count, using: &unused)
    other.base.copyMemory(from: base, byteCount: count * 64)
    return other
  }

  func seal(_ variant: cvp_variant, seed: UInt64, steps: [Int]) -> UInt64 {
    var seal = cvp_seal()
    cvp_seal_begin(&seal, seed)
    var done = 0
    for step in steps + [count] where done < count {
      let lines = min(step, count - done)
      cvp_seal_lines_variant(variant, &seal, base + done * 64, lines)
      done += lines
    }
    return cvp_seal_value(&seal)
  }
}

@Suite struct LineTests {
  /// Recovery made the log durable with a copy to itself, for which glibc's memcpy stores nothing:
  /// pages whose msync had failed once stayed clean, and their record was never on the disk.
  @Test func linesThatAreStoredAgainMakeTheirPagesDirty() throws {
    let byteCount = 16 * 4096
    let descriptor = cvp_unnamed_file("/tmp", 0o600)
    try #require(descriptor >= 0 && ftruncate(descriptor, off_t(byteCount)) == 0)
    defer { close(descriptor) }
    let mapped = try #require(
      mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE, descriptor, 0))
    defer { munmap(mapped, byteCount) }
    for page in 0..<16 { #expect(mapped.load(fromByteOffset: page * 4096, as: UInt8.self) == 0) }
    cvp_store_lines_again(mapped, byteCount / 64)
    // A page that was stored to is private by now, and does not see the file change.
    let ones = [UInt8](repeating: 1, count: byteCount)
    #expect(pwrite(descriptor, ones, byteCount, 0) == byteCount)
    for page in 0..<16 { #expect(mapped.load(fromByteOffset: page * 4096, as: UInt8.self) == 0) }
  }

  @Test func everyVariantFindsExactlyTheLinesThatDiffer() {
    var generator = SeededGenerator.forTest()
    for _ in 0..<500 {
      let page = Lines(count: 64, using: &generator)
      let image = page.copy()
      var expected: UInt64 = 0
      for _ in 0..<Int.random(in: 0...5, using: &generator) {
        let bit = Int.random(in: 0..<4096 * 8, using: &generator)
        image.flip(bit: bit)
        expected |= 1 << UInt64(bit / 512)
      }
      for line in 0..<64 where expected >> UInt64(line) & 1 != 0 {
        var isSame = true
        for word in 0..<8 {
          let byte = line * 64 + word * 8
          isSame =
            isSame
            && page.base.load(fromByteOffset: byte, as: UInt64.self)
              == image.base.load(fromByteOffset: byte, as: UInt64.self)
        }
        if isSame { expected &= ~(1 << UInt64(line)) }  // the same bit was flipped twice
      }
      let pair = cvp_page_pair(page: page.base, image: image.base)
      for variant in variants {
        #expect(cvp_page_difference_variant(variant, pair, pair) == expected)
      }
    }
  }

  @Test func everyVariantComputesTheSameSealHoweverTheLinesAreCut() {
    var generator = SeededGenerator.forTest()
    for count in [1, 2, 3, 7, 64, 1000] {
      let lines = Lines(count: count, using: &generator)
      let seed = generator.next()
      let whole = lines.seal(CVP_SCALAR, seed: seed, steps: [])
      for variant in variants {
        let steps = (0..<5).map { _ in Int.random(in: 1...10, using: &generator) }
        #expect(lines.seal(variant, seed: seed, steps: steps) == whole)
      }
    }
  }

  /// Threads seal a part each.
  @Test func partsMakeTheSealOfTheWhole() {
    var generator = SeededGenerator.forTest("parts of a seal")
    for count in [1, 2, 9, 64, 1000] {
      let lines = Lines(count: count, using: &generator)
      let seed = generator.next()
      for _ in 0..<20 {
        var cuts = (0..<3).map { _ in Int.random(in: 0...count, using: &generator) }.sorted()
        cuts = [0] + cuts + [count]
        var seal = cvp_seal()
        cvp_seal_begin(&seal, seed)
        for (start, end) in zip(cuts, cuts.dropFirst()) {
          var part = cvp_seal()
          cvp_seal_begin_part(&part, UInt64(start))
          cvp_seal_lines(&part, lines.base + start * 64, end - start)
          cvp_seal_add_part(&seal, &part)
        }
        #expect(cvp_seal_value(&seal) == lines.seal(CVP_SCALAR, seed: seed, steps: []))
      }
    }
  }

  @Test func sealSeesEveryFlippedBitASwappedPairAMissingLineAndAnotherSeed() {
    var generator = SeededGenerator.forTest()
    let lines = Lines(count: 8, using: &generator)
    let variant = cvp_variant_widest()
    let seal = lines.seal(variant, seed: 1, steps: [])
    for bit in 0..<8 * 512 {
      lines.flip(bit: bit)
      #expect(lines.seal(variant, seed: 1, steps: []) != seal)
      lines.flip(bit: bit)
    }
    #expect(lines.seal(variant, seed: 2, steps: []) != seal)
    let swapped = lines.copy()
    swapped.base.copyMemory(from: lines.base + 64, byteCount: 64)
    (swapped.base + 64).copyMemory(from: lines.base, byteCount: 64)
    #expect(swapped.seal(variant, seed: 1, steps: []) != seal)
    var short = cvp_seal()
    cvp_seal_begin(&short, 1)
    cvp_seal_lines(&short, lines.base, 7)
    #expect(cvp_seal_value(&short) != seal)
  }

  /// A sum of products would see zero lines as nothing.
  @Test func sealTellsHowManyZeroLinesThereAre() {
    let zeroes = UnsafeMutableRawPointer.allocate(byteCount: 64 * 16, alignment: 64)
    defer { zeroes.deallocate() }
    zeroes.initializeMemory(as: UInt8.self, repeating: 0, count: 64 * 16)
    var seen: Set<UInt64> = []
    for count in 0...16 {
      var seal = cvp_seal()
      cvp_seal_begin(&seal, 0)
      cvp_seal_lines(&seal, zeroes, count)
      seen.insert(cvp_seal_value(&seal))
    }
    #expect(seen.count == 17)
  }

  @Test func storedLinesAreTheSealedOnes() {
    var generator = SeededGenerator.forTest()
    let lines = Lines(count: 33, using: &generator)
    for variant in variants {
      let target = Lines(count: 33, using: &generator)
      var seal = cvp_seal()
      cvp_seal_begin(&seal, 5)
      cvp_seal_and_store_lines_variant(variant, &seal, target.base, lines.base, 33)
      #expect(cvp_seal_value(&seal) == lines.seal(CVP_SCALAR, seed: 5, steps: []))
      #expect(target.seal(CVP_SCALAR, seed: 5, steps: []) == cvp_seal_value(&seal))
    }
  }

  @Test func copiedLinesAreEqualAndTheNextLineIsUntouched() {
    var generator = SeededGenerator.forTest()
    let lines = Lines(count: 5, using: &generator)
    let target = Lines(count: 6, using: &generator)
    let last = (0..<8).map { target.base.load(fromByteOffset: 320 + $0 * 8, as: UInt64.self) }
    cvp_copy_lines(target.base, lines.base, 5)
    for word in 0..<40 {
      #expect(
        target.base.load(fromByteOffset: word * 8, as: UInt64.self)
          == lines.base.load(fromByteOffset: word * 8, as: UInt64.self))
    }
    #expect(
      (0..<8).map { target.base.load(fromByteOffset: 320 + $0 * 8, as: UInt64.self) } == last)
  }
}

@Suite struct PoolErrorTests {
  @Test func everyErrorSaysWhatToDoAndHasAnExitCode() {
    let errors: [PoolError] = [
      .notAPool(path: "p", fileOffset: 0, reason: "r"),
      .truncated(path: "p", expectedBytes: 2, actualBytes: 1),
      .foreignVersion(path: "p", fileOffset: 8, found: 2, supported: 1),
      .unknownFeatures(path: "p", fileOffset: 24, bits: 4),
      .damagedSuperblock(path: "p", fileOffset: 0, reason: "r"),
      .damagedLog(path: "p", fileOffset: 0, reason: "r"), .damagedHeap(offset: 0, reason: "r"),
      .inUse(path: "p"), .notFound(path: "p"), .alreadyExists(path: "p"),
      .noPermission(path: "p"), .invalidArgument("a"), .system(operation: "o", errorNumber: 5),
      .addressTaken(address: 1, bytes: 1), .addressSpaceExhausted(bytes: 1),
      .poolFull(requestedBytes: 1, availableBytes: 0),
      .sectionTooLarge(neededBytes: 2, availableBytes: 1),
      .diskFull(path: "p", neededBytes: 1), .noSection, .writeOutsideSection(offset: 1),
      .nestedSection, .sectionAborted, .forkedChild, .closed, .poisoned(reason: "r"),
      .outcomeUnknown(errorNumber: 5), .trackerUnavailable(tracker: "t", reason: "r"),
      .notAllocated(offset: 1), .rootLayoutMismatch(name: "n", expected: 1, found: 2),
      .unannouncedWrite(offset: 1), .volatilePointer(value: 1, offset: 1, root: "", layout: ""),
      .invalidRootName("n"),
    ]
    #expect(Set(errors.map(\.description)).count == errors.count)
    for error in errors {
      #expect(error.description.count > 10, "\(error)")
      #expect(error.exitCode > 0)
    }
  }
}

/// Threads with views of one mapping, of which the kernel tells one of what it could not write.
@Suite struct SyncFailureTests {
  private final class FailingOnce: PersistenceObserver, @unchecked Sendable {
    var isArmed = false
    func didMap(_ memory: DurableMemory) {}
    func didStore(_ range: Range<Int>, isCached: Bool) {}
    func didFlush(_ range: Range<Int>) {}
    func willFence() throws(PoolError) {
      guard isArmed else { return }
      isArmed = false
      throw .system(operation: "msync", errorNumber: EIO)
    }
    func didFence() {}
    func didSetLength(_ bytes: Int) {}
    func didSyncLength() {}
  }

  @Test func aFenceThatFailedForOneViewIsPassedByNone() throws {
    guard PersistenceLaboratory.isBuilt else { return }
    let directory = TemporaryDirectory()
    let path = directory.file("synced")
    FileBytes.write([UInt8](repeating: 0, count: 8 * 4096), to: path)
    let descriptor = open(path, O_RDWR | O_CLOEXEC)
    defer { close(descriptor) }
    let observer = FailingOnce()
    let memory = try PersistenceLaboratory.$observer.withValue(observer) {
      try DurableMemory.map(descriptor: descriptor, forced: .msync)
    }
    defer { memory.unmap() }
    let views = (0..<2).map { _ in DurableMemory(viewOf: memory) }
    for view in views {
      view.flush(0..<64)
      try view.fence()
    }
    for view in views { view.flush(4096..<4160) }
    observer.isArmed = true
    #expect(throws: PoolError.self) { try views[0].fence() }
    #expect(throws: PoolError.self) { try views[1].fence() }
    #expect(throws: PoolError.self) { try memory.fence() }
  }
}
