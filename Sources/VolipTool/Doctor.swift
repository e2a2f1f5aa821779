// volip doctor: what guest mode finds on this machine, and what it costs, on one screen.

import ArgumentParser
import Glibc
import VolipMem

struct Doctor: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Says whether guest mode works on this machine, and what it costs.",
    discussion: "Exit status 5: it does not, and the first line says what to do.")

  @OptionGroup var output: Output

  func run() throws {
    let findings = Findings.gather()
    if output.json { print(findings.json) } else if !output.quiet { print(findings.table) }
    guard findings.problem == nil else { throw ExitStatus.hostUnsupported }
  }
}

/// What was found. Times in nanoseconds.
struct Findings {
  /// Raised when a key of the JSON changes its meaning or goes.
  static let format = 1

  /// Why guest mode cannot be entered.
  var problem: String?
  /// What the process in the guest measured, by name.
  var guest: [String: Int] = [:]
  var firstWrite: [(tracker: TrackerKind, nanoseconds: Int)] = []

  /// Those with a cost of their own.
  static let guestKinds: [TrackerKind] = [.dirtyBits, .detectOnWrite, .dirtyLog]

  static func gather() -> Findings {
    var findings = Findings()
    do throws(MachineError) {
      try VirtualMachine.checkDevice()
      findings.measureGuest()
    } catch {
      findings.problem = error.description
    }
    for kind in guestKinds {
      if let time = findings.guest[kind.rawValue], time > 0 {
        findings.firstWrite.append((kind, time))
      }
    }
    for kind in TrackerKind.hostKinds {
      let time = Stopwatch.firstWrite(kind)
      if time > 0 { findings.firstWrite.append((kind, time)) }
    }
    return findings
  }

  private mutating func measureGuest() {
    guard let (text, status) = output(of: ownPath(), ["measure"]) else {
      problem = "This program cannot start itself."
      return
    }
    for line in text.split(separator: "\n") {
      let words = line.split(separator: " ", maxSplits: 1)
      guard words.count == 2 else { continue }
      if words[0] == "problem" { problem = String(words[1]) }
      guest[String(words[0])] = Int(words[1])
    }
    if problem == nil && status != 0 {
      problem = "Guest mode was entered and ended with wait status \(status)."
    }
  }

  var virtualization: String {
    switch guest["syscallCpl"] {
    case 3: "shadow-paging"
    case 0: "hardware"
    default: "none"
    }
  }

  /// How system calls are made for the guest; none where there is no guest.
  var forwardPath: String {
    guard problem == nil else { return "none" }
    return guest["companionCalls", default: 0] > 0 ? "companion" : "exit"
  }

  /// What pools take without a choice.
  var tracker: TrackerKind? {
    guard problem != nil else { return .adaptive }
    return firstWrite.first { TrackerKind.hostKinds.contains($0.tracker) }?.tracker
  }

  var json: String {
    func number(_ name: String) -> String { guest[name].map(String.init) ?? "null" }
    let writes = firstWrite.map { #""\#($0.tracker.rawValue)":\#($0.nanoseconds)"# }
    let fields = [
      #""format":\#(Self.format)"#,
      #""kvm":\#(problem == nil)"#,
      #""problem":\#(problem.map(quoted) ?? "null")"#,
      #""virtualization":"\#(virtualization)""#,
      #""physBits":\#(number("physBits"))"#,
      #""syscallCpl":\#(number("syscallCpl"))"#,
      #""exitNs":\#(number("exitNs"))"#,
      #""forwardedCallNs":\#(number("forwardedCallNs"))"#,
      #""forwardPath":"\#(forwardPath)""#,
      #""firstWriteNs":{\#(writes.joined(separator: ","))}"#,
      #""tracker":\#(tracker.map { quoted($0.rawValue) } ?? "null")"#,
    ]
    return "{\(fields.joined(separator: ","))}"
  }

  private func quoted(_ text: String) -> String {
    let escaped = text.flatMap { character -> [Character] in
      switch character {
      case "\"", "\\": ["\\", character]
      case "\n": [" "]
      default: [character]
      }
    }
    return "\"\(String(escaped))\""
  }

  var table: String {
    var lines = [("guest mode", problem ?? "works")]
    if problem == nil {
      let level = guest["syscallCpl"] ?? 0
      let kind = virtualization == "hardware" ? "the processor's" : "shadow paging"
      lines += [
        ("virtualization", "\(kind); system calls arrive at level \(level)"),
        ("physical bits", "\(guest["physBits"] ?? 0)"),
        ("an exit", microseconds(guest["exitNs"])),
        ("forwarded call", "\(microseconds(guest["forwardedCallNs"])), by \(forwardPath)"),
      ]
    }
    for (index, write) in firstWrite.enumerated() {
      let text = "\(microseconds(write.nanoseconds)), \(write.tracker.rawValue)"
      lines.append((index == 0 ? "first write" : "", text))
    }
    lines.append(("tracker", tracker?.rawValue ?? "none works"))
    let width = 16
    return lines.map { name, text in
      name + String(repeating: " ", count: width - name.count) + text
    }.joined(separator: "\n")
  }

  private func microseconds(_ nanoseconds: Int?) -> String {
    let tenths = ((nanoseconds ?? 0) + 50) / 100
    return "\(tenths / 10).\(tenths % 10) us"
  }
}
