// WorkerProcess: starts a worker, kills it, and has what it said until then.

import ArgumentParser
import Glibc
import Subprocess
import SystemPackage
import VolipMem

/// How long workers live: random, and for every fourth so short that the kill meets the start of
/// the process, the making or the recovery of the pool, and the first sections.
struct Lifetimes {
  private let microsecondsMax: UInt64
  private let earlyMicrosecondsMax: UInt64
  private var random: SplitMix

  init(_ millisecondsMax: Int, _ seed: UInt64, _ mode: Mode) {
    microsecondsMax = UInt64(millisecondsMax) * 1000
    // The first section is done after 20 ms on the host, after 60 to 100 ms in guest mode.
    let earlyMillisecondsMax: UInt64 = mode == .guest ? 120 : 30
    earlyMicrosecondsMax = min(earlyMillisecondsMax * 1000, microsecondsMax)
    random = SplitMix(seed: seed ^ 0x6C69_6665)
  }

  mutating func next() -> Duration {
    random.next() % 4 == 0 ? early() : .microseconds(random.next() % microsecondsMax)
  }

  mutating func early() -> Duration {
    .microseconds(random.next() % earlyMicrosecondsMax)
  }

  /// Whether the worker that recovers the pool is killed too: once in four.
  mutating func killsRecovery() -> Bool { random.next() % 4 == 0 }

  /// What a worker does after recovery when it is not killed; often nothing.
  mutating func fewSections() -> UInt64 { random.next() % 2 == 0 ? 0 : random.next() % 32 }
}

struct WorkerProcess {
  /// The pool's path.
  let pool: String
  let seed: UInt64
  let mode: Mode
  /// nil takes the mode's first choice.
  let tracker: TrackerKind?

  enum End {
    case killed(after: Duration)
    /// By itself, with a closed pool.
    case sections(UInt64, thenMilliseconds: Int = 0)

    fileprivate var killTime: Duration {
      switch self {
      case .killed(let lifetime): lifetime
      case .sections: WorkerProcess.hangTime
      }
    }

    fileprivate var isKilled: Bool { if case .killed = self { true } else { false } }
  }

  /// A worker that ends by itself needs a few seconds; this one does nothing any more.
  fileprivate static let hangTime: Duration = .seconds(60)

  /// Runs a worker to its end.
  ///
  /// - Returns: all that it said, the pipe drained, the process gone and with it its locks.
  func run(_ end: End) async throws -> Account {
    let executable = try FilePath(executablePath())
    let result = try await Subprocess.run(
      .path(executable), arguments: Arguments(arguments(end)), input: .none,
      output: .sequence, error: .currentStandardError
    ) { execution in
      async let _ = Self.kill(execution.processIdentifier, after: end.killTime)
      var bytes: [UInt8] = []
      for try await buffer in execution.standardOutput {
        buffer.withUnsafeBytes { bytes += $0 }
      }
      return bytes
    }
    switch result.terminationStatus {
    case .signaled(SIGKILL) where end.isKilled, .exited(0) where !end.isKilled: break
    case .exited(let code): throw ExitCode(code == 0 ? 1 : code)
    case .signaled(let signal):
      printError("hashmap-demo: the worker ended by signal \(signal)")
      throw ExitCode.failure
    }
    return Account(result.closureResult)
  }

  private static func kill(_ process: ProcessIdentifier, after lifetime: Duration) async {
    // Cancelled when the worker's output ends first: then there is nobody to kill.
    guard (try? await Task.sleep(for: lifetime)) != nil else { return }
    Glibc.kill(process.value, SIGKILL)
  }

  private func arguments(_ end: End) -> [String] {
    var arguments = ["worker", "--pool", pool, "--seed", "\(seed)", "--mode", mode.rawValue]
    if let tracker { arguments += ["--tracker", tracker.rawValue] }
    if case .sections(let count, let milliseconds) = end {
      arguments += ["--sections", "\(count)", "--milliseconds", "\(milliseconds)"]
    }
    return arguments
  }

  private func executablePath() throws -> String {
    guard let path = realpath("/proc/self/exe", nil) else {
      printError("hashmap-demo: /proc/self/exe cannot be read")
      throw ExitCode.failure
    }
    defer { free(path) }
    return String(cString: path)
  }
}
