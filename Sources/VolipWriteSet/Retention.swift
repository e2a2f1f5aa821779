// Retention: which written pages stay writable, to be compared instead of trapped.
//
// A retained page costs a comparison in every commit; an armed one costs a trap in each commit that
// writes it. So a page is worth retaining when
//
//     chance of a change in the next commit * trap > (1 - chance) * comparison
//
// The chance is learned. Each page has a streak, 0 to 3: up by one in a commit that changes the
// page, down by one in a commit that does not. For each streak the share of pages that changed in
// the following commit is counted (both armed and retained pages show it). Besides, a retained page
// is armed when fruitless comparisons since its last change have cost as much as one trap.
//
// Where pages are armed for less together (a flush of translations ends it, or each run of them
// takes a call), those that are not worth retaining wait for each other: they stay writable until
// comparing them has cost as much as the last arming did. So waiting never costs more than it saves
// twice over.
//
// Invariant: retention decides cost, never correctness: an unretained page is armed before it is
// compared, a retained one is compared in every commit.

import CVolipPersistence

struct PageHistory: BitwiseCopyable {
  /// The commit in which the page last was in a write set.
  var commit: UInt32
  var streak: UInt8
  /// Comparisons without a change since the last change.
  var fruitless: UInt8
  var isRetained: Bool
}

public final class Retention {
  static let streakMax: UInt8 = 3
  /// Outcomes remembered for a streak; the counts are halved beyond it, so that old ones fade.
  static let outcomesMax: Double = 4096
  /// While idle, so many commits of a period are looked at.
  static let windowCommits: UInt32 = 6
  static let windowPeriod: UInt32 = 32

  /// Ticks of one trap and the arming after it; 0 switches retention off.
  public let trapTicks: Double
  /// Ticks of one comparison, measured in each commit, averaged.
  public var comparisonTicks: Double { averageTicks }
  /// Not public: as WriteSet's counts.
  @exclusivity(unchecked) private var averageTicks: Double = 0
  private let history: ReservedArray<PageHistory>
  /// Starts two above a page's initial history, so that no page seems to have been seen.
  @exclusivity(unchecked) private var commit: UInt32 = 2
  /// By streak. Vectors, because arrays would be allocated in every commit.
  @exclusivity(unchecked) private var trials = SIMD4<Double>()
  @exclusivity(unchecked) private var hits = SIMD4<Double>()
  @exclusivity(unchecked) private var pending = SIMD4<Double>()
  @exclusivity(unchecked) private var isWorthwhile = SIMDMask<SIMD4<Int64>>()
  /// Pages that the last commit left writable.
  @exclusivity(unchecked) private var retainedCount = 0
  /// Pages of the last commit looked at whose streak is one that is worth retaining.
  @exclusivity(unchecked) private var worthyCount = 0
  /// Pages of the last commit looked at.
  @exclusivity(unchecked) private var observedPages = 0
  /// The commit from which the periods of looking count.
  @exclusivity(unchecked) private var windowStart: UInt32 = 0

  /// Whether the pages of this commit wait to be armed.
  @exclusivity(unchecked) private var isDeferring = false
  /// Ticks that comparing waiting pages has cost since the last arming.
  @exclusivity(unchecked) private var deferredTicks: Double = 0
  /// Ticks of one arming, averaged.
  @exclusivity(unchecked) private var armTicks: Double = 0

  public init(pageCapacity: Int, trapTicks: Double) throws(PoolError) {
    history = try ReservedArray(capacity: pageCapacity)
    self.trapTicks = trapTicks
  }

  public var isOn: Bool { trapTicks > 0 }

  /// For trackers that arm pages for less together: whether arming waits. Then every page of
  /// `writeSet` is retained.
  public func defersArming(_ writeSet: WriteSet) -> Bool {
    var waiting = 0
    for index in 0..<writeSet.pageCount where !writeSet.retained[index] { waiting += 1 }
    deferredTicks += Double(waiting) * comparisonTicks
    isDeferring = deferredTicks < armTicks
    if isDeferring {
      writeSet.markRetained { _ in true }
    } else {
      deferredTicks = 0
    }
    return isDeferring
  }

  public func noteArming(ticks: UInt64) {
    armTicks = armTicks == 0 ? Double(ticks) : armTicks * 0.75 + Double(ticks) * 0.25
  }
  /// Whether nothing is retained, and nothing was worth it in the last commit looked at. That a
  /// streak is worthwhile is not enough to be awake: large sections teach it of streaks that the
  /// pages of small ones, afterwards, never get; arming apart from taking cost those 25 %.
  public var isIdle: Bool { retainedCount == 0 && worthyCount == 0 }

  /// Whether `learn` is to look at a commit. While nothing is worth retaining, only at some in a
  /// row: enough for a page to get to the highest streak and to be seen changing once more. Looking
  /// at each would cost a section of one update 5 %.
  public func observes(_ writeSet: WriteSet) -> Bool {
    guard trapTicks > 0, writeSet.pageCount > 0 else { return false }
    guard isIdle, !isDeferring else { return true }
    // Far more pages than before: the program does something else now, and traps cost most here.
    if writeSet.pageCount > 2 * observedPages + 8 { windowStart = commit }
    return (commit &- windowStart) % Self.windowPeriod < Self.windowCommits
  }

  /// Decides for each page of a new write set, before it is compared.
  public func decide(_ writeSet: WriteSet) {
    guard trapTicks > 0 else {
      writeSet.retainNone()
      return
    }
    let fruitlessMax = comparisonTicks > 0 ? trapTicks / comparisonTicks : 255
    for index in 0..<writeSet.pageCount {
      let page = history[writeSet.page(index)]
      let expected = page.isRetained ? page.streak : min(streakNow(page) + 1, Self.streakMax)
      writeSet.retained[index] =
        isWorthwhile[Int(expected)] && Double(page.fruitless) < fruitlessMax
    }
  }

  /// The streak of a page before this commit: one less for each commit that passed it by.
  private func streakNow(_ page: PageHistory) -> UInt8 {
    let missed = commit &- page.commit &- 1
    return missed >= UInt32(page.streak) ? 0 : page.streak - UInt8(missed)
  }

  /// Whether a page stayed writable after the last commit that had it in its write set.
  public func isRetained(page: Int) -> Bool { history[page].isRetained }

  /// Notes that every page of a write set was armed after all.
  public func forget(_ writeSet: WriteSet) {
    for index in 0..<writeSet.pageCount { history[writeSet.page(index)].isRetained = false }
    retainedCount = 0
  }

  /// Learns from a compared write set. `ticks` is what the comparison of all its pages took, nil
  /// for one that is not observed.
  public func learn(_ writeSet: WriteSet, ticks: UInt64?) {
    defer { commit &+= 1 }
    guard let ticks, trapTicks > 0, writeSet.pageCount > 0 else { return }
    observedPages = writeSet.pageCount
    let each = Double(ticks) / Double(writeSet.pageCount)
    averageTicks = averageTicks == 0 ? each : averageTicks * 0.9 + each * 0.1
    var seen = SIMD4<Double>()
    (retainedCount, worthyCount) = (0, 0)
    for index in 0..<writeSet.pageCount {
      let number = writeSet.page(index)
      var page = history[number]
      let streak = streakNow(page)
      if writeSet.changedLines[index] != 0 {
        if page.commit == commit &- 1 { hits[Int(page.streak)] += 1 }
        page.streak = min(streak + 1, Self.streakMax)
        page.fruitless = 0
      } else {
        page.streak = streak == 0 ? 0 : streak - 1
        page.fruitless = page.fruitless == .max ? .max : page.fruitless + 1
      }
      page.commit = commit
      page.isRetained = writeSet.retained[index]
      retainedCount += page.isRetained ? 1 : 0
      worthyCount += isWorthwhile[Int(page.streak)] ? 1 : 0
      history[number] = page
      seen[Int(page.streak)] += 1
    }
    judge(seen)
  }

  /// Outcomes of the pages seen now are known after the next commit.
  private func judge(_ seen: SIMD4<Double>) {
    for streak in 0..<4 {
      trials[streak] += pending[streak]
      pending[streak] = seen[streak]
      if trials[streak] > Self.outcomesMax {
        trials[streak] /= 2
        hits[streak] /= 2
      }
      let chance = trials[streak] > 0 ? min(hits[streak] / trials[streak], 1) : 0
      isWorthwhile[streak] = chance * trapTicks > (1 - chance) * comparisonTicks
    }
  }
}
