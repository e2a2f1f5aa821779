// Report: what the worker says over the pipe, one for each section, after its pend has returned.

/// Three words, written at once: a pipe takes so few bytes whole or not at all.
struct Report: Equatable {
  /// The section that is durable now.
  var section: UInt64
  /// Time round pend; zero in the first report, which names the section found in the pool.
  var commitNanoseconds: UInt64
  /// Time from pstart to the return of pend.
  var sectionNanoseconds: UInt64

  static let byteCount = 24

  var bytes: [UInt8] {
    [section, commitNanoseconds, sectionNanoseconds].flatMap { word in
      (0..<8).map { UInt8(truncatingIfNeeded: word >> ($0 * 8)) }
    }
  }

  init(section: UInt64, commitNanoseconds: UInt64 = 0, sectionNanoseconds: UInt64 = 0) {
    self.section = section
    self.commitNanoseconds = commitNanoseconds
    self.sectionNanoseconds = sectionNanoseconds
  }

  private init(_ bytes: ArraySlice<UInt8>) {
    func word(_ index: Int) -> UInt64 {
      let start = bytes.startIndex + index * 8
      return (0..<8).reduce(0) { $0 | UInt64(bytes[start + $1]) << ($1 * 8) }
    }
    self.init(section: word(0), commitNanoseconds: word(1), sectionNanoseconds: word(2))
  }

  /// All whole reports in `bytes`.
  static func decode(_ bytes: [UInt8]) -> [Report] {
    stride(from: 0, to: bytes.count / byteCount * byteCount, by: byteCount).map {
      Report(bytes[$0..<$0 + byteCount])
    }
  }
}
