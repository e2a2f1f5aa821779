// PoolExport: a pool to and from a portable file (VolipPool/ExportFormat.swift).

import Glibc

/// A pool's content in a file that can be sent anywhere.
package enum PoolExport {
  /// What was written or read.
  package struct Summary {
    package let pages: UInt64
    package let lastLsn: UInt64
  }

  /// Writes the pages in use of a pool that nobody uses to a new file.
  ///
  /// - Throws: ``PoolError``; the file is gone then.
  package static func write(
    _ path: String, to target: String, report: (_ done: UInt64, _ total: UInt64) -> Void
  ) throws(PoolError) -> Summary {
    guard try !PoolView.isInUse(path) else { throw .inUse(path: path) }
    let view = try PoolView(path)
    if let problem = try view.check().problems.first {
      throw .damagedHeap(offset: problem.offset.bytes, reason: problem.reason)
    }
    let stream = try ExportStream(creating: target)
    do throws(PoolError) {
      let summary = try write(view, to: stream, report: report)
      try view.requireUndisturbed()
      try stream.finish()
      return summary
    } catch {
      unlink(target)
      throw error
    }
  }

  private static func write(
    _ view: PoolView, to stream: ExportStream, report: (_ done: UInt64, _ total: UInt64) -> Void
  ) throws(PoolError) -> Summary {
    let header = ExportHeader(geometry: view.superblock.geometry, lastLsn: view.lastLsn)
    guard try ExportHeader(header.line, path: view.path) == header else {
      throw .invalidArgument("\(view.path) has its parts where no new pool has them")
    }
    try stream.write(header.line)
    let runs = try view.runs().filter { !$0.isFree }.map(\.pages)
    let total = UInt64(runs.reduce(0) { $0 + $1.count })
    var last = header.line
    var (number, done): (UInt64, UInt64) = (0, 0)
    for run in runs {
      for first in stride(from: run.lowerBound, to: run.upperBound, by: ExportChunk.pagesMax) {
        let pages = first..<min(first + ExportChunk.pagesMax, run.upperBound)
        done += UInt64(pages.count)
        last = try write(pages, number, done, view, to: stream, after: last)
        number += 1
        report(done, total)
      }
    }
    var end = ExportChunk(
      number: number, firstPage: 0, pageCount: 0, checksum: 0, pagesSoFar: done)
    end.compatibleFeatures = view.superblock.compatibleFeatures
    try stream.write(end.line(after: last))
    return Summary(pages: done, lastLsn: view.lastLsn)
  }

  private static func write(
    _ pages: Range<Int>, _ number: UInt64, _ done: UInt64, _ view: PoolView,
    to stream: ExportStream, after last: ExportLine
  ) throws(PoolError) -> ExportLine {
    let bytes = UInt64(pages.lowerBound) << 12..<UInt64(pages.upperBound) << 12
    // Copied once: what the checksum covers is what is written.
    let copy = stream.buffer
    // SAFETY: the buffer has room for the pages of any chunk.
    try view.withBytes(bytes) { copy.copyMemory(from: $0) }
    let content = UnsafeRawBufferPointer(rebasing: copy[..<bytes.count])
    let chunk = ExportChunk(
      number: number, firstPage: UInt64(pages.lowerBound), pageCount: pages.count,
      checksum: checksumOfLines(content, seed: number), pagesSoFar: done)
    let line = chunk.line(after: last)
    try stream.write(line)
    try stream.write(content)
    return line
  }

  /// Makes a pool of an exported file, at the same address.
  ///
  /// - Throws: ``PoolError``: `.damagedExport` with the offset; nothing is left behind.
  package static func read(
    _ path: String, to target: String, report: (_ done: UInt64, _ total: UInt64) -> Void
  ) throws(PoolError) -> Summary {
    let stream = try ExportStream(reading: path)
    let line = try stream.readLine()
    let header = try ExportHeader(line, path: path)
    let file = try PoolFile.create(path: target, geometry: header.geometry)
    defer { file.unlock() }
    let memory = try DurableMemory.map(
      descriptor: file.descriptor, forced: PersistencePath.forced)
    defer { memory.unmap() }
    let end = try readChunks(stream, after: line, into: file, report: report)
    try file.sync()
    var next = file.superblock
    next.sequence += 1
    next.appliedLsn = header.lastLsn
    next.compatibleFeatures = end.compatibleFeatures
    try file.write(next, through: memory)
    try file.publish()
    return Summary(pages: end.pagesSoFar, lastLsn: header.lastLsn)
  }

  private static func readChunks(
    _ stream: ExportStream, after header: ExportLine, into file: PoolFile,
    report: (_ done: UInt64, _ total: UInt64) -> Void
  ) throws(PoolError) -> ExportChunk {
    let geometry = file.superblock.geometry
    var last = header
    var (number, done): (UInt64, UInt64) = (0, 0)
    while true {
      let offset = stream.offset
      let line = try stream.readLine()
      let damaged = PoolError.damagedExport(
        path: stream.path, fileOffset: offset, reason: "chunk \(number)")
      guard
        let chunk = ExportChunk(line, after: last, imagePages: geometry.pageCount),
        chunk.number == number, chunk.pagesSoFar == done + UInt64(chunk.pageCount)
      else { throw damaged }
      guard chunk.pageCount > 0 else { return chunk }
      let content = try stream.read(byteCount: chunk.pageCount << 12)
      guard checksumOfLines(content, seed: number) == chunk.checksum else { throw damaged }
      try file.store(content, at: geometry.imageOffset + chunk.firstPage << 12)
      last = line
      number += 1
      done = chunk.pagesSoFar
      report(stream.offset, stream.byteCount)
    }
  }
}
