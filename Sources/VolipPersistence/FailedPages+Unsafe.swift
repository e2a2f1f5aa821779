// FailedPages: pages of a mapping that turn out to be unreadable while the library works on them.
//
// The mechanism is CVolipPersistence/media.c: such a page does not end the process, it is noted
// here, and whoever works on the mapping looks before it trusts what it read or stored.

import CVolipPersistence

/// Failed pages of one mapping. For the library's own modules: what is `package` is called, with
/// metadata, where each section wants it inlined.
public final class FailedPages {
  // SAFETY: the slot lives as long as the process; ours until `stop` or `watchInstead`.
  @exclusivity(unchecked) private var media: OpaquePointer
  @exclusivity(unchecked) private var isWatched = true

  /// Watches whole pages of a mapping.
  package init(
    _ kind: cvp_media_kind, _ base: UnsafeMutableRawPointer, byteCount: Int
  ) throws(PoolError) {
    media = try Self.watch(kind, base, byteCount)
  }

  /// Watches pages of another mapping from here on, and forgets what was noted of the first one.
  package func watchInstead(
    _ kind: cvp_media_kind, _ base: UnsafeMutableRawPointer, byteCount: Int
  ) throws(PoolError) {
    let watched = try Self.watch(kind, base, byteCount)
    stop()
    (media, isWatched) = (watched, true)
  }

  private static func watch(
    _ kind: cvp_media_kind, _ base: UnsafeMutableRawPointer, _ byteCount: Int
  ) throws(PoolError) -> OpaquePointer {
    guard let watched = cvp_media_watch(kind, base, byteCount) else {
      throw .system(operation: "watch for SIGBUS", errorNumber: 24)  // EMFILE
    }
    return watched
  }

  deinit { stop() }

  /// Before the mapping goes.
  package func stop() {
    guard isWatched else { return }
    isWatched = false
    cvp_media_forget(media)
  }

  @inline(__always)
  package var isEmpty: Bool { cvp_media_failed_count(media) == 0 }

  /// Where they begin, in bytes from the mapping's start, each once. Of very many the first alone.
  package var offsets: [Int] {
    let count = min(cvp_media_failed_count(media), Int(CVP_FAILED_PAGES_MAX))
    return Set((0..<count).map { Int(cvp_media_failed(media, $0)) }).sorted()
  }

  /// Whether `offsets` lacks some: of very many, or where another thread is about to note one that
  /// is counted already.
  package var isOverfull: Bool {
    let count = count
    return count > Int(CVP_FAILED_PAGES_MAX) || count > 0 && !cvp_media_is_settled(media)
  }

  /// Whether a dropped page could not be read in the file either, so that zeros stand in for it.
  package var isHopeless: Bool { cvp_media_is_hopeless(media) }

  package func removeAll() { cvp_media_clear(media) }

  /// How many were noted, those that were noted twice too.
  package var count: Int { cvp_media_failed_count(media) }

  /// Nothing where another thread met one meanwhile: which of them it was is not known.
  package func removeAll(ifStill count: Int) { cvp_media_clear_counted(media, count) }

  /// Whether a range can be read, for memory that is about to be walked.
  package static func canRead(_ address: UnsafeRawPointer, byteCount: Int) -> Bool {
    cvp_media_probe(address, byteCount) == 0
  }

  /// Runs `body` as work of the library, in which a page that fails is noted.
  @inlinable @inline(__always)
  public static func noted<Result, Failure: Error>(
    _ body: () throws(Failure) -> Result
  ) throws(Failure) -> Result {
    cvp_media_enter()
    defer { cvp_media_leave() }
    return try body()
  }
}
