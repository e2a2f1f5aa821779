// volip: the command. One file for each verb; exit statuses are part of its interface.

import ArgumentParser
import Glibc

@main
struct Volip: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "volip",
    abstract: "Runs programs as virtual machines.",
    discussion: """
      Exit status: 0 done, 1 failed, 5 this host does not support it, 64 wrong usage; that of \
      `volip run` is the program's.
      """,
    subcommands: [Run.self, Doctor.self, Measure.self])
}

/// Exit statuses beside the parser's own 64.
enum ExitStatus {
  static let failure = ExitCode(1)
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
