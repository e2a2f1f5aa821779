import Glibc
import Synchronization
import Testing

/// Tests of guest mode: it is entered in helper processes only, never in the test runner.
///
/// At the end of the run one line on standard output says `guest N run, N skipped`, counting test
/// cases. They are skipped where /dev/kvm cannot be opened; where it can, a process that cannot
/// enter the guest fails its test.
public enum Guest {
  /// Values of VOLIP_PHYS_BITS: 0 means what the host has; with 39 guest-physical addresses are not
  /// the virtual ones.
  public static let physicalBits = [0, 39]

  /// Those of guest mode, by name.
  public static let trackers = ["dirty-bits", "detect-on-write", "adaptive", "dirty-log"]

  /// Why guest mode cannot be entered here, in the words of the program that tried, or nil.
  public static var whyUnavailable: String? {
    get async { await probe.value }
  }

  private static let probe = Task<String?, Never> {
    let device = open("/dev/kvm", O_RDWR | O_CLOEXEC)
    let reason = String(cString: strerror(errno))
    guard device < 0 else {
      close(device)
      return nil
    }
    return (try? await run("guest-facts"))?.output ?? "/dev/kvm: \(reason)"
  }

  /// Runs a verb of the test helper in guest mode.
  public static func run(
    _ verb: String, _ arguments: [String] = [], bits: Int = 0, environment: [String: String] = [:]
  ) async throws -> Helper.Outcome {
    try await Helper.run(
      "volip-test-helper", [verb] + arguments,
      environment: Self.environment(bits).merging(environment) { $1 })
  }

  /// What makes a helper process enter the guest, and faults end it without more words than ours.
  public static func environment(_ bits: Int) -> [String: String] {
    ["VOLIP_TEST_GUEST": "1", "VOLIP_PHYS_BITS": "\(bits)", "SWIFT_BACKTRACE": "enable=no"]
  }

  /// A count from the environment, for the long forms of tests.
  public static func count(_ name: String, short: Int) -> Int {
    getenv(name).flatMap { Int(String(cString: $0)) } ?? short
  }

  private static let counts = Mutex((run: 0, skipped: 0))

  private static let isReported: Void = {
    _ = atexit {
      let (run, skipped) = counts.withLock { $0 }
      print("guest \(run) run, \(skipped) skipped")
      fflush(nil)
    }
  }()

  fileprivate static func count(isRun: Bool) {
    isReported
    counts.withLock {
      if isRun { $0.run += 1 } else { $0.skipped += 1 }
    }
  }
}

/// Marks tests that need guest mode, and counts them.
public struct GuestTrait: TestTrait, SuiteTrait, TestScoping {
  public var isRecursive: Bool { true }

  public func provideScope(
    for test: Test, testCase: Test.Case?, performing function: @Sendable () async throws -> Void
  ) async throws {
    if let reason = await Guest.whyUnavailable {
      print("skipped: \(test.name): \(reason)")
      Guest.count(isRun: false)
      return
    }
    Guest.count(isRun: true)
    try await function()
  }
}

extension Trait where Self == GuestTrait {
  /// Runs where guest mode can be entered, and is counted as skipped elsewhere.
  public static var guest: Self { GuestTrait() }
}
