// volip run: a program in guest mode, from its first instruction of main to its end.
//
// The program takes this process's place, so that its exit status, signals, streams, terminal and
// process number are what they would be without us; libVolipPreload takes it into the guest.

import ArgumentParser
import Glibc
import VolipMem

struct Run: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Runs an unmodified program in guest mode.",
    discussion: """
      Programs that it executes are taken along. Refused before anything starts: static and \
      32-bit programs, setuid and setgid ones, those with file capabilities, those of another C \
      library than glibc.
      """)

  @Flag(help: "Programs that the program executes stay on the host.")
  var nativeChildren = false

  @Option(
    help: """
      How system calls are made: by a thread beside the guest (companion), by leaving the guest \
      (exit), or by whichever costs less (auto).
      """)
  var syscalls = VirtualMachine.CallPath.auto

  @Option(
    help: """
      A line on standard error for each of these: syscalls, faults, exits; and for counts one at \
      the program's end.
      """)
  var trace: String?

  @OptionGroup(title: "Persistent files")
  var wrapping: Wrapping

  @Argument(parsing: .postTerminator, help: "The program and its arguments, after --.")
  var command: [String] = []

  func validate() throws {
    guard !command.isEmpty else { throw ValidationError("Missing: -- and a program.") }
    for kind in (trace ?? "").split(separator: ",")
    where !["syscalls", "faults", "exits", "counts"].contains(kind) {
      throw ValidationError("'\(kind)' cannot be traced: syscalls, faults, exits and counts can.")
    }
  }

  func run() throws {
    do {
      let path = try ProgramFile.find(command[0])
      try ProgramFile(path: path).check()
      if !wrapping.noVM { try VirtualMachine.checkDevice() }
      try setUpEnvironment(library: Library.path(wraps: wrapping.isWanted))
      let errorNumber = execute(path, command)
      throw Refusal("\(path) cannot be executed: \(errorText(errorNumber)).")
    } catch let error as MachineError {
      throw Refusal(error.description, status: ExitStatus.hostUnsupported).reported()
    } catch let refusal as Refusal {
      throw refusal.reported()
    }
  }

  private func setUpEnvironment(library: String) throws {
    let others = environment("LD_PRELOAD") ?? ""
    setenv("LD_PRELOAD", others.isEmpty ? library : "\(library):\(others)", 1)
    if nativeChildren {
      setenv("VOLIP_NATIVE_CHILDREN", "1", 1)
    } else {
      unsetenv("VOLIP_NATIVE_CHILDREN")
    }
    setenv(VirtualMachine.callPathSwitch, syscalls.rawValue, 1)
    if wrapping.isWanted { wrapping.setUpEnvironment() }
    if let trace { setenv(VirtualMachine.traceSwitch, trace, 1) }
  }
}

extension VirtualMachine.CallPath: ExpressibleByArgument {}

/// The library that is preloaded.
enum Library {
  static let name = "libVolipPreload.so"
  /// The larger one, for persistent files.
  static let wrappingName = "libVolipWrap.so"

  static func path(wraps: Bool = false) throws -> String {
    let own = ownPath()
    let directory = own[..<(own.lastIndex(of: "/") ?? own.startIndex)]
    let name = wraps ? wrappingName : name
    // As `swift build` leaves it beside the command, and as installed.
    for place in [directory + "/", directory + "/../lib/"]
    where access(place + name, R_OK) == 0 {
      let path = place + name
      guard !path.contains(where: { $0 == ":" || $0 == " " }) else {
        throw Refusal("\(path): the loader takes no library with a colon or space in its path.")
      }
      return String(path)
    }
    throw Refusal("\(name) is neither beside \(own) nor in ../lib.")
  }
}
