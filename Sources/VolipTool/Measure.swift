// volip measure: hidden; the measurements of `volip doctor` that need the guest, in a process that
// enters it. Prints a name and a number on each line.

import ArgumentParser
import CVolipPersistence
import Glibc
import VolipMem

struct Measure: ParsableCommand {
  static let configuration = CommandConfiguration(shouldDisplay: false)

  func run() throws {
    do throws(MachineError) {
      try VirtualMachine.enter()
    } catch {
      print("problem \(error)")
      throw ExitStatus.hostUnsupported
    }
    let facts = VirtualMachine.facts
    print("physBits \(facts.physicalBits)")
    print("syscallCpl \(facts.callLevel)")
    print("exitNs \(Stopwatch.nanoseconds { VirtualMachine.exitOnce() })")
    print("forwardedCallNs \(Stopwatch.nanoseconds { _ = getppid() })")
    print("companionCalls \(VirtualMachine.facts.companionCalls)")
    for kind in Findings.guestKinds {
      print("\(kind.rawValue) \(Stopwatch.firstWrite(kind))")
    }
  }
}

enum Stopwatch {
  /// Enough calls in a batch that the clock costs nothing, enough batches for a median.
  private static let callCount = 200
  private static let batchCount = 9

  /// Median cost of a call.
  static func nanoseconds(_ call: () -> Void) -> Int {
    let clock = ContinuousClock()
    let batches = (0..<batchCount).map { _ in
      clock.measure { for _ in 0..<callCount { call() } }
    }
    return Int(batches.sorted()[batchCount / 2] / callCount / .nanoseconds(1))
  }

  /// Cost of a first write to a page and of arming it again; 0 where the tracker does not work.
  static func firstWrite(_ kind: TrackerKind) -> Int {
    let ticks = trapTicks(kind)
    let clock = ContinuousClock()
    let firstTick = cvp_ticks()
    let time = clock.measure { usleep(20_000) }
    let ticksPerNanosecond = Double(cvp_ticks() - firstTick) / (time / .nanoseconds(1))
    return Int(ticks / ticksPerNanosecond)
  }
}
