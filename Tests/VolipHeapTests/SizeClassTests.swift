import Testing

@testable import VolipHeap

@Suite struct SizeClassTests {
  @Test func everySizeGetsTheSmallestClassThatFits() {
    for byteCount in 1...SizeClass.smallBytesMax {
      let index = SizeClass.index(byteCount)
      #expect(SizeClass.sizes.indices.contains(index))
      #expect(SizeClass.sizes[index] >= byteCount)
      #expect(index == 0 || SizeClass.sizes[index - 1] < byteCount)
    }
  }

  /// At most 15 bytes up to 128, at most a fifth of the block beyond.
  @Test func noClassWastesMoreThanItsStep() {
    for byteCount in 1...SizeClass.smallBytesMax {
      let size = SizeClass.sizes[SizeClass.index(byteCount)]
      let waste = size - byteCount
      #expect(byteCount <= 128 ? waste < 16 : waste * 5 < size, "\(byteCount) in \(size)")
    }
  }

  @Test func classesAscendFrom16To4096() {
    #expect(SizeClass.sizes.count == SizeClass.count)
    #expect(SizeClass.sizes.first == 16 && SizeClass.sizes.last == 4096)
    #expect(zip(SizeClass.sizes, SizeClass.sizes.dropFirst()).allSatisfy { $0 < $1 })
    #expect(SizeClass.sizes.allSatisfy { $0 % 16 == 0 })
  }

  @Test func slabsHoldTheirBlocksAndWasteAtMostAnEighth() {
    for shape in SizeClass.shapes {
      let used = SizeClass.slabHeaderBytes + shape.blocks * shape.blockBytes
      #expect([1, 2, 4, 8].contains(shape.pages))
      #expect(used <= shape.pages * 4096)
      #expect((1...SizeClass.blocksMax).contains(shape.blocks))
      #expect(shape.blocks * shape.blockBytes * 8 >= shape.pages * 4096 * 7, "\(shape)")
    }
  }

  @Test func theReciprocalDividesEveryOffsetInASlab() {
    for shape in SizeClass.shapes {
      for offset in 0..<shape.pages * 4096 {
        let quotient = shape.index(offset)
        guard quotient != offset / shape.blockBytes else { continue }
        Issue.record("\(offset) / \(shape.blockBytes) gives \(quotient)")
        return
      }
    }
  }
}
