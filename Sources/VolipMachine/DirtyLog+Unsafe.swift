// DirtyLog: KVM's log of the pages that the guest wrote, as far as it is about one pool.
//
// KVM logs whole memory slots, with other memory and perhaps other pools in them. The words here
// have a bit for each page of those slots; bits that are not the pool's are neither looked at nor
// cleared.
//
//   bits    as KVM had them when they were last read
//   marks   pages that system calls wrote, which the host does behind the log (rule 16); calls set
//           bits at any time, arming takes them away
//   mask    what the next `clear` clears in KVM; all zero between two calls
//
// A list of marked pages would not do: a call that finds its page on the way there must not go on
// before it has arrived, and here no right to write says when it has.

import CVolimem
import Glibc

public final class DirtyLog {
  private var log = cvm_log()
  private let bits: UnsafeMutablePointer<UInt64>
  private let marks: UnsafeMutablePointer<UInt64>
  private let mask: UnsafeMutablePointer<UInt64>
  private let wordCount: Int
  /// The bit of the pool's first page.
  private let firstBit: Int
  private var isOpen = true

  /// Of the working copy at `base`, which has a region. KVM may report every page as written at
  /// first.
  public init(
    _ region: GuestRegion, base: UnsafeMutableRawPointer
  ) throws(PoolError) {
    let address = UInt64(UInt(bitPattern: base))
    let result = cvm_log_start(&log, address, UInt64(region.pageCount) * 4096)
    guard result == 0 else { throw Self.failure("KVM_SET_USER_MEMORY_REGION", result) }
    firstBit = Int(address / 4096 - log.first_page)
    wordCount = (Int(log.page_count) + 63) / 64
    do throws(PoolError) {
      let words = try reserveTables(3 * wordCount * 8)
      // SAFETY: a fresh mapping, zero, of three times as many words.
      bits = words.bindMemory(to: UInt64.self, capacity: 3 * wordCount)
    } catch {
      _ = cvm_log_stop(&log)
      throw error
    }
    marks = bits + wordCount
    mask = marks + wordCount
    if !isRemoved(.marksInLog) { region.markCalls(in: marks, firstBit: firstBit) }
  }

  deinit {
    close()
  }

  private static func failure(_ operation: String, _ result: Int32) -> PoolError {
    guard result == -EOPNOTSUPP else {
      return .system(operation: operation, errorNumber: -result)
    }
    return .trackerUnavailable(
      tracker: "dirty-log",
      reason:
        "this kernel's KVM clears no bits of its dirty log by themselves (Linux 5.2 and later "
        + "do: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)")
  }

  /// Ends the logging, unless others have memory in the same slots.
  public func close() {
    guard isOpen else { return }
    isOpen = false
    // A forked child has none of it, and perhaps something else at that address.
    guard cvm_log_stop(&log) == 0 else { return }
    // The addresses stay: a call of another thread that is just marking its buffers may still look.
    madvise(bits, 3 * wordCount * 8, MADV_DONTNEED)
  }

  /// Asks KVM which pages below `limit` the guest wrote. An exit.
  public func read(upTo limit: Int) throws(PoolError) {
    let result = cvm_log_read(&log, UInt64(firstBit + limit), bits)
    guard result == 0 else { throw Self.failure("KVM_GET_DIRTY_LOG", result) }
  }

  /// To be called before the page is compared: who writes it later marks it again.
  public func unmark(_ page: Int) {
    let (word, bit) = place(page)
    if marks[word] & bit != 0 { _ = cvm_entry_and(marks + word, ~bit) }
  }

  private func place(_ page: Int) -> (word: Int, bit: UInt64) {
    let index = firstBit + page
    precondition(index < wordCount * 64)
    return (index / 64, 1 << UInt64(index % 64))
  }

  /// Calls `body` for each page that was written or marked, ascending.
  @inline(__always)
  public func forEachWritten(in pages: Range<Int>, _ body: (Int) -> Void) {
    forEachWord(of: pages) { word, own in
      // SAFETY: forEachWord names words of the mapping only.
      var found = (bits[word] | marks[word]) & own
      while found != 0 {
        body(word * 64 + found.trailingZeroBitCount - firstBit)
        found &= found - 1
      }
    }
  }

  @inline(__always)
  private func forEachWord(of pages: Range<Int>, _ body: (_ word: Int, _ own: UInt64) -> Void) {
    guard !pages.isEmpty else { return }
    let (first, last) = (firstBit + pages.lowerBound, firstBit + pages.upperBound - 1)
    precondition(last < wordCount * 64)
    for word in first / 64...last / 64 {
      var own = UInt64.max
      if word == first / 64 { own &= .max << UInt64(first % 64) }
      if word == last / 64 { own &= .max >> UInt64(63 - last % 64) }
      body(word, own)
    }
  }

  /// Has KVM log the next write of these pages. An exit.
  public func clear(_ pages: Range<Int>) throws(PoolError) {
    guard let last = pages.last else { return }
    forEachWord(of: pages) { word, own in mask[word] = own }
    try clear(words: place(pages.lowerBound).word...place(last).word)
  }

  /// The same for pages of a list, ascending.
  public func clear(count: Int, page: (Int) -> Int?) throws(PoolError) {
    var words: ClosedRange<Int>?
    for index in 0..<count {
      guard let page = page(index) else { continue }
      let (word, bit) = place(page)
      mask[word] |= bit
      words = (words?.lowerBound ?? word)...word
    }
    if let words { try clear(words: words) }
  }

  private func clear(words: ClosedRange<Int>) throws(PoolError) {
    let result =
      isRemoved(.armInLog)
      ? 0 : cvm_log_clear(&log, UInt64(words.lowerBound), UInt64(words.upperBound + 1), mask)
    (mask + words.lowerBound).update(repeating: 0, count: words.count)
    guard result == 0 else { throw Self.failure("KVM_CLEAR_DIRTY_LOG", result) }
  }
}
