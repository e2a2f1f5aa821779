import Glibc
import TestSupport
import Testing

@testable import VolipMem
@testable import VolipPersistence

/// Every system call of every operation on a pool fails once, with ENOSPC and with EIO. The answer
/// is a typed error or success; what is in the pool afterwards is the state before or after.
@Suite struct RefusedCallTests {
  let directory = TemporaryDirectory()
  var path: String { directory.file("refused.pool") }

  static let errors = [ENOSPC, EIO]

  /// Counts up in each section; a full record's worth of data with it.
  private func step(_ pool: Pool, byteCount: Int = 5000) throws {
    try pool.section { section in
      let number = try pool.root("number", in: &section) { UInt64(0) }
      number.pointee += 1
      let block = try pool.allocate(byteCount: byteCount)
      memset(block, Int32(truncatingIfNeeded: number.pointee), byteCount)
    }
  }

  private func number(_ pool: Pool) throws -> UInt64 {
    try pool.root("number", as: UInt64.self)?.pointee ?? 0
  }

  /// A closed pool after two sections, or one whose log still has them.
  private func makePool(_ tracker: TrackerKind, isClosed: Bool) throws {
    unlink(path)
    let pool = try Pool.create(path, byteCount: 2 << 20, options: options(tracker))
    for _ in 0..<2 { try step(pool) }
    guard !isClosed else { return try pool.close() }
    let bytes = FileBytes.read(path)
    try pool.close()
    unlink(path)
    FileBytes.write(bytes, to: path)
  }

  private func options(_ tracker: TrackerKind) -> Pool.Options {
    Pool.Options.test(tracker: tracker, logBytes: 64 << 10, logBytesMax: 512 << 10)
  }

  /// Refuses call after call of `operation` until it makes no further one. `check` gets the error,
  /// nil for success.
  private func refuseEach(
    _ name: String, _ errorNumber: Int32, prepare: () throws -> Pool?,
    _ operation: (Pool?) throws -> Pool?,
    check: (PoolError?, _ refused: String, Pool?) throws -> Void
  ) throws {
    var calls: [String] = []
    for number in 1...10_000 {
      let before = openDescriptors()
      let prepared = try prepare()
      let refused = RefusedCall(number: number, errorNumber: errorNumber)
      var failure: PoolError?
      var pool = prepared
      do {
        pool = try RefusedCall.$current.withValue(refused) { try operation(prepared) }
      } catch let error as PoolError {
        failure = error
        #expect(!error.description.isEmpty && error.exitCode != 0)
      }
      guard let call = refused.refused else {
        #expect(failure == nil, "\(name): \(String(describing: failure))")
        try? pool?.close()
        break
      }
      calls.append(call)
      try check(failure, "\(name), call \(number) (\(call))", pool)
      try? pool?.close()
      try? prepared?.close()
      #expect(openDescriptors() == before, "\(name), call \(number) (\(call)): descriptors")
      // Addresses and lock are free again, and the pool is whole.
      if access(path, F_OK) == 0 {
        let again = try Pool.open(path, options: options(.writeProtect))
        try again.expectUsable()
        try again.close()
      }
    }
    print("\(name) \(errorNumber): \(calls.count) calls: \(Set(calls).sorted())")
  }

  /// Descriptors of files in the test's directory: other tests run at the same time.
  private func openDescriptors() -> Int {
    guard let entries = opendir("/proc/self/fd") else { return 0 }
    defer { closedir(entries) }
    var count = 0
    while let entry = readdir(entries) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
      }
      var target = [CChar](repeating: 0, count: 1024)
      let length = readlink("/proc/self/fd/\(name)", &target, 1023)
      let text = String(decoding: target.prefix(max(length, 0)).map(UInt8.init), as: UTF8.self)
      if text.hasPrefix(directory.path) { count += 1 }
    }
    return count
  }

  @Test(arguments: errors, TrackerKind.hostKinds)
  func aRefusedCallOfCreateLeavesNothingBehind(_ errorNumber: Int32, tracker: TrackerKind) throws {
    try refuseEach("create \(tracker.rawValue)", errorNumber) {
      unlink(path)
      return nil
    } _: { _ in
      try Pool.create(path, byteCount: 2 << 20, options: options(tracker))
    } check: { error, call, pool in
      if error != nil { #expect(access(path, F_OK) != 0, "\(call)") }
      if let pool { try step(pool) }
    }
  }

  @Test(arguments: TrackerKind.hostKinds, [false, true])
  func aRefusedCallOfOpenLosesNothing(tracker: TrackerKind, isClosed: Bool) throws {
    for errorNumber in Self.errors {
      try refuseEach("open \(tracker.rawValue)", errorNumber) {
        try makePool(tracker, isClosed: isClosed)
        return nil
      } _: { _ in
        try Pool.open(path, options: options(tracker))
      } check: { _, call, pool in
        try pool?.close()
        let again = try Pool.open(path, options: options(.writeProtect))
        #expect(try number(again) == 2, "\(call)")
        try again.close()
      }
    }
  }

  enum Operation: String, CaseIterable {
    case section, abort, largeSection, checkpoint, grow, close
  }

  @Test(arguments: TrackerKind.hostKinds, Operation.allCases)
  func aRefusedCallUnderAnOpenPoolTearsNothing(
    tracker: TrackerKind, operation: Operation
  ) throws {
    for persistence in PersistencePath.allCases {
      for errorNumber in Self.errors {
        try refuseEach(operation, tracker, persistence, errorNumber)
      }
    }
  }

  private func refuseEach(
    _ operation: Operation, _ tracker: TrackerKind, _ persistence: PersistencePath,
    _ errorNumber: Int32
  ) throws {
    var options = options(tracker)
    options.engine.persistencePath = persistence
    let expected: UInt64 = operation == .section ? 2 : 3
    let commits = operation == .section || operation == .largeSection
    try refuseEach(
      "\(operation.rawValue) \(tracker.rawValue) \(persistence.rawValue)", errorNumber
    ) {
      try makePool(tracker, isClosed: true)
      let pool = try Pool.open(path, options: options)
      if operation != .section { try step(pool) }
      return pool
    } _: { pool in
      try perform(operation, pool!)
      return pool
    } check: { error, call, pool in
      try? pool?.close()
      let again = try Pool.open(path, options: self.options(.writeProtect))
      let found = try number(again)
      try again.close()
      switch error {
      case nil: #expect(found == (commits ? expected + 1 : expected), "\(call)")
      case .outcomeUnknown: #expect(found == expected || found == expected + 1, "\(call)")
      default: #expect(found == expected, "\(call): \(error!)")
      }
    }
  }

  private struct TakenBack: Error {}

  private func perform(_ operation: Operation, _ pool: Pool) throws {
    switch operation {
    case .section: try step(pool)
    case .largeSection: try step(pool, byteCount: 200_000)
    case .abort:
      do {
        try pool.section { section in
          try pool.root("number", in: &section) { UInt64(0) }.pointee += 7
          memset(try pool.allocate(byteCount: 50_000), 1, 50_000)
          throw TakenBack()
        }
      } catch is TakenBack {}
    case .checkpoint: try pool.checkpoint()
    case .grow: try pool.grow(byteCount: 4 << 20)
    case .close: try pool.close()
    }
  }
}
