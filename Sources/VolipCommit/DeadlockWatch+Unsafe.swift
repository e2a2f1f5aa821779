// DeadlockWatch: looks whether sections will ever end (rule 6).
//
// A thread waits for sections of others to end. If all threads that have one open sleep, and have
// slept in the same wait for seconds, they wait for something that will not come: a lock that was
// taken before pstart by one and inside a section by another, most likely by the thread that waits
// here. What waits so long for anything else breaks the same rule: no unbounded wait in a section.

import CVolipWriteSet
import Glibc

struct DeadlockWatch {
  /// When the next look is due.
  var deadline = timespec()
  private var rounds = 0
  private var seconds = 0
  private var seen: [Int32: UInt64] = [:]

  init() { setDeadline() }

  private mutating func setDeadline() {
    clock_gettime(CLOCK_REALTIME, &deadline)
    deadline.tv_sec += 1
  }

  /// Waits a little, longer as time goes by. Returns whether a look is due.
  mutating func rest() -> Bool {
    rounds += 1
    guard rounds > 64 else {
      sched_yield()
      return false
    }
    usleep(50)
    var now = timespec()
    clock_gettime(CLOCK_REALTIME, &now)
    return (now.tv_sec, now.tv_nsec) >= (deadline.tv_sec, deadline.tv_nsec)
  }

  /// Called once a second.
  ///
  /// - Throws: `.sectionsDeadlocked` when all threads have slept in one wait for `secondsMax`.
  mutating func look(
    at threads: [Int32], kind: String, _ secondsMax: Int
  ) throws(PoolError) {
    setDeadline()
    var now: [Int32: UInt64] = [:]
    for thread in threads {
      if let waits = Self.sleeping(thread) { now[thread] = waits }
    }
    let isStuck = !threads.isEmpty && now.count == Set(threads).count && now == seen
    seconds = isStuck ? seconds + 1 : 0
    seen = now
    guard seconds >= secondsMax else { return }
    let names = threads.map { "thread \($0) (\(Self.name($0)))" }.joined(separator: ", ")
    cvw_thread_section_enroll()
    let own = cvw_thread_section()!.pointee.thread
    throw .sectionsDeadlocked(
      "thread \(own) (\(Self.name(own))) waits for the end of \(kind) sections, whose threads all "
        + "wait themselves: \(names)")
  }

  /// How often a thread has gone to sleep, if it sleeps now. One that waits for a disk ("D") gets
  /// there: a commit or a checkpoint may take seconds on a busy one.
  private static func sleeping(_ thread: Int32) -> UInt64? {
    let text = read("/proc/self/task/\(thread)/status")
    var (isSleeping, waits) = (false, UInt64?.none)
    for line in text.split(separator: "\n") {
      let words = line.split(whereSeparator: { $0 == ":" || $0 == "\t" || $0 == " " })
      guard words.count > 1 else { continue }
      if words[0] == "State" { isSleeping = words[1] == "S" }
      if words[0] == "voluntary_ctxt_switches" { waits = UInt64(words[1]) }
    }
    return isSleeping ? waits : nil
  }

  private static func name(_ thread: Int32) -> String {
    let text = read("/proc/self/task/\(thread)/comm")
    return String(text.prefix { $0 != "\n" })
  }

  private static func read(_ path: String) -> String {
    let file = open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return "" }
    defer { close(file) }
    var bytes = [UInt8](repeating: 0, count: 4096)
    // SAFETY: reads at most the array's own bytes.
    let count = bytes.withUnsafeMutableBytes { Glibc.read(file, $0.baseAddress, $0.count) }
    return String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self)
  }
}
