// Which pages of a working copy have a private copy: memory that can be given back.

import Glibc

extension WorkingCopy {
  /// Puts the pages of a range into a write set of which the working copy has a private copy in
  /// memory: tracked pages, or, of a run of announced ones, these.
  public func takePrivate(_ pages: Range<Int>, into writeSet: WriteSet) throws(PoolError) {
    let descriptor = Int32(
      truncatingIfNeeded: try require("open") {
        Int(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC))
      })
    defer { close(descriptor) }
    writeSet.removeAll()
    if announcedPages.contains(pages) {
      try appendPrivate(pages, writeSet, descriptor)
    } else {
      try forEachTracked(pages) { (run) throws(PoolError) in
        try appendPrivate(run, writeSet, descriptor)
      }
    }
  }

  /// Entries of a page map that are read at once.
  private static let entriesMax = 512

  private func appendPrivate(
    _ pages: Range<Int>, _ writeSet: WriteSet, _ descriptor: Int32
  ) throws(PoolError) {
    var entries = [UInt64](repeating: 0, count: Self.entriesMax)
    for first in stride(from: pages.lowerBound, to: pages.upperBound, by: Self.entriesMax) {
      let count = min(Self.entriesMax, pages.upperBound - first)
      let place = (Int(bitPattern: base) / Self.pageBytes + first) * 8
      // SAFETY: at most the array's own size is read into it.
      let bytes = try require("pread") {
        entries.withUnsafeMutableBytes { pread(descriptor, $0.baseAddress, count * 8, place) }
      }
      for index in 0..<bytes / 8 where Self.isPrivate(entries[index]) {
        writeSet.append(page: first + index)
      }
    }
  }

  /// Documentation/admin-guide/mm/pagemap.rst: in memory, and not the file's. (A page that is
  /// armed and not there looks like one that is swapped out.)
  private static func isPrivate(_ entry: UInt64) -> Bool {
    entry & 1 << 63 != 0 && entry & 1 << 61 == 0
  }
}
