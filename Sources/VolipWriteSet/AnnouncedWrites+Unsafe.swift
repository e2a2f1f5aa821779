// AnnouncedWrites: the bytes that the open section says it writes, or wrote.
//
// Announced memory is never write-protected and never compared: what is not announced is not
// durable. The bytes are read at the commit, so that it does not matter whether a store comes
// before its announcement or after it, and announcing twice is announcing once.
//
// Invariants
// 1. Every extent lies in the working copy, and none is empty.
// 2. An extent that is in the list already, and whose slot nobody took since, is not appended
//    again; one that continues the last becomes part of it. Others may overlap.
//
// Threads: the thread that has the section.

import CVolipWriteSet
import VolipPool

/// A handle to the list; copies of it are the same list, which lives as long as its owner says.
public struct AnnouncedWrites: @unchecked Sendable {
  @usableFromInline
  struct State {
    @usableFromInline var base: UnsafeMutableRawPointer
    @usableFromInline var byteCount: Int
    @usableFromInline var extents: UnsafeMutablePointer<UInt64>
    @usableFromInline var count = 0
    @usableFromInline var capacity: Int
    @usableFromInline var restoreCount = 0
    @usableFromInline var sectionNumber: UInt64 = 0
    /// Extents that need not be durable, and are to be taken back all the same.
    @usableFromInline var forgotten: [UInt64] = []
    /// By a hash of an extent, where in the list it may be. A slot is never cleared: what it says
    /// is believed only if the list agrees.
    @usableFromInline let slots: UnsafeMutablePointer<UInt32>
  }

  @usableFromInline let state: UnsafeMutablePointer<State>
  /// 4 KiB of slots, an eighth of the fastest cache: enough for what a loop writes again and again.
  @usableFromInline static let slotBits: UInt64 = 10
  private static let capacityFirst = 1 << 12

  /// An empty list for `byteCount` bytes of persistent memory at `base`.
  public init(base: UnsafeMutableRawPointer, byteCount: Int) {
    let slots = UnsafeMutablePointer<UInt32>.allocate(capacity: 1 << Int(Self.slotBits))
    slots.initialize(repeating: 0, count: 1 << Int(Self.slotBits))
    state = .allocate(capacity: 1)
    state.initialize(
      to: State(
        base: base, byteCount: byteCount, extents: .allocate(capacity: Self.capacityFirst),
        capacity: Self.capacityFirst, slots: slots))
  }

  /// Gives the list's memory back. Nobody may use it any more.
  public func deallocate() {
    state.pointee.extents.deallocate()
    state.pointee.slots.deallocate()
    state.deinitialize(count: 1)
    state.deallocate()
  }

  /// After growth of the pool.
  public func resize(byteCount: Int) { state.pointee.byteCount = byteCount }

  /// The same for all copies of a handle, and for no other list.
  @inlinable @inline(__always)
  public var identity: UnsafeMutableRawPointer { UnsafeMutableRawPointer(state) }

  /// Whether it is the list of the calling thread's section. That of a section that has ended is
  /// another thread's, or nobody's.
  @inlinable @inline(__always)
  public var isOfThisThread: Bool { cvw_thread_section()!.pointee.announced == identity }

  public var isEmpty: Bool { state.pointee.count == 0 }

  /// Whether there is anything that a rollback puts back.
  public var needsRestore: Bool { !isEmpty || !state.pointee.forgotten.isEmpty }

  /// How often announced writes were taken back: who remembers what a section did forgets it then.
  @inlinable @inline(__always)
  public var restoreCount: Int { state.pointee.restoreCount }

  /// A number that no section that became durable had before the open one.
  @inlinable @inline(__always)
  public var sectionNumber: UInt64 { state.pointee.sectionNumber }

  /// A new section begins.
  public func begin(number: UInt64) {
    removeAll()
    state.pointee.sectionNumber = number
  }

  public func removeAll() {
    state.pointee.count = 0
    if !state.pointee.forgotten.isEmpty { state.pointee.forgotten = [] }
  }

  /// Announces a write of `byteCount` bytes at an address in the pool.
  @inlinable @inline(__always)
  public func announce(_ address: UnsafeRawPointer, byteCount: Int) {
    let offset = address - UnsafeRawPointer(state.pointee.base)
    precondition(
      UInt(bitPattern: offset) < UInt(bitPattern: state.pointee.byteCount)
        && UInt(bitPattern: byteCount &- 1)
          < UInt(bitPattern: state.pointee.byteCount &- offset)
    )
    guard byteCount <= ByteExtent.byteCountMax else { return announceLarge(offset, byteCount) }
    let word = UInt64(UInt(bitPattern: offset)) << 20 | UInt64(UInt(bitPattern: byteCount))
    let slot = Int((word &* 0x9E37_79B9_7F4A_7C15) >> (64 - Self.slotBits))
    // SAFETY: a slot is below 2^slotBits; the list has `count` entries.
    let index = Int(state.pointee.slots[slot])
    if index < state.pointee.count, state.pointee.extents[index] == word { return }
    append(word, slot)
  }

  @inlinable @inline(__always)
  func append(_ word: UInt64, _ slot: Int) {
    let count = state.pointee.count
    if count > 0 {
      // SAFETY: the list has `count` entries.
      let last = state.pointee.extents[count &- 1]
      let bytes = last & 0xF_FFFF
      let joined = bytes &+ (word & 0xF_FFFF)
      if last >> 20 &+ bytes == word >> 20, joined <= 0xF_FFFF {
        state.pointee.extents[count &- 1] = last & ~0xF_FFFF | joined
        return
      }
    }
    if count == state.pointee.capacity { grow() }
    // SAFETY: count is below the capacity by now.
    state.pointee.extents[count] = word
    state.pointee.slots[slot] = UInt32(truncatingIfNeeded: count)
    state.pointee.count = count &+ 1
  }

  @usableFromInline @inline(never)
  func announceLarge(_ offset: Int, _ byteCount: Int) {
    // Whole words but for the last, so that all but one are stored as words.
    let most = ByteExtent.byteCountMax / 8 * 8
    for start in stride(from: offset, to: offset + byteCount, by: most) {
      let piece = min(most, offset + byteCount - start)
      append(ByteExtent(offset: UInt64(start), byteCount: piece).word, 0)
    }
  }

  @usableFromInline @inline(never)
  func grow() {
    let capacity = state.pointee.capacity
    let larger = UnsafeMutablePointer<UInt64>.allocate(capacity: capacity * 2)
    // SAFETY: both have at least `capacity` entries.
    larger.update(from: state.pointee.extents, count: capacity)
    state.pointee.extents.deallocate()
    state.pointee.extents = larger
    state.pointee.capacity = capacity * 2
  }

  /// Takes over what another section of the same group announced.
  public func append(contentsOf other: AnnouncedWrites) {
    for index in 0..<other.state.pointee.count {
      // SAFETY: the other list has `count` entries.
      append(other.state.pointee.extents[index], 0)
    }
    state.pointee.forgotten += other.state.pointee.forgotten
  }

  /// Makes what was announced of a range not durable: its content does not matter any more, if the
  /// section is not taken back.
  public func forget(_ address: UnsafeRawPointer, byteCount: Int) {
    let offset = UInt64(address - UnsafeRawPointer(state.pointee.base))
    let end = offset + UInt64(byteCount)
    var kept = 0
    // SAFETY: what is kept is a part of the list.
    for index in 0..<state.pointee.count {
      let extent = ByteExtent(word: state.pointee.extents[index])
      let isInside = extent.offset >= offset && extent.offset + UInt64(extent.byteCount) <= end
      guard !isInside else {
        state.pointee.forgotten.append(extent.word)
        continue
      }
      state.pointee.extents[kept] = extent.word
      kept += 1
    }
    state.pointee.count = kept
  }

  /// Calls `body` for each extent with its bytes in working memory.
  @inline(__always)
  public func forEach(_ body: (ByteExtent, UnsafeRawPointer) -> Void) {
    let (base, count) = (UnsafeRawPointer(state.pointee.base), state.pointee.count)
    for index in 0..<count {
      // SAFETY: the list has `count` entries, each inside the working copy.
      let extent = ByteExtent(word: state.pointee.extents[index])
      body(extent, base + Int(extent.offset))
    }
  }

  /// Puts every announced byte back as it is in the image, which must lack no committed byte.
  public func restore(from image: ImageView) {
    let base = state.pointee.base
    func restore(_ extent: ByteExtent) {
      // SAFETY: every extent lies in the working copy and so in the image.
      (base + Int(extent.offset)).copyMemory(
        from: image.base + Int(extent.offset), byteCount: extent.byteCount)
    }
    forEach { extent, _ in restore(extent) }
    for word in state.pointee.forgotten { restore(ByteExtent(word: word)) }
  }

  /// Nothing of what the section announced counts any more.
  public func takeBack() {
    removeAll()
    state.pointee.restoreCount += 1
  }

  // MARK: Audit

  /// The first byte of a changed line that differs from the image and was not announced, or nil.
  ///
  /// - Parameter changes: the lines of a compared write set that are in announced pages.
  public func firstUnannounced(
    _ changes: [LineExtent], image: ImageView
  ) -> UInt64? {
    let ranges = announcedRanges()
    var index = 0
    for change in changes {
      let first = Int(change.firstLine) * 64
      for offset in first..<first + change.lineCount * 64 {
        // SAFETY: lines of the working copy, which the image has too.
        let (now, before) = (
          (state.pointee.base + offset).load(as: UInt8.self),
          (image.base + offset).load(as: UInt8.self)
        )
        guard now != before else { continue }
        while index < ranges.count, ranges[index].upperBound <= offset { index += 1 }
        guard index < ranges.count, ranges[index].lowerBound <= offset else {
          return UInt64(offset)
        }
      }
    }
    return nil
  }

  /// The announced bytes in ascending order, without overlaps.
  private func announcedRanges() -> [Range<Int>] {
    var ranges: [Range<Int>] = []
    forEach { extent, _ in
      ranges.append(Int(extent.offset)..<Int(extent.offset) + extent.byteCount)
    }
    ranges.sort { $0.lowerBound < $1.lowerBound }
    var joined: [Range<Int>] = []
    for range in ranges {
      if let last = joined.last, range.lowerBound <= last.upperBound {
        joined[joined.count - 1] = last.lowerBound..<max(last.upperBound, range.upperBound)
      } else {
        joined.append(range)
      }
    }
    return joined
  }
}
