// Report: figures as JSON lines for programs or as aligned tables for people.

import ArgumentParser
import Glibc

/// The figures of one benchmark, and how its table looks.
struct BenchmarkResult {
  let title: String
  let measurements: [Measurement]
  let table: Table
}

struct Report {
  private let json: Bool
  private let file: String?

  init(_ run: RunOptions) {
    json = run.json
    file = run.save
  }

  func show(_ result: BenchmarkResult) throws {
    if let file { try append(result.measurements.map { $0.json + "\n" }.joined(), to: file) }
    if json {
      for measurement in result.measurements { print(measurement.json) }
    } else {
      print("\n\(result.title)")
      print(result.table.text)
    }
  }
}

private func append(_ text: String, to path: String) throws {
  guard let file = fopen(path, "a") else {
    throw ValidationError("\(path): \(String(cString: strerror(errno)))")
  }
  defer { fclose(file) }
  fputs(text, file)
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
