// The options of `volip run` that make files of a program pools, as the environment that the
// preloaded library reads (CSupport/CVolipWrap).

import ArgumentParser
import Glibc

/// When an epoch is due.
enum CommitInterval: ExpressibleByArgument, Equatable {
  case microseconds(Int)
  case calls(Int)
  case atWait

  init?(argument: String) {
    if argument == "at-wait" {
      self = .atWait
      return
    }
    let digits = argument.prefix { $0.isNumber || $0 == "." }
    guard let number = Double(digits), number > 0 else { return nil }
    switch argument.dropFirst(digits.count).trimming(" ") {
    case "calls": self = .calls(Int(number))
    case "us": self = .microseconds(Int(number))
    case "ms": self = .microseconds(Int(number * 1000))
    case "s": self = .microseconds(Int(number * 1_000_000))
    default: return nil
    }
    if case .microseconds(0) = self { return nil }
  }

  var text: String {
    switch self {
    case .microseconds(let count): "\(count)"
    case .calls(let count): "\(count) calls"
    case .atWait: "0"
    }
  }
}

extension Substring {
  fileprivate func trimming(_ character: Character) -> Substring {
    drop { $0 == character }
  }
}

enum Acknowledgements: String, ExpressibleByArgument, CaseIterable {
  case immediate
  case durable
}

struct Wrapping: ParsableArguments {
  @Option(
    help: """
      Files that become pools: a pattern for their names, or for their paths if it has a slash, \
      and perhaps '=' and the pool's file. The pool is FILE.pool else. Can be given again.
      """)
  var pmap: [String] = []

  @Option(
    help: "The same, committed by msync, fsync and fdatasync, each all or nothing, and not by time."
  )
  var atomicMsync: [String] = []

  @Option(help: "How often an epoch is committed: 1ms, 500us, '100 calls', or at-wait.")
  var commitEvery: CommitInterval = .microseconds(1000)

  @Option(
    help: """
      When output leaves the program: at once, so that the last epoch can be lost behind it, or \
      when what it answers is durable.
      """)
  var acks = Acknowledgements.immediate

  @Flag(name: .customLong("no-vm"), help: "With one of these: the program stays on the host.")
  var noVM = false

  var isWanted: Bool { !pmap.isEmpty || !atomicMsync.isEmpty }

  func validate() throws {
    if noVM, !isWanted {
      throw ValidationError("--no-vm without --pmap or --atomic-msync would do nothing.")
    }
    for pattern in pmap + atomicMsync where pattern.contains("\n") || pattern.hasPrefix("=") {
      throw ValidationError("'\(pattern)' is no pattern.")
    }
  }

  func setUpEnvironment() {
    setenv("VOLIP_PMAP", absolute(pmap), 1)
    setenv("VOLIP_ATOMIC_MSYNC", absolute(atomicMsync), 1)
    setenv("VOLIP_COMMIT_EVERY", commitEvery.text, 1)
    setenv("VOLIP_ACKS", acks.rawValue, 1)
    if noVM { setenv("VOLIP_NO_VM", "1", 1) } else { unsetenv("VOLIP_NO_VM") }
  }

  /// Patterns and pools with a slash, from the root on: the program may change its directory.
  private func absolute(_ patterns: [String]) -> String {
    patterns.map { pattern in
      pattern.split(separator: "=", maxSplits: 1).enumerated().map { index, part in
        index == 0 && !part.contains("/") ? String(part) : absolutePath(String(part))
      }.joined(separator: "=")
    }.joined(separator: "\n")
  }
}
