// volip dump: roots, blocks and records, one by one. What they hold is shown only when asked for.

import ArgumentParser
import VolipMem

struct Dump: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Lists a pool's roots, blocks and records.",
    discussion: "Without --roots, --blocks and --records: all of them. The file stays as it is.")

  @Argument(help: "The pool file.", completion: .file())
  var path: String

  @Flag(help: "Names, layouts and places of roots.")
  var roots = false

  @Flag(help: "Places and sizes of allocated blocks.")
  var blocks = false

  @Flag(help: "Records of the log that recovery has to apply.")
  var records = false

  @Flag(help: "Show what blocks hold, in hexadecimal: it may be secret.")
  var contents = false

  @OptionGroup var output: Output

  func run() throws {
    try output.run {
      guard try !PoolView.isInUse(path) else { throw PoolError.inUse(path: path) }
      let view = try PoolView(path)
      let all = !(roots || blocks || records)
      let report = all || blocks ? try view.check() : nil
      let found = Findings(
        roots: all || roots ? try view.roots().sorted { $0.name < $1.name } : nil,
        blocks: report?.blocks.sorted { $0.offset < $1.offset }.map {
          $0.offset.bytes..<$0.offset.bytes + UInt64($0.byteCount)
        }, records: all || records ? view.records : nil)
      if output.json {
        print(try json(found, view))
      } else if !output.quiet {
        try text(found, view)
      }
      try view.requireUndisturbed()
      if let problem = report?.problems.first {
        throw PoolError.damagedHeap(offset: problem.offset.bytes, reason: problem.reason)
      }
    }
  }

  private struct Findings {
    let roots: [Root]?
    let blocks: [Range<UInt64>]?
    let records: [RecordFacts]?
  }

  private func json(_ found: Findings, _ view: PoolView) throws -> Json {
    let blocks = try found.blocks?.map { block in
      var fields: [(String, Json)] = [
        ("offset", Json(block.lowerBound)), ("byteCount", Json(block.count)),
      ]
      if contents { fields.append(("contents", .text(try hexadecimalBytes(block, view)))) }
      return Json.object(fields)
    }
    return .result([
      ("path", .text(path)), ("baseAddress", Json(view.superblock.geometry.baseAddress)),
      ("roots", found.roots.map { .list($0.map(HeapUse.root)) } ?? .null),
      ("blocks", blocks.map { .list($0) } ?? .null),
      ("records", found.records.map { .list($0.map(Self.record)) } ?? .null),
    ])
  }

  private static func record(_ record: RecordFacts) -> Json {
    func ranges(_ ranges: [Range<UInt64>]) -> Json {
      .list(
        ranges.map { .object([("offset", Json($0.lowerBound)), ("byteCount", Json($0.count))]) })
    }
    return .object([
      ("lsn", Json(record.lsn)), ("fileOffset", Json(record.fileOffset)),
      ("byteCount", Json(record.byteCount)), ("lines", ranges(record.lines)),
      ("announced", ranges(record.announced)),
    ])
  }

  private func text(_ found: Findings, _ view: PoolView) throws {
    for root in found.roots ?? [] {
      let name = Output.printable(root.name)
      print("root \(name) \(root.byteCount) bytes at \(root.offset)")
    }
    for block in found.blocks ?? [] {
      print("block \(block.count) bytes at \(hexadecimal(block.lowerBound))")
      if contents { try printContents(block, view) }
    }
    for record in found.records ?? [] {
      let bytes = (record.lines + record.announced).reduce(0) { $0 + $1.count }
      let extents = record.lines.count + record.announced.count
      print(
        "record \(record.lsn) \(bytes) bytes in \(extents) extents at file byte "
          + "\(record.fileOffset)")
    }
  }

  /// Lines of 32 bytes.
  private func printContents(_ block: Range<UInt64>, _ view: PoolView) throws {
    for start in stride(from: block.lowerBound, to: block.upperBound, by: 32) {
      let part = start..<min(start + 32, block.upperBound)
      print("  \(hexadecimal(start))  \(try hexadecimalBytes(part, view))")
    }
  }

  private func hexadecimalBytes(
    _ range: Range<UInt64>, _ view: PoolView
  ) throws(PoolError) -> String {
    let digits = Array("0123456789abcdef".utf8)
    let text = try view.withBytes(range) { bytes in
      bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }
    }
    return String(decoding: text, as: UTF8.self)
  }
}
