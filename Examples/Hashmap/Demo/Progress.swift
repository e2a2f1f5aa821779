// Progress: a bar on standard error, for people only.

import Glibc

struct Progress {
  private let total: Int
  private let isShown = isatty(STDERR_FILENO) == 1
  private static let width = 40

  init(total: Int) {
    self.total = total
    write(done: 0, text: "")
  }

  func show(_ results: Results) {
    write(done: results.kills, text: "\(results.sections) sections")
  }

  /// Leaves the line to what comes after.
  func clear() {
    if isShown { writeError("\r\u{1B}[K") }
  }

  private func write(done: Int, text: String) {
    guard isShown, total > 0 else { return }
    let filled = Self.width * min(done, total) / total
    let bar =
      String(repeating: "#", count: filled) + String(repeating: ".", count: Self.width - filled)
    writeError("\r\u{1B}[K[\(bar)] \(done)/\(total) kills  \(text)")
  }
}
