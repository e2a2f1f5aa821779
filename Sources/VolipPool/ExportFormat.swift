// ExportFormat: a pool in a file that is no pool: the pages in use, one after the other.
//
//   header     one line of words
//   chunks     each a line of words, then its pages
//   end        a chunk without pages
//
//   header     word  field
//                 0  magic "VOLIEXPO"
//                 1  version, 1
//                 2  base address
//                 3  file bytes
//                 4  log bytes
//                 5  log bytes at most
//                 6  lsn of the last section
//                 7  checksum of the words before it, seeded with the magic
//
//   chunk      word  field
//                 0  magic "VOLICHUN"
//                 1  number of the chunk, from 0
//                 2  first page of the image
//                 3  pages, at most 256; 0 at the end
//                 4  checksum of the pages, seeded with the number of the chunk
//                 5  compatible features of the pool in the end's, else 0
//                 6  pages up to here, these included
//                 7  checksum of the words before it, seeded with that of the line before
//
// All integers are little-endian. A chunk's line is bound to the one before, so that a missing, a
// changed or a foreign chunk is seen.

package struct ExportHeader: Equatable {
  package var geometry: PoolGeometry
  package var lastLsn: UInt64

  static let magic: UInt64 = 0x4F50_5845_494C_4F56
  static let version: UInt64 = 1

  package init(geometry: PoolGeometry, lastLsn: UInt64) {
    self.geometry = geometry
    self.lastLsn = lastLsn
  }

  package var line: ExportLine {
    ExportLine(
      words: [
        Self.magic, Self.version, geometry.baseAddress, geometry.fileBytes, geometry.logBytes,
        geometry.logBytesMax, lastLsn,
      ], seed: Self.magic)
  }

  /// - Throws: `.notAPool`, `.foreignVersion`, or `.damagedExport` for a line that is not whole.
  package init(_ line: ExportLine, path: String) throws(PoolError) {
    let words = line.words
    guard words[0] == Self.magic else {
      throw .notAPool(path: path, fileOffset: 0, reason: "not what volip export writes")
    }
    guard words[1] == Self.version else {
      throw .foreignVersion(
        path: path, fileOffset: 8, found: UInt32(truncatingIfNeeded: words[1]),
        supported: UInt32(Self.version))
    }
    guard line.isSealed(seed: Self.magic) else {
      throw .damagedExport(path: path, fileOffset: 0, reason: "header")
    }
    var geometry: PoolGeometry
    do throws(PoolError) {
      geometry = try PoolGeometry(
        fileBytes: words[3], logBytes: words[4], logBytesMax: words[5])
    } catch {
      throw .damagedExport(path: path, fileOffset: 0, reason: "sizes")
    }
    geometry.baseAddress = words[2]
    guard geometry.contradiction == nil, geometry.fileBytes == words[3], words[6] < 1 << 62 else {
      throw .damagedExport(path: path, fileOffset: 0, reason: "sizes")
    }
    self.init(geometry: geometry, lastLsn: words[6])
  }
}

package struct ExportChunk: Equatable {
  package var number: UInt64
  package var firstPage: UInt64
  package var pageCount: Int
  package var checksum: UInt64
  package var compatibleFeatures: UInt64 = 0
  package var pagesSoFar: UInt64

  static let magic: UInt64 = 0x4E55_4843_494C_4F56
  /// 1 MiB.
  package static let pagesMax = 256

  package init(
    number: UInt64, firstPage: UInt64, pageCount: Int, checksum: UInt64, pagesSoFar: UInt64
  ) {
    self.number = number
    self.firstPage = firstPage
    self.pageCount = pageCount
    self.checksum = checksum
    self.pagesSoFar = pagesSoFar
  }

  package func line(after previous: ExportLine) -> ExportLine {
    ExportLine(
      words: [
        Self.magic, number, firstPage, UInt64(pageCount), checksum, compatibleFeatures, pagesSoFar,
      ], seed: previous.seal)
  }

  /// Nil where the line is not the one that follows, or names pages that the image does not have.
  package init?(_ line: ExportLine, after previous: ExportLine, imagePages: UInt64) {
    let words = line.words
    guard words[0] == Self.magic, line.isSealed(seed: previous.seal),
      words[3] <= UInt64(Self.pagesMax), words[3] <= imagePages, words[2] <= imagePages - words[3]
    else { return nil }
    number = words[1]
    firstPage = words[2]
    pageCount = Int(words[3])
    checksum = words[4]
    compatibleFeatures = words[5]
    pagesSoFar = words[6]
  }
}

/// Eight words, of which the last is the checksum of the others.
package struct ExportLine: Equatable {
  package static let byteCount = 64
  package let words: [UInt64]

  init(words: [UInt64], seed: UInt64) {
    self.words = words + [checksumOfLines(words + [0], seed: seed)]
  }

  /// A line as it was read; all zeros for one that is short.
  package init(media: [UInt64]) {
    words =
      media.count == 8 ? media.map { UInt64(littleEndian: $0) } : Array(repeating: 0, count: 8)
  }

  package var seal: UInt64 { words[7] }
  package var media: [UInt64] { words.map(\.littleEndian) }

  func isSealed(seed: UInt64) -> Bool {
    checksumOfLines(Array(words[..<7]) + [0], seed: seed) == seal
  }
}
