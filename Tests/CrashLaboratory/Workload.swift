import Glibc
import TestBasics
@_exported import VolipMem

/// Something that programs do with a pool, to be crashed at every moment.
///
/// To add one, add three lines to one of the lists in Workloads.swift:
/// ```swift
/// Workload("one line") { lab in
///   let words = try lab.words(8)
///   for _ in 0..<25 { try lab.section { _ in words[lab.random(0...7)] = lab.random() } }
/// },
/// ```
/// Each call of `section` or `step` makes at most one state durable. Where a section is durable
/// later than its end, as with epochs, `step(isAcknowledged: false)` leaves the oracle both; a
/// `step` at the end of the epoch acknowledges all. `lab.owns` makes each step search for leaks.
public struct Workload: Sendable {
  public let name: String
  var fileBytes: UInt64 = 1 << 20
  var logBytesMax: UInt64 = 760 << 10
  var path = PersistencePath.cacheLines
  var isRetaining = true
  var laneCount = 2
  var commitThreads = 1
  let run: @Sendable (LaboratoryPool) throws -> Void

  init(_ name: String, _ run: @escaping @Sendable (LaboratoryPool) throws -> Void) {
    (self.name, self.run) = (name, run)
  }

  /// The same with other properties.
  func with(_ change: (inout Workload) -> Void) -> Workload {
    var other = self
    change(&other)
    return other
  }

  /// The same where stores become durable by msync.
  var onMsync: Workload {
    var other = Workload("\(name), msync", run)
    (other.fileBytes, other.logBytesMax) = (fileBytes, logBytesMax)
    other.path = .msync
    other.isRetaining = isRetaining
    other.laneCount = laneCount
    other.commitThreads = commitThreads
    return other
  }

  /// Runs it on a new pool. The same seed makes the same trace.
  public func record(seed: UInt64) throws -> Recording {
    let directory = TemporaryDirectory()
    let path = directory.file("recorded.pool")
    // Each workload draws its own base address, and is not in another's way.
    var generator = SeededGenerator(seed: name.utf8.reduce(seed) { mix($0 &+ UInt64($1)) })
    let recorder = Recorder()
    return try PersistenceLaboratory.$observer.withValue(recorder) {
      let lab = try LaboratoryPool(self, path, recorder, &generator)
      try run(lab)
      try lab.close()
      return Recording(
        workload: name, seed: seed, trace: recorder.trace, states: lab.states)
    }
  }
}

/// A pool whose every store is recorded, and the states that its sections make.
public final class LaboratoryPool {
  public private(set) var pool: Pool
  public var generator: SeededGenerator
  private let path: String
  private let options: Pool.Options
  let recorder: Recorder
  var states: [Recording.State]
  /// Where the step in hand begins in the trace.
  private var unfinishedStep: Int?
  private var owned: (() -> [UnsafeRawPointer])?
  /// Words in the block that `words` made.
  var wordCount = 0

  fileprivate init(
    _ workload: Workload, _ path: String, _ recorder: Recorder, _ generator: inout SeededGenerator
  ) throws {
    self.path = path
    self.recorder = recorder
    var options = Pool.Options()
    options.engine.persistencePath = workload.path
    options.engine.retention = workload.isRetaining
    options.engine.laneCount = workload.laneCount
    options.engine.commitThreads = workload.commitThreads
    options.engine.pagesAlone = 3
    // A seed makes one trace: no clock ends an epoch.
    options.engine.bufferedMilliseconds = 1 << 40
    self.options = options
    let identity = generator.next()
    states = []
    while true {
      do {
        try Self.create(path, workload, identity: identity, &generator)
        _ = recorder.note(.begin(state: 1))
        pool = try Pool.open(path, options: options)
        break
      } catch PoolError.addressTaken {
        unlink(path)
        recorder.forget()
      }
    }
    self.generator = generator
    let memory = pool.engine.pageCount * 4096
    states = [Recording.State(bytes: [UInt8](repeating: 0, count: memory)), snapshot]
    _ = recorder.note(.acknowledged(state: 1))
  }

  /// A pool file with an identity of the seed's.
  private static func create(
    _ path: String, _ workload: Workload, identity: UInt64, _ generator: inout SeededGenerator
  ) throws {
    var geometry = try PoolGeometry(
      fileBytes: workload.fileBytes, logBytes: 64 << 10, logBytesMax: workload.logBytesMax)
    geometry.baseAddress = try AddressMap.drawBase(
      imageBytes: geometry.imageBytes, using: &generator)
    try PoolFile.create(path: path, geometry: geometry).publish()
    let superblock = Superblock(poolIdentity: identity, geometry: geometry)
    let bytes = superblock.encoded.withUnsafeBytes { Array($0) }
    for offset in Superblock.copyOffsets { FileBytes.write(bytes, to: path, at: offset) }
  }

  var snapshot: Recording.State {
    Recording.State(
      bytes: Array(
        UnsafeRawBufferPointer(start: pool.base, count: pool.engine.pageCount * 4096)))
  }

  // MARK: Steps

  /// Does something that makes at most one new state durable.
  ///
  /// - Parameter isAcknowledged: whether it is durable when `body` returns.
  public func step(isAcknowledged: Bool = true, _ body: (Pool) throws -> Void) throws {
    let start = recorder.note(.begin(state: states.count))
    unfinishedStep = start
    try body(pool)
    unfinishedStep = nil
    finish(start, isAcknowledged: isAcknowledged)
    try checkHeap()
  }

  private func finish(_ start: Int, isAcknowledged: Bool = true) {
    let now = snapshot
    if now == states.last! {
      recorder.replace(start, .begin(state: states.count - 1))
    } else {
      states.append(now)
    }
    if isAcknowledged { _ = recorder.note(.acknowledged(state: states.count - 1)) }
  }

  /// A section of its own.
  public func section(_ body: (inout Section) throws -> Void) throws {
    try step { try $0.section(body) }
  }

  /// A section of announced writes alone.
  public func announcedSection(_ body: (inout Section) throws -> Void) throws {
    try step { try $0.section(.announced, body) }
  }

  /// A section that is durable later.
  public func bufferedSection(_ body: (inout Section) throws -> Void) throws {
    try step(isAcknowledged: false) { try $0.section(.buffered, body) }
  }

  /// A persistent array of so many zeros.
  public func array(of count: Int) throws -> Ref<PersistentArray<UInt64>> {
    var made: Ref<PersistentArray<UInt64>>?
    try section { section in
      made = try section.pool.root("array", in: &section) { section in
        try PersistentArray(repeatElement(0, count: count), in: &section)
      }
    }
    return made!
  }

  /// A section that changes nothing, because its body throws at the end.
  public func abortedSection(
    _ kind: SectionKind = .exclusive, _ body: (inout Section) throws -> Void
  ) throws {
    struct Aborted: Error {}
    let before = states.count
    try step { pool in
      do {
        try pool.section(kind) { section in
          try body(&section)
          throw Aborted()
        }
      } catch is Aborted {}
    }
    guard states.count == before else { throw LaboratoryError("an aborted section wrote") }
  }

  /// A section that cannot be committed.
  public func refusedSection(_ body: (inout Section) throws -> Void) throws {
    let before = states.count
    try step { pool in
      do {
        try pool.section(body)
      } catch PoolError.sectionTooLarge {
      } catch PoolError.sectionAborted {
      }
    }
    guard states.count == before else { throw LaboratoryError("a refused section wrote") }
  }

  /// Goes on until the fence after `count` more fails, and opens the pool again, which tells what
  /// became of the step in hand.
  public func withFailingFence(after count: Int, _ steps: () throws -> Void) throws {
    recorder.failFence(after: count)
    do {
      try steps()
    } catch is PoolError {}
    recorder.failFence(after: .max)
    recorder.forgetBeforeNextFence()
    do {
      try pool.pstart()
      throw LaboratoryError("a handle whose fence failed goes on")
    } catch PoolError.poisoned {}
    try openAgain()
    if let unfinishedStep { finish(unfinishedStep) }
    unfinishedStep = nil
  }

  func openAgain() throws {
    try pool.close()
    pool = try Pool.open(path, options: options)
  }

  /// Closes the pool and opens it again.
  public func reopen() throws {
    try step { _ in
      let before = snapshot
      try openAgain()
      guard snapshot == before else { throw LaboratoryError("another state after an open") }
    }
  }

  fileprivate func close() throws { try pool.close() }

  func checkHeap() throws {
    if pool.engine.isInSection { return }
    let report = pool.checkHeap()
    guard report.problems.isEmpty else { throw LaboratoryError("heap: \(report.problems[0])") }
    guard let owned else { return }
    let reachable = Set(owned().map(offset) + (try pool.roots().map(\.offset)))
    let lost = report.leaks(reachable: reachable)
    let wild = report.dangling(reachable: reachable)
    guard lost.isEmpty, wild.isEmpty else {
      throw LaboratoryError("heap: leaked \(lost), dangling \(wild)")
    }
  }

  // MARK: Memory

  public func random() -> UInt64 { generator.next() }

  public func random(_ range: ClosedRange<Int>) -> Int { .random(in: range, using: &generator) }

  /// Says which blocks the workload knows of besides roots: any other is a leak.
  public func owns(_ blocks: @escaping () -> [UnsafeRawPointer]) { owned = blocks }

  private func offset(_ address: UnsafeRawPointer) -> PoolOffset {
    PoolOffset(bytes: UInt64(address - pool.base))
  }
}
