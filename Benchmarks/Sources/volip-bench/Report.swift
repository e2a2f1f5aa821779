// Report: figures as JSON lines for programs or as aligned tables for people.

/// The figures of one benchmark, and how its table looks.
struct BenchmarkResult {
  let title: String
  let measurements: [Measurement]
  let table: Table
}

struct Report {
  let json: Bool

  func show(_ result: BenchmarkResult) {
    if json {
      for measurement in result.measurements { print(measurement.json) }
    } else {
      print("\n\(result.title)")
      print(result.table.text)
    }
  }
}

/// Rows of cells; the columns are as wide as their widest cell.
struct Table {
  var header: [String]
  var rows: [[String]] = []

  /// One row for each figure.
  static func list(_ measurements: [Measurement]) -> Table {
    var table = Table(header: [
      "case", "system", "tracker", "retain", "batch", "median", "min - max", "unit", "target",
    ])
    table.rows = measurements.map {
      [
        $0.name, $0.system, $0.tracker, $0.retain, "\($0.batch)", short($0.median),
        "\(short($0.least)) - \(short($0.most))", $0.unit, $0.target,
      ]
    }
    return table
  }

  var text: String {
    let lines = [header] + rows
    let widths = header.indices.map { column in lines.map { $0[column].count }.max() ?? 0 }
    return lines.map { cells in
      zip(cells, widths).map { cell, width in
        cell + String(repeating: " ", count: width - cell.count)
      }.joined(separator: "  ")
    }.joined(separator: "\n")
  }
}
