// memcached-demo: kills an unmodified memcached at random moments, starts it again on its cache,
// and looks whether it lost an acknowledged item or has a wrong one.

import ArgumentParser
import Glibc
import VolipWrap

@main
struct MemcachedDemo: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "memcached-demo",
    abstract: "Kills memcached again and again, and looks whether it lost anything.",
    discussion: """
      Exit status 1 if an item is wrong, or lost though acknowledgements were held until it was \
      durable.
      """)

  @Option(help: "How often memcached is killed.")
  var kills = 50

  @Option(help: "durable, or immediate: then what the last epochs had can be lost.")
  var acks = "durable"

  @Option(help: "How often an epoch is committed.")
  var commitEvery = "1ms"

  @Option(help: "memcached's worker threads.")
  var threads = 2

  @Option(help: "memcached's memory, and the size of its file.")
  var megabytes = 64

  @Option(help: "Requests ahead of their answers.")
  var depth = 16

  @Option(help: "Keys.")
  var keys = 4000

  @Option(help: "Replays the choice of keys and moments.")
  var seed: UInt64?

  @Flag(help: "On the host, not in guest mode.")
  var host = false

  @Flag(
    help: """
      No kills and no client: starts memcached again whenever it has ended, with a line \
      'ready', its process, its socket and the milliseconds that it took, until standard input \
      ends.
      """)
  var supervise = false

  func run() throws {
    // Durable against the death of a process: tmpfs has no other life.
    setenv(PersistencePath.switchName, PersistencePath.cacheLines.rawValue, 0)
    let isHost = host || access("/dev/kvm", R_OK | W_OK) != 0
    print("mode \(isHost ? "host" : "guest")")
    print("acks \(acks)")
    do {
      try supervise ? superviseServer(isHost: isHost) : demonstrate(isHost: isHost)
    } catch let failure as Failure {
      print("failed: \(failure)")
      throw ExitCode(2)
    }
  }

  private func demonstrate(isHost: Bool) throws {
    var system = SystemRandomNumberGenerator()
    let seed = seed ?? system.next()
    print("seed \(seed)")
    var generator = Generator(state: seed)
    let directory = try RunDirectory()
    let server = server(in: directory, isHost: isHost)
    var checker = Checker(keyCount: keys)
    try server.startFresh()
    defer { try? server.killNow() }
    var restarts: [Int] = []
    for number in 1...max(kills, 1) {
      let end = now() + Int.random(in: 50_000..<400_000, using: &generator)
      let client = try Client(path: server.socketPath)
      try checker.run(server, client, depth: depth, until: end, using: &generator)
      let start = now()
      try server.restart()
      restarts.append(now() - start)
      do {
        try checker.check(Client(path: server.socketPath), afterKill: number)
      } catch let failure as Failure {
        throw Failure(description: "\(failure) after kill \(number); \(server.end())")
      }
      if number % 5 == 0 { printProgress(number, checker) }
    }
    report(checker, restarts)
    if checker.wrong > 0 || (acks == "durable" && checker.lost > 0) { throw ExitCode(1) }
  }

  private func server(in directory: RunDirectory, isHost: Bool) -> Server {
    let options =
      ["--pmap", directory.path + "/cache", "--acks", acks, "--commit-every", commitEvery]
      + (isHost ? ["--no-vm"] : [])
    return Server(
      directory: directory.path, runOptions: options, threads: threads, megabytes: megabytes)
  }

  private func superviseServer(isHost: Bool) throws {
    let directory = try RunDirectory()
    let server = server(in: directory, isHost: isHost)
    try server.startFresh()
    defer { try? server.killNow() }
    var start = now()
    repeat {
      print("ready \(server.process) \(server.socketPath) \((now() - start) / 1000)")
      fflush(nil)
      guard server.waitForEndOrInput() else { return }
      start = now()
      try server.restart()
    } while true
  }

  private func printProgress(_ number: Int, _ checker: Checker) {
    let text = "\(number) kills, \(checker.acknowledgedCount) sets, \(checker.lost) lost\n"
    say(text)
  }

  private func report(_ checker: Checker, _ restarts: [Int]) {
    for complaint in checker.complaints.prefix(10) { say(complaint + "\n") }
    print("sets \(checker.acknowledgedCount)")
    print("restart_ms_median \(restarts.sorted()[restarts.count / 2] / 1000)")
    print("oldest_lost_ms \(checker.oldestLost / 1000)")
    print("kills \(kills)")
    print("lost \(checker.lost)")
    print("wrong \(checker.wrong)")
  }
}

/// splitmix64.
struct Generator: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var word = state
    word = (word ^ word >> 30) &* 0xBF58_476D_1CE4_E5B9
    word = (word ^ word >> 27) &* 0x94D0_49BB_1331_11EB
    return word ^ word >> 31
  }
}
