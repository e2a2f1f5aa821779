import Glibc
import TestSupport
import Testing

@testable import VolipMem

struct Point: BitwiseCopyable {
  var x: Int
  var y: Double
}

struct PointWithOtherFields: BitwiseCopyable {
  var x: Int
  var z: Double
}

struct PointOfIntegers: BitwiseCopyable {
  var x: Int
  var y: Int
}

struct Unfinished: Error {}

@Suite struct PoolTests {
  let directory = TemporaryDirectory()
  var path: String { directory.file("test.pool") }

  @Test func valuesAndPointersAreTheSameAfterReopening() throws {
    var address: UnsafeMutablePointer<Point>?
    do {
      let pool = try Pool.create(path, byteCount: 1 << 20, options: .test())
      try pool.section { section in
        let root = try pool.root("points", in: &section) {
          let points = try pool.allocate(Point.self, count: 100)
          points.initialize(repeating: Point(x: 1, y: 0.5), count: 100)
          return points
        }
        address = root.pointee
      }
      try pool.close()
      #expect(throws: PoolError.closed) { try pool.pstart() }
      #expect(!pool.checkHeap().isConsistent)
    }
    let pool = try Pool.open(path, options: .test())
    let root = try #require(try pool.root("points", as: UnsafeMutablePointer<Point>.self))
    #expect(root.pointee == address)
    #expect(root.pointee[99].y == 0.5)
    #expect(pool.checkHeap().isConsistent)
  }

  @Test func aThrownErrorRollsTheSectionBackAndIsThrownOn() throws {
    let pool = try Pool.create(path, byteCount: 1 << 20, options: .test())
    let counter = try pool.section { section in try pool.root("n", in: &section) { 5 } }
    #expect(throws: Unfinished.self) {
      try pool.section { _ in
        counter.pointee = 6
        _ = try pool.allocate(byteCount: 100_000)
        throw Unfinished()
      }
    }
    #expect(counter.pointee == 5)
    #expect(pool.checkHeap().blocks.count == 1)
  }

  @Test func anInnerErrorThatIsCaughtStillRollsTheWholeSectionBack() throws {
    let pool = try Pool.create(path, byteCount: 1 << 20, options: .test())
    let counter = try pool.section { section in try pool.root("n", in: &section) { 5 } }
    #expect(throws: PoolError.sectionAborted) {
      try pool.section { _ in
        counter.pointee = 6
        try? pool.section { _ in
          counter.pointee = 7
          throw Unfinished()
        }
      }
    }
    #expect(counter.pointee == 5)
  }

  @Test func aRootOfAnotherLayoutIsATypedErrorAndNamesBothLayouts() throws {
    let pool = try Pool.create(path, byteCount: 1 << 20, options: .test())
    try pool.section { section in
      _ = try pool.root("p", in: &section) { Point(x: 1, y: 2) }
    }
    #expect(try pool.root("p", as: Point.self)?.pointee.x == 1)
    for open in [
      { _ = try pool.root("p", as: PointWithOtherFields.self) },
      { _ = try pool.root("p", as: PointOfIntegers.self) },
      { _ = try pool.root("p", as: Int.self) },
    ] {
      #expect {
        try open()
      } throws: {
        guard case PoolError.rootLayoutMismatch("p", let expected, let found) = $0 else {
          return false
        }
        return expected != found
      }
    }
  }

  @Test func layoutFingerprintsFollowFieldsNotTheNameOfTheType() {
    struct Same: BitwiseCopyable {
      var x: Int
      var y: Double
    }
    #expect(layoutFingerprint(Point.self) == layoutFingerprint(Same.self))
    let others = [
      layoutFingerprint(PointWithOtherFields.self), layoutFingerprint(PointOfIntegers.self),
      layoutFingerprint(Int.self), layoutFingerprint(Double.self),
      layoutFingerprint(UnsafeMutablePointer<Int>.self), layoutFingerprint((Int, Int).self),
    ]
    #expect(Set(others + [layoutFingerprint(Point.self)]).count == others.count + 1)
  }

  @Test func thePrimitivesWorkUnderTheirOwnNames() throws {
    let pool = try pmap(path, byteCount: 1 << 20, options: .test())
    try pstart()
    let number = try pool.allocate(Int.self)
    number.initialize(to: 1)
    try pcommit()
    number.pointee = 2
    try pabort()
    #expect(number.pointee == 1)
    try pstart()
    number.pointee = 3
    try pend()
    #expect(number.pointee == 3)
    try punmap()
    #expect(throws: PoolError.closed) { try pstart() }
    let again = try pmap(path, options: .test())
    #expect(number.pointee == 3)
    #expect(again.checkHeap().blocks.count == 1)
    try punmap()
  }

  @Test func twoPoolsOfOneProcessHaveSectionsOfTheirOwn() throws {
    let one = try Pool.create(path, byteCount: 1 << 20, options: .test())
    let two = try Pool.create(directory.file("two.pool"), byteCount: 1 << 20, options: .test())
    try one.pstart()
    #expect(throws: PoolError.self) { try two.pstart() }
    #expect(throws: PoolError.noSection) { try two.allocate(byteCount: 16) }
    try one.pend()
    try two.section { _ in _ = try two.allocate(byteCount: 16) }
    #expect(one.base != two.base)
  }

  /// In a process of its own: it takes a good part of the addresses that pools may have.
  @Test func aPoolCanBeLargerThanMemoryAndIsSparse() async throws {
    let outcome = try await Helper.run("volip-test-helper", ["huge-pool", path])
    #expect(outcome.output == "root 42\n", "\(outcome.errors)")
    var status = stat()
    #expect(stat(path, &status) == 0)
    #expect(status.st_size == 1 << 40)
    #expect(status.st_blocks * 512 < 64 << 20)
  }

  @Test func theSmallestPoolWorksAndOneByteLessIsRefused() throws {
    #expect(throws: PoolError.self) {
      try Pool.create(path, byteCount: (1 << 20) - 1, options: .test())
    }
    let pool = try Pool.create(path, byteCount: 1 << 20, options: .test())
    try pool.section { _ in _ = try pool.allocate(byteCount: 500_000) }
    #expect(pool.checkHeap().isConsistent)
  }

  /// The name used to come first: a kill in between left a file that was neither a pool nor free
  /// for one.
  @Test func aCreationThatIsKilledLeavesNoName() async throws {
    let outcome = try await Helper.run("volip-test-helper", ["create-under-limit", path])
    #expect(outcome.status == .signaled(SIGXFSZ), "\(outcome.output)")
    #expect(access(path, F_OK) != 0)
    try Pool.create(path, byteCount: 1 << 20, options: .test()).close()
    #expect(throws: PoolError.alreadyExists(path: path)) {
      try Pool.create(path, byteCount: 1 << 20, options: .test())
    }
  }

  /// 65,530 mappings are a process's usual share, and every lone writable page takes two. The
  /// handler then makes more than one page writable, and none of them is missed.
  @Test func moreLonePagesThanMappingsAreAllFound() async throws {
    let outcome = try await Helper.run("volip-test-helper", ["lone-pages", path])
    #expect(outcome.output == "pages 40000 seventh 2\n", "\(outcome.errors)")
  }
}

@Suite struct FaultHandlerTests {
  let directory = TemporaryDirectory()
  var path: String { directory.file("test.pool") }

  @Test(arguments: ["before", "after"])
  func theProgramsOwnHandlerGetsItsOwnFaults(_ order: String) async throws {
    let outcome = try await Helper.run("volip-test-helper", ["own-handler", path, order])
    #expect(outcome.output == "counted 11\nown handler 0x123\n", "\(outcome.errors)")
    #expect(outcome.status == .exited(7))
  }

  /// With write-protect the store itself is caught, and the process ends as by any stray store.
  @Test func aStoreOutsideASectionStopsTheProgramAndNamesTheOffset() async throws {
    let outcome = try await Helper.run(
      "volip-test-helper", ["stray-store", path],
      environment: ["SWIFT_BACKTRACE": "enable=no"])
    #expect(outcome.status == .signaled(SIGSEGV))
    let offset = try #require(Int(outcome.output.split(separator: " ")[1].dropLast()))
    #expect(
      outcome.errors.contains("pool offset 0x\(String(offset, radix: 16)), outside a section"))
    let pool = try Pool.open(path, options: .test())
    #expect(try pool.root("n", as: Int.self)?.pointee == 1)
  }
}
