import Dispatch
import Foundation
import VolipMem

/// What is done in guest mode (VOLIP_TEST_GUEST), or in order to enter it.
let guestVerbs: [String: @Sendable ([String]) throws -> Void] = [
  "guest-bad-media": guestBadMedia,
  "guest-calls": guestCalls,
  "guest-child-enters": guestChildEnters,
  "guest-children": guestChildren,
  "guest-companion": guestCompanion,
  "guest-exits": guestExits,
  "guest-facts": guestFacts,
  "guest-fault": guestFault,
  "guest-ignored-signals": guestIgnoredSignals,
  "guest-lock-words": guestLockWords,
  "guest-log-leave": guestLogLeave,
  "guest-log-pools": guestLogPools,
  "guest-pool-lives": guestPoolLives,
  "guest-refused": guestRefused,
  "guest-rounds": guestRounds,
  "guest-short-sections": guestShortSections,
  "guest-signals": guestSignals,
  "guest-spinner": guestSpinner,
  "guest-stray": guestStray,
  "guest-threads": guestThreads,
  "guest-twice": guestTwice,
  "guest-unknown-call": guestUnknownCall,
  "guest-ways": guestWays,
]

func guestFacts(_ arguments: [String]) throws {
  let facts = VirtualMachine.facts
  print(
    "guest \(VirtualMachine.isEntered) bits \(facts.physicalBits)",
    "identity \(facts.isIdentityMapped) level \(facts.callLevel)")
}

/// The case alone where the rest differs between machines.
private func errorName(_ error: MachineError) -> String {
  switch error {
  case .noDevice: "noDevice"
  case .unsupported: "unsupported"
  case .addressesExhausted: "addressesExhausted"
  case .otherThreads(let count): "otherThreads(count: \(count))"
  case .poolsAreOpen(let count): "poolsAreOpen(count: \(count))"
  case .alreadyEntered: "alreadyEntered"
  }
}

/// Enters where that is not possible, and says why.
func guestTwice(_ arguments: [String]) throws {
  func attempt() -> String {
    do throws(MachineError) {
      try VirtualMachine.enter()
      return "entered"
    } catch {
      return errorName(error)
    }
  }
  if arguments.first == "with-pool" {
    let pool = try Pool.create(arguments[1], byteCount: 1 << 20)
    print(attempt())
    try pool.close()
  } else if arguments.first == "with-thread" {
    let gate = DispatchSemaphore(value: 0)
    let started = DispatchSemaphore(value: 0)
    let thread = Thread {
      started.signal()
      gate.wait()
    }
    thread.start()
    started.wait()
    print(attempt())
    gate.signal()
  } else {
    print(attempt(), attempt())
  }
}

/// guest-exits POOL TRACKER: exits made by sections of up to 20 writes once the file has its
/// blocks, the pages are private, and the log has room.
func guestExits(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.engine.persistencePath = .cacheLines
  options.engine.tracker = TrackerKind(rawValue: arguments[1])
  let pool = try Pool.create(arguments[0], byteCount: 64 << 20, options: options)
  let words = try pool.section { _ in
    let words = try pool.allocate(byteCount: 1 << 20).bindMemory(to: Int.self, capacity: 1 << 17)
    for index in 0..<1 << 17 { words[index] = index }
    return words
  }
  var round = 0
  func section() throws -> UInt64 {
    round += 1
    let before = VirtualMachine.exits
    try pool.pstart()
    for index in 0..<round % 20 { words[(round * 7919 + index * 521) % (1 << 17)] = round }
    try pool.pend()
    return VirtualMachine.exits - before
  }
  for _ in 0..<200 { _ = try section() }
  var exits: [UInt64] = []
  for _ in 0..<3 {
    try pool.checkpoint()
    for _ in 0..<100 { exits.append(try section()) }
  }
  let before = VirtualMachine.exits
  _ = getppid()
  let statistics = try pool.statistics()
  print(
    "sections \(exits.count) exits \(exits.reduce(0, +)) call \(VirtualMachine.exits - before)",
    "lines \(statistics.lines > 0)")
  try pool.close()
}
