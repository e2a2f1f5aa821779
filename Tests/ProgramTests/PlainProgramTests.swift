import TestSupport
import Testing

/// A program in C that knows nothing of guest mode prints the same there as natively, case by case,
/// and ends alike: signals, faults, memory, processes.
@Suite(.guest, .timeLimit(.minutes(30))) struct PlainProgramTests {
  static let signals = [
    "nested-handlers", "signal-information", "signals-of-children", "alternate-stack",
    "auto-disarm", "small-alternate-stack", "no-alternate-stack", "restart", "no-restart",
    "no-defer", "reset-hand", "masks", "mask-under-fire", "vectors", "stop-and-continue", "storm",
    "storm-of-calls", "storm-from-a-thread",
  ]
  static let faults = [
    "faults", "alignment", "jump-out-of-handler", "jump-off-alternate-stack",
    "repair-in-handler", "change-registers", "stack-limits", "segment-bases", "cores",
  ]
  static let memory = [
    "mappings", "change-code", "shared-memory", "huge-pages", "user-faults", "proc",
    "resource-limits", "protection-keys",
  ]
  static let processes = [
    "forks", "vforks", "spawns", "clones", "clone3", "threads", "ends-of-threads",
    "exec-with-threads", "terminate", "time-and-processors", "stopped-sleep", "trace-child",
    "exit-from-handler", "job-control",
  ]
  /// What cases execute.
  static let parts = ["spin", "sleep", "traced-execution", "crash-by-fault", "crash-by-abort"]

  @Test func noCaseIsForgotten() async throws {
    let outcome = try await Helper.run("volip-plain-program", [])
    let names = Set(outcome.output.split(separator: "\n").map(String.init))
    #expect(names == Set(Self.signals + Self.faults + Self.memory + Self.processes + Self.parts))
  }

  @Test(arguments: signals + faults + memory + processes)
  func aProgramDoesInGuestModeWhatItDoesNatively(_ name: String) async throws {
    let native = try await Helper.run("volip-plain-program", [name])
    let program = Helper.productDirectory + "/volip-plain-program"
    let guest = try await Helper.run("volip", ["run", "--", program, name])
    #expect(!native.output.isEmpty)
    #expect(guest.output == native.output, "\(guest.errors)")
    #expect(guest.status == native.status)
    #expect(guest.errors == native.errors)
  }
}
