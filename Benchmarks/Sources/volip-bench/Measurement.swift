// Measurement: one figure with its samples, and how figures are printed.

import Glibc

struct Measurement {
  var bench: String
  var name: String
  var system = "volipmem"
  var mode = "host"
  /// "none" for a system without a tracker.
  var tracker = "none"
  var retain = "none"
  var batch = 1
  var threads = 1
  var samples: [Double] = []
  var unit: String
  /// What the figure has to reach, for people.
  var target = ""

  init(_ bench: String, _ name: String, unit: String) {
    self.bench = bench
    self.name = name
    self.unit = unit
  }

  func with(_ configuration: PoolConfiguration) -> Measurement {
    var result = self
    result.mode = configuration.isGuest ? "guest" : "host"
    result.tracker = configuration.tracker.rawValue
    result.retain = configuration.retain.rawValue
    return result
  }

  var median: Double {
    let sorted = samples.sorted()
    let middle = sorted.count / 2
    return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
  }
  var least: Double { samples.min() ?? .nan }
  var most: Double { samples.max() ?? .nan }

  /// One line; every string in it is an identifier of ours and needs no escapes.
  var json: String {
    let strings = [
      ("bench", bench), ("case", name), ("system", system), ("mode", mode),
      ("tracker", tracker), ("retain", retain),
    ]
    let numbers = [
      ("batch", "\(batch)"), ("threads", "\(threads)"), ("median", Self.plain(median)),
      ("min", Self.plain(least)), ("max", Self.plain(most)),
    ]
    let fields =
      strings.map { "\"\($0)\":\"\($1)\"" } + numbers.map { "\"\($0)\":\($1)" }
      + ["\"unit\":\"\(unit)\""]
    return "{" + fields.joined(separator: ",") + "}"
  }

  private static func plain(_ value: Double) -> String {
    rounded(value, digits: abs(value) >= 1000 ? 0 : 4)
  }
}

/// `value` in decimal with so many digits behind the point.
func rounded(_ value: Double, digits: Int) -> String {
  guard digits > 0 else { return "\(Int(value.rounded()))" }
  let scale = pow(10.0, Double(digits))
  let scaled = Int((abs(value) * scale).rounded())
  let fraction = "\(scaled % Int(scale))"
  let zeros = String(repeating: "0", count: digits - fraction.count)
  return "\(value < 0 ? "-" : "")\(scaled / Int(scale)).\(zeros)\(fraction)"
}

/// Three digits that matter.
func short(_ value: Double) -> String {
  rounded(value, digits: abs(value) >= 100 ? 0 : abs(value) >= 10 ? 1 : 2)
}
