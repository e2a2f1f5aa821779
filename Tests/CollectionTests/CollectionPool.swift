import TestSupport
import Testing
import VolipMem

/// A pool for collections, audited or not.
final class CollectionPool {
  let directory = TemporaryDirectory()
  let path: String
  private let options: Pool.Options
  private var opened: Pool?
  var pool: Pool { opened! }

  init(
    byteCount: UInt64 = 64 << 20, audit: Bool = true, findsVolatilePointers: Bool = false
  ) throws {
    path = directory.file("collections.pool")
    var options = Pool.Options.test()
    options.engine.audit = audit
    options.findsVolatilePointers = findsVolatilePointers
    self.options = options
    opened = try Pool.create(path, byteCount: byteCount, options: options)
  }

  func reopen() throws {
    try pool.close()
    opened = nil
    opened = try Pool.open(path, options: options)
  }

  /// A section whose writes are taken back.
  func abortedSection(_ body: (inout Section) throws -> Void) throws {
    struct TakenBack: Error {}
    do {
      try pool.section(.announced) { section in
        try body(&section)
        throw TakenBack()
      }
    } catch is TakenBack {}
  }

  /// Every block of the heap is one that the roots reach.
  func expectNoLeaks(besideRoots count: Int, sourceLocation: SourceLocation = #_sourceLocation) {
    let report = pool.checkHeap()
    #expect(report.isConsistent, "\(report.problems)", sourceLocation: sourceLocation)
    #expect(report.blocks.count == count, sourceLocation: sourceLocation)
  }
}
