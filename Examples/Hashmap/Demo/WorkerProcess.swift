// WorkerProcess: starts a worker, kills it, and has what it said until then.

import ArgumentParser
import Glibc
import Subprocess
import SystemPackage

/// How long workers live: random, and for every fourth so short that the kill meets the start of
/// the process, the making or the recovery of the pool, and the first sections.
struct Lifetimes {
  static let earlyMillisecondsMax = 30
  private let microsecondsMax: UInt64
  private var random: SplitMix

  init(_ millisecondsMax: Int, _ seed: UInt64) {
    microsecondsMax = UInt64(millisecondsMax) * 1000
    random = SplitMix(seed: seed ^ 0x6C69_6665)
  }

  mutating func next() -> Duration {
    random.next() % 4 == 0 ? early() : .microseconds(random.next() % microsecondsMax)
  }

  mutating func early() -> Duration {
    .microseconds(random.next() % UInt64(Self.earlyMillisecondsMax * 1000))
  }

  /// Whether the next worker and not the parent recovers the pool: once in four.
  mutating func leavesRecoveryToWorker() -> Bool { random.next() % 4 == 0 }
}

struct WorkerProcess {
  let pool: DemoPool
  let seed: UInt64

  /// Runs a worker, until it is killed after `lifetime`, or has done `sections`.
  ///
  /// - Returns: all that it reported, the pipe drained, the process gone and with it its locks.
  func run(lifetime: Duration? = nil, sections: UInt64? = nil) async throws -> [Report] {
    let executable = try FilePath(executablePath())
    let result = try await Subprocess.run(
      .path(executable), arguments: Arguments(arguments(sections)), input: .none,
      output: .sequence, error: .currentStandardError
    ) { execution in
      async let _ = Self.kill(execution.processIdentifier, after: lifetime)
      var bytes: [UInt8] = []
      for try await buffer in execution.standardOutput {
        buffer.withUnsafeBytes { bytes += $0 }
      }
      return bytes
    }
    switch result.terminationStatus {
    case .signaled(SIGKILL) where lifetime != nil, .exited(0) where lifetime == nil: break
    case .exited(let code): throw ExitCode(code == 0 ? 1 : code)
    case .signaled(let signal):
      printError("hashmap-demo: the worker ended by signal \(signal)")
      throw ExitCode.failure
    }
    return Report.decode(result.closureResult)
  }

  private static func kill(_ process: ProcessIdentifier, after lifetime: Duration?) async {
    // Cancelled when the worker's output ends first: then there is nobody to kill.
    guard let lifetime, (try? await Task.sleep(for: lifetime)) != nil else { return }
    Glibc.kill(process.value, SIGKILL)
  }

  private func arguments(_ sections: UInt64?) -> [String] {
    var arguments = ["worker", "--pool", pool.path, "--seed", "\(seed)"]
    if let tracker = pool.tracker { arguments += ["--tracker", tracker.rawValue] }
    if let sections { arguments += ["--sections", "\(sections)"] }
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
