// volip info: what a pool file says of itself. Changes nothing and locks nothing.

import ArgumentParser
import VolipMem

struct Info: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Shows a pool's header, log, roots and heap use.",
    discussion: """
      Reads the file alone: nothing of it changes, and a program that uses it goes on. While one \
      does, roots and heap use may be of several moments, or missing.
      """)

  @Argument(help: "The pool file.", completion: .file())
  var path: String

  @OptionGroup var output: Output

  func run() throws {
    try output.run {
      let view = try look()
      let isInUse = try PoolView.isInUse(path)
      let header = try header(view)
      let rows = try rows(view, isInUse: isInUse)
      let log = log(view, isInUse: isInUse)
      do throws(PoolError) {
        let heap = try HeapUse(view)
        output.show(header + log + heap.fields) { table(rows + heap.rows) }
      } catch {
        let problem = isInUse ? "changing while it was read" : error.description
        output.show(header + log + HeapUse.noFields) { table(rows + [("heap", problem)]) }
        if !isInUse { throw ExitCode(error.exitCode) }
      }
    }
  }

  /// A program that uses the pool may be in the way, for a moment.
  private func look() throws(PoolError) -> PoolView {
    for _ in 0..<Self.attemptsMax {
      do throws(PoolError) {
        return try PoolView(path)
      } catch {
        guard case .inUse = error else { throw error }
      }
    }
    return try PoolView(path)
  }

  private static let attemptsMax = 20

  private func header(_ view: PoolView) throws -> [(String, Json)] {
    let superblock = view.superblock
    let geometry = superblock.geometry
    return [
      ("path", .text(path)), ("formatVersion", Json(UInt64(Superblock.version))),
      ("compatibleFeatures", Json(superblock.compatibleFeatures)),
      ("incompatibleFeatures", Json(superblock.incompatibleFeatures)),
      ("poolIdentity", .text(hexadecimal(superblock.poolIdentity))),
      ("baseAddress", Json(geometry.baseAddress)), ("fileBytes", Json(geometry.fileBytes)),
      ("allocatedBytes", Json(try view.allocatedBytes())),
      ("imageBytes", Json(geometry.imageBytes)),
      ("superblockCopies", .list(view.copyProblems.map { .text($0 ?? "whole") })),
    ]
  }

  private func log(_ view: PoolView, isInUse: Bool) -> [(String, Json)] {
    let geometry = view.superblock.geometry
    return [
      ("generation", Json(view.superblock.generation)),
      ("appliedLsn", Json(view.superblock.appliedLsn)), ("lastLsn", Json(view.lastLsn)),
      ("lanes", Json(view.superblock.lanes?.count ?? 0)),
      ("logBytes", Json(geometry.logBytes)), ("logBytesMax", Json(geometry.logBytesMax)),
      ("logRecords", Json(view.records.count)),
      ("logRecordBytes", Json(view.records.reduce(0) { $0 + $1.byteCount })),
      ("inUse", .bool(isInUse)), ("needsRecovery", .bool(view.needsRecovery && !isInUse)),
    ]
  }

  private func rows(_ view: PoolView, isInUse: Bool) throws -> [(String, String)] {
    let superblock = view.superblock
    let geometry = superblock.geometry
    let used = ByteCount.text(try view.allocatedBytes())
    let state =
      isInUse ? "in use" : view.needsRecovery ? "needs recovery (volip recover)" : "closed"
    let recordBytes = view.records.reduce(0) { $0 + $1.byteCount }
    let lanes = view.superblock.lanes.map { " in \($0.count) lanes" } ?? ""
    let copies = view.copyProblems.map { $0 ?? "whole" }.joined(separator: ", ")
    return [
      ("pool", path), ("state", state), ("format", "version \(Superblock.version)"),
      (
        "features",
        "\(hexadecimal(superblock.incompatibleFeatures)) incompatible, "
          + "\(hexadecimal(superblock.compatibleFeatures)) compatible"
      ),
      ("identity", hexadecimal(superblock.poolIdentity)),
      ("address", hexadecimal(geometry.baseAddress)),
      ("file", "\(ByteCount.text(geometry.fileBytes)), \(used) of them allocated"),
      ("superblocks", copies),
      (
        "log",
        "\(view.records.count) records, \(recordBytes) bytes of "
          + "\(ByteCount.text(geometry.logBytes))\(lanes), at most "
          + ByteCount.text(geometry.logBytesMax)
      ),
      ("last section", "\(view.lastLsn), generation \(superblock.generation)"),
    ]
  }
}

/// Roots, and how much of the heap is in use.
struct HeapUse {
  let roots: [Root]
  let report: HeapReport
  let pages: (highWater: Int, limit: Int)

  /// - Throws: `.damagedHeap` where what can be counted is not all.
  init(_ view: PoolView) throws(PoolError) {
    roots = try view.roots().sorted { $0.name < $1.name }
    report = try view.check()
    pages = view.heapPages
    if let problem = report.problems.first {
      throw .damagedHeap(offset: problem.offset.bytes, reason: problem.reason)
    }
  }

  var fields: [(String, Json)] {
    [
      ("roots", .list(roots.map { Self.root($0) })),
      ("blocks", Json(report.blocks.count)), ("allocatedBlockBytes", Json(report.allocatedBytes)),
      ("usedPages", Json(report.usedPages)), ("freePages", Json(report.freePages)),
      ("highWaterPages", Json(pages.highWater)), ("heapPages", Json(pages.limit)),
    ]
  }

  static let noFields: [(String, Json)] = [
    "roots", "blocks", "allocatedBlockBytes", "usedPages", "freePages", "highWaterPages",
    "heapPages",
  ].map { ($0, .null) }

  static func root(_ root: Root) -> Json {
    .object([
      ("name", .text(root.name)), ("offset", Json(root.offset.bytes)),
      ("byteCount", Json(root.byteCount)), ("layout", .text(hexadecimal(root.fingerprint))),
    ])
  }

  var rows: [(String, String)] {
    let heap =
      "\(report.blocks.count) blocks, \(ByteCount.text(UInt64(report.allocatedBytes))) in "
      + "\(report.usedPages) pages; \(report.freePages) pages free below page "
      + "\(pages.highWater) of \(pages.limit)"
    return [("heap", heap)]
      + roots.map { ("root", "\($0.name), \($0.byteCount) bytes at \($0.offset)") }
  }
}
