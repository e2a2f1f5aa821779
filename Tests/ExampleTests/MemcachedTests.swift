import Glibc
import TestSupport
import Testing

/// The short form of `make demo-memcached`: an unmodified memcached, killed and started again.
@Suite(
  .serialized, .enabled(if: access("/usr/bin/memcached", X_OK) == 0, "memcached is not installed"))
struct MemcachedTests {
  static let places: [[String]] =
    access("/dev/kvm", R_OK | W_OK) == 0 ? [["--host"], []] : [["--host"]]

  private func number(_ name: String, _ outcome: Helper.Outcome) -> Int? {
    outcome.output.split(separator: "\n").first { $0.hasPrefix("\(name) ") }
      .flatMap { Int($0.dropFirst(name.count + 1)) }
  }

  @Test(arguments: places)
  func noAcknowledgedItemIsLostWhenAcknowledgementsWait(_ place: [String]) async throws {
    let outcome = try await Helper.run(
      "memcached-demo", ["--kills", "3", "--acks", "durable"] + place)
    #expect(outcome.status == .exited(0), "\(outcome)")
    #expect(number("kills", outcome) == 3)
    #expect(number("lost", outcome) == 0 && number("wrong", outcome) == 0, "\(outcome)")
    #expect(number("sets", outcome) ?? 0 > 0)
  }

  @Test(arguments: places)
  func nothingIsEverWrong(_ place: [String]) async throws {
    let outcome = try await Helper.run(
      "memcached-demo", ["--kills", "3", "--acks", "immediate"] + place)
    #expect(outcome.status == .exited(0), "\(outcome)")
    #expect(number("wrong", outcome) == 0, "\(outcome)")
  }
}
