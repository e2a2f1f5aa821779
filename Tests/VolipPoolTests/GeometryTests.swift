import TestSupport
import Testing

@testable import VolipPool

@Suite struct GeometryTests {
  private func isInvalidArgument(_ body: () throws -> Void) -> Bool {
    do {
      try body()
      return false
    } catch {
      guard case PoolError.invalidArgument(let reason) = error else { return false }
      return !reason.isEmpty
    }
  }

  @Test func theSmallestPoolHasAMebibyte() throws {
    let smallest = try PoolGeometry(fileBytes: 1 << 20, logBytes: nil, logBytesMax: nil)
    #expect(smallest.logBytes >= PoolGeometry.logBytesMin)
    #expect(smallest.imageBytes >= PoolGeometry.imageBytesMin)
    for bytes: UInt64 in [0, 1, 4096, (1 << 20) - 1, (1 << 43) + 1, .max] {
      #expect(
        isInvalidArgument {
          _ = try PoolGeometry(fileBytes: bytes, logBytes: nil, logBytesMax: nil)
        }, "\(bytes)")
    }
  }

  @Test func oddSizesBecomeWholePagesWithoutAContradiction() throws {
    var generator = SeededGenerator.forTest()
    for _ in 0..<500 {
      let fileBytes = UInt64.random(in: 1 << 20...1 << 36, using: &generator)
      let logBytesMax = UInt64.random(in: 64 << 10...fileBytes / 2, using: &generator)
      let logBytes = UInt64.random(in: 64 << 10...logBytesMax, using: &generator)
      var geometry = try PoolGeometry(
        fileBytes: fileBytes, logBytes: Bool.random(using: &generator) ? logBytes : nil,
        logBytesMax: Bool.random(using: &generator) ? logBytesMax : nil)
      geometry.baseAddress = AddressMap.poolRange.lowerBound
      #expect(geometry.contradiction == nil)
      #expect(geometry.fileBytes <= fileBytes && geometry.fileBytes > fileBytes - 4096)
      #expect(geometry.imageOffset + geometry.imageBytes == geometry.fileBytes)
      #expect(geometry.pageCount * 4096 == geometry.imageBytes)
    }
  }

  @Test func logSizesThatNoPoolCanHaveAreRefused() {
    let bad: [(log: UInt64?, most: UInt64?)] = [
      (0, nil), (1, nil), (32 << 10, nil), (nil, 0), (nil, 4096), (128 << 10, 64 << 10),
      (nil, 1 << 20), (nil, 900 << 10), (1 << 20, nil), (.max, nil), (nil, .max), (.max, .max),
    ]
    for (log, most) in bad {
      #expect(
        isInvalidArgument {
          _ = try PoolGeometry(fileBytes: 1 << 20, logBytes: log, logBytesMax: most)
        }, "\(String(describing: log)) \(String(describing: most))")
    }
  }

  // MARK: Address map

  @Test func drawnBasesAreAlignedAndInRange() throws {
    var generator = SeededGenerator.forTest()
    for _ in 0..<500 {
      let imageBytes = UInt64.random(in: 1...2 << 40, using: &generator) / 4096 * 4096 + 4096
      let base = try AddressMap.drawBase(imageBytes: imageBytes, using: &generator)
      #expect(base % AddressMap.baseAlignment == 0)
      #expect(AddressMap.poolRange.contains(base))
      #expect(base + imageBytes <= AddressMap.poolRange.upperBound)
      #expect(AddressMap.isPlausible(base: base, imageBytes: imageBytes))
    }
  }

  @Test func aPoolAsLargeAsTheRangeHasOneBaseAndALargerOneNone() throws {
    var generator = SeededGenerator.forTest()
    let whole = UInt64(AddressMap.poolRange.count)
    #expect(
      try AddressMap.drawBase(imageBytes: whole, using: &generator)
        == AddressMap.poolRange.lowerBound)
    for bytes in [whole + 1, whole + 4096, .max] {
      #expect(throws: PoolError.addressSpaceExhausted(bytes: bytes)) {
        try AddressMap.drawBase(imageBytes: bytes, using: &generator)
      }
    }
  }

  @Test func basesOutsideTheLowerHalfAreImplausible() {
    let image: UInt64 = 1 << 20
    for base: UInt64 in [
      0, 4096, (1 << 32) - 4096, (1 << 47) - 4096, 1 << 47, 1 << 63, .max & ~4095,
    ] {
      #expect(!AddressMap.isPlausible(base: base, imageBytes: image), "\(base)")
    }
    #expect(!AddressMap.isPlausible(base: 0x5700_0000_0001, imageBytes: image))
    #expect(!AddressMap.isPlausible(base: 0x5700_0000_0000, imageBytes: .max))
    #expect(AddressMap.isPlausible(base: 1 << 32, imageBytes: image))
    #expect(AddressMap.isPlausible(base: (1 << 47) - image, imageBytes: image))
  }
}
