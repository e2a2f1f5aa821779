// volip: the command. One file for each verb; exit statuses are part of its interface.

import ArgumentParser
import Glibc

@main
struct Volip: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "volip",
    abstract: "Looks after pools of persistent memory, and runs programs as virtual machines.",
    discussion: """
      Exit status: 0 done, 1 failed, 2 inconsistent, 3 needs recovery, 4 in use, 5 this host does \
      not support it, 6 unknown format, 64 wrong usage, 128 and a signal's number (in the shell) \
      when that ended it; that of `volip run` is the program's.
      """,
    version: version,
    subcommands: [
      Create.self, Info.self, Check.self, Dump.self, Recover.self, Copy.self, Export.self,
      Import.self,
      Trim.self, Compact.self, Stat.self, Bench.self, Extract.self, Run.self, Doctor.self,
      Measure.self,
    ])

  /// VOLIP_VERSION of volip.h.
  static let version = "0.1.0"
}

/// Exit statuses beside the parser's own 64.
enum ExitStatus {
  static let failure = ExitCode(1)
  static let inconsistent = ExitCode(2)
  static let needsRecovery = ExitCode(3)
  static let hostUnsupported = ExitCode(5)
}

/// Why a verb ends: one sentence for standard error.
struct Refusal: Error {
  let sentence: String
  let status: ExitCode

  init(_ sentence: String, status: ExitCode = ExitStatus.failure) {
    self.sentence = sentence
    self.status = status
  }

  /// Prints the sentence and returns what to throw.
  func reported() -> ExitCode {
    printError("volip: \(sentence)")
    return status
  }
}
