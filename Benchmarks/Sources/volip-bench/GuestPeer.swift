// GuestPeer: a pool that is measured in guest mode. A process is in the guest as a whole and for
// good, so that each configuration has a process of its own, which takes samples when it is told
// to; figures of guest and host are then taken in turns, in one run.

import ArgumentParser
import Foundation
import VolipMem

/// The other end: `volip-bench guest-peer`, in guest mode.
struct GuestPeerCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "guest-peer", abstract: "Takes samples in guest mode, as told on standard input.",
    shouldDisplay: false)

  @Argument var keyCount: Int
  @Argument var tracker: String
  @Argument var retain: Retain

  func run() throws {
    try VirtualMachine.enter()
    guard let kind = TrackerKind(rawValue: tracker) else {
      throw ValidationError("There is no tracker \(tracker).")
    }
    let contender = try poolContender(keyCount, PoolConfiguration(tracker: kind, retain: retain))
    print("ready")
    fflush(nil)
    while let line = readLine() {
      let words = line.split(separator: " ")
      guard words.count == 2, let batch = Int(words[0]), let seconds = Double(words[1])
      else { throw ValidationError("not a request: \(line)") }
      print(try contender.sample(batch == 0 ? .mix95 : .update(batch: batch), seconds))
      fflush(nil)
    }
  }
}

/// This end.
final class GuestPeer {
  private let process = Process()
  private let requests = Pipe()
  private let answers = Pipe()
  private var unread = Data()

  init(_ keyCount: Int, _ configuration: PoolConfiguration) throws {
    process.executableURL = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath()
    process.arguments = [
      "guest-peer", "\(keyCount)", configuration.tracker.rawValue, configuration.retain.rawValue,
    ]
    process.standardInput = requests
    process.standardOutput = answers
    try process.run()
    guard try answer() == "ready" else { throw ValidationError("no peer in guest mode") }
  }

  func sample(_ workloadCase: WorkloadCase, _ seconds: Double) throws -> Double {
    let batch = workloadCase == .mix95 ? 0 : workloadCase.batch
    try requests.fileHandleForWriting.write(contentsOf: Data("\(batch) \(seconds)\n".utf8))
    guard let rate = Double(try answer()) else { throw ValidationError("the peer has gone") }
    return rate
  }

  private func answer() throws -> String {
    while true {
      if let end = unread.firstIndex(of: UInt8(ascii: "\n")) {
        defer { unread = Data(unread[(end + 1)...]) }
        return String(decoding: unread[..<end], as: UTF8.self)
      }
      let more = answers.fileHandleForReading.availableData
      guard !more.isEmpty else { throw ValidationError("the peer in guest mode has ended") }
      unread.append(more)
    }
  }

  deinit {
    try? requests.fileHandleForWriting.close()
    process.waitUntilExit()
  }
}

func guestContender(_ keyCount: Int, _ configuration: PoolConfiguration) throws -> Contender {
  let peer = try GuestPeer(keyCount, configuration)
  return Contender(label: { $0.with(configuration) }, sample: { try peer.sample($0, $1) })
}
