// Report: what the worker says over the pipe: first a greeting, then a report for each section,
// after its pend has returned. Each is three words, written at once: a pipe takes so few bytes
// whole or not at all.

import VolipMem

/// What the worker is, and what it found.
struct Greeting {
  /// The last section in the pool.
  let section: UInt64
  let mode: Mode
  let tracker: TrackerKind

  var words: Words {
    Words(
      first: section, second: UInt64(Mode.allCases.firstIndex(of: mode)!),
      third: UInt64(TrackerKind.allCases.firstIndex(of: tracker)!))
  }
}

extension Greeting {
  init(_ words: Words) {
    self.init(
      section: words.first, mode: Mode.allCases[Int(words.second)],
      tracker: TrackerKind.allCases[Int(words.third)])
  }
}

struct Report {
  /// The section that is durable now.
  var section: UInt64
  /// Time round pend.
  var commitNanoseconds: UInt64
  /// Time from pstart to the return of pend.
  var sectionNanoseconds: UInt64

  var words: Words {
    Words(first: section, second: commitNanoseconds, third: sectionNanoseconds)
  }
}

extension Report {
  init(_ words: Words) {
    self.init(
      section: words.first, commitNanoseconds: words.second, sectionNanoseconds: words.third)
  }
}

/// All that a worker said until its end.
struct Account {
  /// nil when it did not live long enough.
  let greeting: Greeting?
  let reports: [Report]

  init(_ bytes: [UInt8]) {
    let messages = Words.decode(bytes)
    greeting = messages.first.map { Greeting($0) }
    reports = messages.dropFirst().map { Report($0) }
  }
}

/// A message as it passes the pipe.
struct Words {
  let first: UInt64
  let second: UInt64
  let third: UInt64

  private static let byteCount = 24

  var bytes: [UInt8] {
    [first, second, third].flatMap { word in
      (0..<8).map { UInt8(truncatingIfNeeded: word >> ($0 * 8)) }
    }
  }

  /// All whole messages in `bytes`.
  static func decode(_ bytes: [UInt8]) -> [Words] {
    stride(from: 0, to: bytes.count / byteCount * byteCount, by: byteCount).map { start in
      func word(_ index: Int) -> UInt64 {
        (0..<8).reduce(0) { $0 | UInt64(bytes[start + index * 8 + $1]) << ($1 * 8) }
      }
      return Words(first: word(0), second: word(1), third: word(2))
    }
  }
}
