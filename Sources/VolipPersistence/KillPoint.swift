// KillPoint: named places in which the laboratory's build kills its own process, for soaks of real
// kills. No other build has them.

import Glibc
import Synchronization

/// Where a process dies if `VOLIP_KILL_AT=name:n` says so, when it comes there for the n-th time.
@usableFromInline
package enum KillPoint: String, CaseIterable, Sendable {
  // A section
  case sectionOpened, pageFault, allocation, rollBack
  // The four steps of a commit, and their ends
  case collect, collected, prepared, logStored, logged, updated
  // A commit in a lane, and its ends
  case laneDrawing, laneStored, laneLogged, laneEnded, laneWaited
  // Between the section that makes an arena and the one that gives it to a lane
  case arenaMade
  // A section of a group, at its end
  case groupMerged
  // A checkpoint, and what is like one
  case checkpoint, checkpointFlushed, superblockCopy, checkpointed, logGrown, imageGrown
  // An open
  case recovery, recoverySecured, replayed, recovered

  private static let ofLanesAlone: [KillPoint] = [
    .laneDrawing, .laneStored, .laneLogged, .laneEnded, .laneWaited, .arenaMade,
    .groupMerged,
  ]
  /// What concurrent sections pass again and again.
  package static let ofLanes: [KillPoint] =
    ofLanesAlone.dropLast(2) + [.checkpoint, .checkpointFlushed, .superblockCopy, .checkpointed]
  /// What exclusive ones pass.
  package static let ofExclusiveSections = allCases.filter { !ofLanesAlone.contains($0) }

  package static let switchName = "VOLIP_KILL_AT"
}

#if VOLIP_LAB
  private struct KillOrder: Sendable {
    let point: KillPoint
    let number: Int

    init?(_ text: String) {
      let parts = text.split(separator: ":")
      guard parts.count == 2, let point = KillPoint(rawValue: String(parts[0])),
        let number = Int(parts[1])
      else { fatalError("\(KillPoint.switchName)=name:n, not \(text)") }
      (self.point, self.number) = (point, number)
    }
  }

  private let order = getenv(KillPoint.switchName).flatMap { KillOrder(String(cString: $0)) }
  private let passed = Atomic(0)

  /// What a thread does when it passes a point the next time, for tests of interleavings.
  private struct Pauses {
    var bodies: [UInt: (point: KillPoint, body: @Sendable () -> Void)] = [:]
  }

  private let pauses = Mutex(Pauses())
  private let pauseCount = Atomic(0)

  extension KillPoint {
    /// Lets the calling thread run `body` when it comes here next.
    package static func pause(at point: KillPoint, _ body: @escaping @Sendable () -> Void) {
      pauses.withLock { $0.bodies[UInt(pthread_self())] = (point, body) }
      pauseCount.add(1, ordering: .relaxed)
    }
  }

  private func pause(at point: KillPoint) {
    let thread = UInt(pthread_self())
    let found = pauses.withLock { pauses in
      pauses.bodies[thread]?.point == point ? pauses.bodies.removeValue(forKey: thread) : nil
    }
    guard let found else { return }
    pauseCount.subtract(1, ordering: .relaxed)
    found.body()
  }

  /// Kills the process if this is the place and the time for it.
  package func pass(_ point: KillPoint) {
    if pauseCount.load(ordering: .relaxed) > 0 { pause(at: point) }
    guard let order, order.point == point else { return }
    if passed.add(1, ordering: .relaxed).newValue == order.number { kill(getpid(), SIGKILL) }
  }

  /// After how many passes of a point that is not in Swift the process dies; 0 for never.
  package func killNumber(_ point: KillPoint) -> Int {
    order.map { $0.point == point ? $0.number : 0 } ?? 0
  }
#else
  extension KillPoint {
    /// Nothing: the laboratory's workloads compile here, and run where there is a laboratory.
    package static func pause(at point: KillPoint, _ body: @escaping @Sendable () -> Void) {}
  }

  /// Nothing.
  @inlinable @inline(__always)
  package func pass(_ point: KillPoint) {}

  @inlinable @inline(__always)
  package func killNumber(_ point: KillPoint) -> Int { 0 }
#endif
