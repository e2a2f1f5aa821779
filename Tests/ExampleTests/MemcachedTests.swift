import Foundation
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

  /// One run of many was lost whole: the LRU crawler slept in the middle of lists that are in the
  /// file, with an item of its own, in private memory, in them; the next process died of it.
  @Test(arguments: places)
  func aCrawlThatSleepsInTheListsLosesNothing(_ place: [String]) async throws {
    let outcome = try await Helper.runPath(
      "/usr/bin/env",
      [
        "python3", Peers.root + "/Tests/Peers/crawler-check.py",
        Helper.productDirectory + "/memcached-demo",
      ] + place)
    #expect(outcome.status == .exited(0), "\(outcome)")
    #expect(number("kills", outcome) == 1)
    #expect(number("lost", outcome) == 0, "\(outcome)")
  }

  /// Debian's python3 is asked for its own packages, whatever stands before it in PATH.
  static let python: String? = ["/usr/bin/python3"].first { path in
    access("/usr/lib/python3/dist-packages/pymemcache", R_OK) == 0 && access(path, X_OK) == 0
  }

  /// A client library that nobody here wrote sets, compares and swaps, counts, appends, deletes.
  @Test(.enabled(if: python != nil, "python3-pymemcache is not installed"), arguments: places)
  func aClientLibraryFindsWhatWasAcknowledged(_ place: [String]) async throws {
    let python = try #require(Self.python)
    var generator = SeededGenerator.forTest("pymemcache")
    let outcome = try await Helper.runPath(
      python,
      [
        Peers.root + "/Tests/Peers/pymemcache-check.py",
        Helper.productDirectory + "/memcached-demo",
        "3", "\(generator.next())",
      ] + place)
    #expect(outcome.status == .exited(0), "\(outcome)")
    #expect(number("kills", outcome) == 3)
    #expect(number("lost", outcome) == 0 && number("wrong", outcome) == 0, "\(outcome)")
    #expect(number("operations", outcome) ?? 0 > 100)
  }
}

/// The short form of `make test-peers`: databases that map their files, killed, and their own
/// checkers.
@Suite(.serialized) struct PeerTests {
  @Test(
    .enabled(if: Peers.missing.isEmpty, "not installed: \(Peers.missing.joined(separator: " "))"),
    arguments: ["host", "guest"].prefix(access("/dev/kvm", R_OK | W_OK) == 0 ? 2 : 1),
    ["kyoto-hash", "kyoto-tree", "lmdb", "sqlite"])
  func theirOwnCheckersFindNothing(_ place: String, _ peer: String) async throws {
    var generator = SeededGenerator.forTest("peers")
    let outcome = try await Helper.runPath(
      "/usr/bin/env",
      [
        "python3", Peers.root + "/Scripts/test-peers.py", "--build", Helper.productDirectory,
        "--kills", "2", "--seed", "\(generator.next())", "--place", place, peer,
      ])
    #expect(outcome.status == .exited(0), "\(outcome)")
    #expect(outcome.output.contains("\(peer) \(place) kills 2 lost 0 inconsistent 0"))
  }
}

enum Peers {
  static let root = URL(filePath: #filePath).deletingLastPathComponent()
    .deletingLastPathComponent().deletingLastPathComponent().path
  static let missing = ["kchashtest", "mdb_dump", "sqlite3"].filter {
    access("/usr/bin/\($0)", X_OK) != 0
  }
}
