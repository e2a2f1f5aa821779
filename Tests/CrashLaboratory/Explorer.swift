import Glibc
import TestBasics
import VolipMem

/// How much of what could be tried is tried. A share of N means one of N, drawn by the seed.
public struct Budget: Sendable {
  /// Images at a moment of the program, of a recovery, of that one's recovery.
  public var imagesPerPoint = [Int.max, 24, 8]
  /// Moments of the program.
  public var pointShare: UInt64 = 1
  /// Points between stores, besides those before and after each fence.
  public var storeShare: UInt64 = 32
  /// Images whose recovery is cut too.
  public var nestedShare: UInt64 = 256
  /// Points at which the process is killed and its recovery cut.
  public var killShare: UInt64 = 8
  /// Images that are opened as a whole pool, whose heap is checked.
  public var openShare: UInt64 = 4096
  public init() {}
}

/// What was tried and found.
public struct Findings: Sendable {
  /// Recordings that were walked to their end.
  public var recordings = 0
  /// Crash images made, those among them that were different, and recoveries of all kinds.
  public var images = 0
  public var distinct = 0
  public var recoveries = 0
  public var points = 0
  public var opened = 0
  /// Images after which no committed state was there; an older one than the last acknowledged; no
  /// state at all, because recovery refused; another one after a second recovery.
  public var torn = 0
  public var lost = 0
  public var refused = 0
  public var unstable = 0
  /// Pools that did not open or whose heap was not whole.
  public var unsound = 0
  public var failures: [String] = []
  public init() {}

  public var isClean: Bool { torn + lost + refused + unstable + unsound == 0 }

  public mutating func add(_ other: Findings) {
    recordings += other.recordings
    images += other.images
    distinct += other.distinct
    recoveries += other.recoveries
    points += other.points
    opened += other.opened
    torn += other.torn
    lost += other.lost
    refused += other.refused
    unstable += other.unstable
    unsound += other.unsound
    failures += other.failures.prefix(max(0, 20 - failures.count))
  }
}

/// Makes the crash images of a recording and recovers each of them.
///
/// The oracle: the recovered memory is that of the last acknowledged section or of one that had
/// begun; a second recovery gives the same and replays nothing; so do the recoveries of images of
/// a recovery that was cut, and of one that was killed, three deep. Each state's heap was checked
/// when it was recorded, so a recovered state needs no check of its own; a sample gets one all the
/// same.
public final class Explorer {
  private let recording: Recording
  private let budget: Budget
  private let directory = TemporaryDirectory()
  private var benches: [RecoveryBench] = []
  private let runner: RecoveryBench
  private var choice = CrashImages.Choice()
  /// What each image recovered to: a canonical state, or a negative number for a failure.
  private var outcomes: [UInt64: Int32] = [:]
  public private(set) var findings = Findings()
  /// Stops when this many images were different.
  public var distinctMax = Int.max
  /// The only point to look at, for a replay.
  public var onlyPoint: Int?

  static let depthMax = 2
  private static let refused: Int32 = -1
  private static let torn: Int32 = -2

  public init(_ recording: Recording, budget: Budget) throws {
    self.recording = recording
    self.budget = budget
    for depth in 0...Self.depthMax {
      benches.append(try RecoveryBench(recording.trace, directory, "bench\(depth).pool"))
    }
    runner = try RecoveryBench(recording.trace, directory, "runner.pool")
  }

  private var isDone: Bool { findings.distinct >= distinctMax }

  public func run() throws {
    let model = PersistenceModel(recording.trace)
    benches[0].load(model.media, length: model.length)
    var place = Place(depth: 0, allowed: 0...0, path: "")
    try walk(recording.trace, model, &place)
    if !isDone { findings.recordings += 1 }
  }

  /// Where in which trace, and what a crash there may leave.
  private struct Place {
    let depth: Int
    var allowed: ClosedRange<Int>
    /// The points of the traces around this one.
    let path: String
    var point = 0
    var name: String { "\(path)\(point)" }
  }

  private func walk(_ trace: Trace, _ model: PersistenceModel, _ place: inout Place) throws {
    for event in trace.events {
      if isDone { return }
      switch event {
      case .fence, .failedFence, .lengthSynced:
        try visit(model, place)
        model.apply(event, content: trace.content)
        benches[place.depth].follow(model)
        place.point += 1
        try visit(model, place)
      case .begin(let state):
        place.allowed = place.allowed.lowerBound...max(place.allowed.upperBound, state)
      case .acknowledged(let state):
        place.allowed = state...max(place.allowed.upperBound, state)
        try visit(model, place)
      case .store, .flush, .length:
        model.apply(event, content: trace.content)
        if isChosen(place, budget.storeShare, salt: 1) { try visit(model, place) }
      }
      place.point += 1
    }
    guard benches[place.depth].isEqual(to: model.media) else {
      throw LaboratoryError("the bench was not restored")
    }
  }

  private func isChosen(_ place: Place, _ share: UInt64, salt: UInt64) -> Bool {
    random(place, salt: salt) % share == 0
  }

  private func random(_ place: Place, salt: UInt64) -> UInt64 {
    var hash = recording.seed &+ salt
    for byte in place.name.utf8 { hash = mix(hash &* 31 &+ UInt64(byte)) }
    return hash
  }

  /// Tries the images of a moment.
  private func visit(_ model: PersistenceModel, _ place: Place) throws {
    if place.depth == 0 {
      if let onlyPoint {
        if place.point != onlyPoint { return }
      } else if !isChosen(place, budget.pointShare, salt: 4) {
        return
      }
    }
    findings.points += 1
    let seed = random(place, salt: 2)
    let images = CrashImages(model, seed: seed)
    let limit = budget.imagesPerPoint[place.depth]
    if images.count <= limit {
      for index in 0..<images.count where !isDone { try tryImage(index, of: images, model, place) }
    } else {
      // None and all, and a sample of the others.
      var generator = SeededGenerator(seed: seed)
      for number in 0..<limit where !isDone {
        let random = Int(generator.next() % UInt64(images.count))
        try tryImage(number < 2 ? number : random, of: images, model, place)
      }
    }
    if place.depth < Self.depthMax, isChosen(place, budget.killShare, salt: 3), !isDone {
      try kill(model, place)
    }
  }

  private func tryImage(
    _ index: Int, of images: CrashImages, _ model: PersistenceModel, _ place: Place
  ) throws {
    let bench = benches[place.depth]
    images.choose(index, into: &choice)
    findings.images += 1
    let key = bench.load(choice, of: images)
    defer { bench.restore(model) }
    if let known = outcomes[key] { return judge(known, place, index) }
    findings.distinct += 1
    let isNested =
      place.depth < Self.depthMax && mix(key &+ recording.seed) % budget.nestedShare == 0
    let before = isNested ? bench.contents : []
    if mix(key) % budget.openShare == 0 { openWhole(bench.contents, place, index) }
    let outcome = recover(bench, place, index)
    outcomes[key] = outcome
    judge(outcome, place, index)
    if isNested {
      try before.withUnsafeBytes {
        let padded = UnsafeMutableRawPointer.allocate(
          byteCount: model.byteCount, alignment: 4096)
        defer { padded.deallocate() }
        memset(padded, 0, model.byteCount)
        memcpy(padded, $0.baseAddress!, $0.count)
        let child = PersistenceModel(
          after: padded, hash: key, length: $0.count, like: model)
        try cutRecovery(child, place, "\(place.name).image\(index)/")
      }
    }
  }

  /// Recovers what is on the bench, twice.
  private func recover(_ bench: RecoveryBench, _ place: Place, _ index: Int) -> Int32 {
    do {
      findings.recoveries += 2
      _ = try bench.recover()
      guard let state = state(of: bench.image, place.allowed) else { return Self.torn }
      let replayed = try bench.recover()
      if replayed != 0 || !recording.states[Int(state)].isEqual(to: bench.image) {
        findings.unstable += 1
        note("unstable: a second recovery replays \(replayed)", place, index)
      }
      return state
    } catch {
      note("refused: \(error)", place, index)
      return Self.refused
    }
  }

  /// Which state the bytes are; those that are allowed are looked for first.
  private func state(of image: UnsafeRawBufferPointer, _ allowed: ClosedRange<Int>) -> Int32? {
    let states = recording.states
    for index in allowed.reversed() where states[index].isEqual(to: image) {
      return Int32(recording.canonical[index])
    }
    return states.firstIndex { $0.isEqual(to: image) }.map { Int32(recording.canonical[$0]) }
  }

  private func judge(_ outcome: Int32, _ place: Place, _ index: Int) {
    switch outcome {
    case Self.refused: findings.refused += 1
    case Self.torn:
      findings.torn += 1
      note("torn", place, index)
    default:
      if place.allowed.contains(where: { recording.canonical[$0] == Int(outcome) }) { return }
      findings.lost += 1
      note("lost: state \(outcome), not \(place.allowed)", place, index)
    }
  }

  private func note(_ text: String, _ place: Place, _ index: Int) {
    guard findings.failures.count < 20 else { return }
    let point = place.name.prefix { $0.isNumber }
    findings.failures.append(
      "\(text)\n  at \(place.name), image \(index); replay: --workload '\(recording.workload)'"
        + " --seed \(recording.seed) --point \(point)")
  }

  // MARK: Recoveries that crash

  /// The process is killed: its recovery reads all that was stored, and is cut.
  private func kill(_ model: PersistenceModel, _ place: Place) throws {
    try cutRecovery(PersistenceModel(copying: model), place, "\(place.name).kill/")
  }

  /// Recovers what can be read of a model, and tries the crash images of that recovery.
  private func cutRecovery(_ child: PersistenceModel, _ place: Place, _ path: String) throws {
    runner.load(child.latest, length: child.lengthInFlight ?? child.length)
    let recorder = Recorder(runner.memory)
    findings.recoveries += 1
    do {
      _ = try runner.recover(observer: recorder)
    } catch {
      findings.refused += 1
      return note("refused: \(error)", place, -1)
    }
    guard let found = state(of: runner.image, place.allowed) else {
      findings.torn += 1
      return note("torn: \(path)", place, -1)
    }
    judge(found, place, -1)
    let index = place.allowed.first { recording.canonical[$0] == Int(found) }
    guard let index else { return }
    // What an open has found is there for good.
    _ = recorder.note(.acknowledged(state: index))
    var inner = Place(depth: place.depth + 1, allowed: place.allowed, path: path)
    benches[inner.depth].load(child.media, length: child.length)
    try walk(recorder.trace, child, &inner)
  }

  // MARK: Whole pools

  /// Opens an image as a program would, and checks its heap.
  private func openWhole(_ contents: [UInt8], _ place: Place, _ index: Int) {
    findings.opened += 1
    let path = directory.file("whole.pool")
    unlink(path)
    FileBytes.write(contents, to: path)
    do {
      let pool = try Pool.open(path, options: .test())
      let problems = pool.checkHeap().problems
      try pool.close()
      if problems.isEmpty { return }
      note("heap: \(problems[0])", place, index)
    } catch {
      note("not opened: \(error)", place, index)
    }
    findings.unsound += 1
  }
}

public struct LaboratoryError: Error, CustomStringConvertible {
  public let description: String
  init(_ description: String) { self.description = description }
}
