// memcached as Debian has it, as a process that is killed and started again on its recovered cache.
//
// With `-e FILE` memcached keeps its items in a shared mapping of FILE. Its own restart code knows
// clean stops only: then it writes FILE.meta, and reads it at the next start. After a kill there is
// none, so this program writes one, from the text that a clean stop of an empty server left:
//
//   Kmmap_oldbase   where FILE was mapped: the pool's address, the same for ever
//   Kcurrent_cas    above every number that was given out
//   Kstop_time      a second ago at least: a clock that stood still is refused
//   Kcurrent_time   what the server's clock would have been
//
// Its LRU crawler sleeps while items of its own, in private memory, are in the lists of the file:
// what is committed then cannot be read by another process. So there is none.

import Glibc
import VolipWrap

struct Failure: Error, CustomStringConvertible {
  let description: String
}

final class Server {
  let directory: String
  let runOptions: [String]
  let threads: Int
  let megabytes: Int
  private(set) var process: pid_t = 0
  private var template: [String] = []
  private var templateStart = 0
  private var start = 0
  private var starts = 0

  var socketPath: String { directory + "/socket" }
  var file: String { directory + "/cache" }
  var pool: String { file + ".pool" }
  var log: String { directory + "/log" }
  private var metadata: String { file + ".meta" }

  init(directory: String, runOptions: [String], threads: Int, megabytes: Int) {
    self.directory = directory
    self.runOptions = runOptions
    self.threads = threads
    self.megabytes = megabytes
  }

  private static var seconds: Int { Int(time(nil)) }

  // MARK: Life

  /// The first start, of an empty cache. Before it, a clean stop gives the template.
  func startFresh() throws {
    for path in [file, pool, metadata] { unlink(path) }
    templateStart = Self.seconds
    try launch()
    kill(process, SIGUSR1)
    _ = try waitForEnd(secondsMax: 30)
    guard let text = try? readText(metadata) else {
      throw Failure(description: "memcached left no \(metadata) when it stopped; \(logText())")
    }
    template = text.split(separator: "\n").map(String.init)
    for path in [file, pool, metadata] { unlink(path) }
    start = Self.seconds
    try launch()
  }

  /// Starts again on what the pool has.
  func restart() throws {
    starts += 1
    try writeMetadata()
    try launch()
    guard access(metadata, F_OK) != 0 else {
      throw Failure(description: "memcached did not take the metadata; \(logText())")
    }
  }

  private func launch() throws {
    unlink(socketPath)
    var arguments = ["-s", socketPath, "-e", file, "-m", "\(megabytes)", "-t", "\(threads)"]
    arguments += ["-o", "no_lru_crawler"]
    if getuid() == 0 { arguments += ["-u", "root"] }
    let command = ["volip", "run"] + runOptions + ["--", "memcached"] + arguments
    process = try spawn(volipPath(), command, output: log)
    for _ in 0..<24_000 {
      if let client = try? Client(path: socketPath) {
        client.close()
        return
      }
      var status: Int32 = 0
      if waitpid(process, &status, WNOHANG) == process {
        throw Failure(description: "memcached ended, wait status \(status); \(logText())")
      }
      usleep(5000)
    }
    throw Failure(description: "memcached does not answer after 2 minutes; \(logText())")
  }

  func killNow() throws {
    kill(process, SIGKILL)
    _ = try waitForEnd(secondsMax: 30)
  }

  /// Waits for the server's end; false when standard input has ended before.
  func waitForEndOrInput() -> Bool {
    var input = pollfd(fd: STDIN_FILENO, events: Int16(POLLIN), revents: 0)
    var status: Int32 = 0
    while waitpid(process, &status, WNOHANG) == 0 {
      if poll(&input, 1, 5) > 0 { return false }
    }
    return true
  }

  /// How a server ended that nobody killed, for people.
  func end() -> String {
    let status = (try? waitForEnd(secondsMax: 2)).map { "wait status \($0)" } ?? "it still runs"
    return "\(status); \(logText())"
  }

  func logText() -> String { "its log: " + ((try? readText(log)) ?? "") }

  private func waitForEnd(secondsMax: Int) throws -> Int32 {
    var status: Int32 = 0
    for _ in 0..<secondsMax * 1000 {
      if waitpid(process, &status, WNOHANG) == process { return status }
      usleep(1000)
    }
    kill(process, SIGKILL)
    waitpid(process, &status, 0)
    throw Failure(description: "memcached did not stop; \(logText())")
  }

  // MARK: Metadata

  private func value(_ key: String) -> Int {
    template.first { $0.hasPrefix("K\(key) ") }
      .flatMap { Int($0.split(separator: " ")[1]) } ?? 0
  }

  private func writeMetadata() throws {
    let base = try PoolFile.open(path: pool).superblock.geometry.baseAddress
    // A fresh server's clock began as the template's did.
    let began = value("process_started") + start - templateStart
    let stopped = Self.seconds - 1
    let changes = [
      "mmap_oldbase": "0x" + String(base + FilePool.headerBytes, radix: 16),
      "current_cas": "\(starts * 1_000_000_000)",
      "process_started": "\(began)",
      "current_time": "\(stopped - began)",
      "stop_time": "\(stopped)",
    ]
    let lines = template.map { line -> String in
      let words = line.split(separator: " ", maxSplits: 1)
      guard let change = changes[String(words[0].dropFirst())] else { return line }
      return "\(words[0]) \(change)"
    }
    try writeText(lines.joined(separator: "\n") + "\n", metadata)
  }
}
