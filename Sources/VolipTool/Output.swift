// Output: how verbs speak. Results go to standard output, as lines or as JSON; errors and progress
// to standard error, progress only where that is a terminal.

import ArgumentParser
import Glibc
import VolipMem

struct Output: ParsableArguments {
  @Flag(help: "One line of JSON in place of text.")
  var json = false

  @Flag(name: .shortAndLong, help: "No text and no progress: the exit status tells.")
  var quiet = false

  /// Prints a result.
  ///
  /// - Parameter verdict: the last line, as it is.
  func show(_ fields: [(String, Json)], verdict: String? = nil, _ text: () -> [String]) {
    if json {
      print(Json.result(fields))
    } else if !quiet {
      for line in text() { print(Self.printable(line)) }
      if let verdict { print(verdict) }
    }
  }

  /// Runs a verb; what it throws becomes a sentence and an exit status.
  func run(_ body: () throws -> Void) throws {
    do {
      try body()
    } catch let error as PoolError {
      try fail(error.description, ExitCode(error.exitCode))
    } catch let refusal as Refusal {
      try fail(refusal.sentence, refusal.status)
    }
    fflush(nil)
  }

  private func fail(_ sentence: String, _ status: ExitCode) throws {
    if json {
      print(Json.result([("error", .text(sentence)), ("status", Json(Int(status.rawValue)))]))
    }
    throw Refusal(sentence, status: status).reported()
  }

  /// Names come from files that anybody may have written: nothing in them reaches a terminal as
  /// anything but text.
  static func printable(_ text: String) -> String {
    guard text.unicodeScalars.contains(where: isControl) else { return text }
    var result = ""
    for scalar in text.unicodeScalars {
      if isControl(scalar) {
        result += "\\u{\(String(scalar.value, radix: 16))}"
      } else {
        result.unicodeScalars.append(scalar)
      }
    }
    return result
  }

  private static func isControl(_ scalar: Unicode.Scalar) -> Bool {
    scalar.properties.generalCategory == .control || scalar.properties.generalCategory == .format
  }

  /// A word of the verdict: in colour at a terminal, unless NO_COLOR is set.
  func verdict(_ word: String, isGood: Bool) -> String {
    guard isatty(STDOUT_FILENO) == 1, (environment("NO_COLOR") ?? "").isEmpty else { return word }
    return "\u{1B}[\(isGood ? 32 : 31)m\(word)\u{1B}[0m"
  }
}

/// A line at a terminal that says how far a verb is.
struct Progress {
  private let isShown: Bool
  private let what: String
  private var shownPercent = -1

  init(_ what: String, _ output: Output) {
    self.what = what
    isShown = !output.quiet && isatty(STDERR_FILENO) == 1
  }

  mutating func show(_ done: UInt64, of total: UInt64) {
    guard isShown, total > 0 else { return }
    let percent = Int(done * 100 / total)
    guard percent != shownPercent else { return }
    shownPercent = percent
    write("\r\(what) \(percent) %")
  }

  /// Takes the line away.
  func end() {
    guard isShown, shownPercent >= 0 else { return }
    write("\r\u{1B}[K")
  }

  private func write(_ text: String) {
    _ = Glibc.write(STDERR_FILENO, text, text.utf8.count)
  }
}

/// Lines of a name and a value.
func table(_ rows: [(String, String)]) -> [String] {
  let width = (rows.map(\.0.count).max() ?? 0) + 2
  return rows.map { name, text in
    name + String(repeating: " ", count: width - name.count) + text
  }
}

func hexadecimal(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }
