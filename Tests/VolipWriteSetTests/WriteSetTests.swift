import CVolipWriteSet
import Glibc
import TestSupport
import Testing

@testable import VolipWriteSet

@Suite struct WriteSetTests {
  /// The extents of a write set against the lines of its masks, one by one.
  @Test func extentsNameExactlyTheChangedLinesInOrder() throws {
    var generator = SeededGenerator.forTest()
    for _ in 0..<300 {
      let writeSet = try WriteSet(pageCapacity: 64)
      var lines: [UInt64] = []
      for page in 0..<64 where Bool.random(using: &generator) {
        let mask = [0, .max, generator.next(), generator.next() & generator.next()].randomElement(
          using: &generator)!
        writeSet.changedLines[writeSet.pageCount] = mask
        writeSet.append(page: page)
        for line in 0..<64 where mask >> UInt64(line) & 1 != 0 {
          lines.append(UInt64(page * 64 + line))
        }
      }
      var named: [UInt64] = []
      var previousEnd = UInt64.max
      writeSet.forEachExtent { extent in
        #expect(extent.firstLine != previousEnd, "neighbouring extents should be one")
        previousEnd = extent.firstLine + UInt64(extent.lineCount)
        named.append(contentsOf: extent.firstLine..<previousEnd)
      }
      #expect(named == lines)
    }
  }

  @Test func anExtentIsCutWhereItsCountNoLongerFitsItsWord() throws {
    let pageCount = 2100
    let writeSet = try WriteSet(pageCapacity: pageCount)
    for page in 0..<pageCount {
      writeSet.changedLines[page] = .max
      writeSet.append(page: page)
    }
    var extents: [LineExtent] = []
    writeSet.forEachExtent { extents.append($0) }
    #expect(extents.map(\.lineCount).reduce(0, +) == pageCount * 64)
    #expect(extents.allSatisfy { LineExtent(word: $0.word) == $0 })
    #expect(extents.count == 3)
  }

  @Test func runsReachOverArmedGapsAndNeverOverARejectedPage() throws {
    let writeSet = try WriteSet(pageCapacity: 100)
    for page in [1, 2, 5, 6, 20, 21, 22] { writeSet.append(page: page) }
    func runs(_ gap: Int, _ rejected: Set<Int>) -> [Range<Int>] {
      var result: [Range<Int>] = []
      writeSet.forEachRun(
        gapPagesMax: gap, where: { !rejected.contains(writeSet.page($0)) }, { result.append($0) })
      return result
    }
    #expect(runs(0, []) == [1..<3, 5..<7, 20..<23])
    #expect(runs(2, []) == [1..<7, 20..<23])
    #expect(runs(100, []) == [1..<23])
    #expect(runs(100, [5]) == [1..<3, 6..<23])
    #expect(runs(100, [1, 22]) == [2..<22])
  }
}

/// Retention decides cost only; these tests are about the decisions.
@Suite struct RetentionTests {
  /// Plays commits in which each page of `hot` changes every time and one of `cold` pages once.
  private func play(
    commits: Int, trapTicks: Double, comparisonTicks: UInt64, hot: Int, cold: Int
  ) throws -> (hotKept: Int, coldKept: Int) {
    let retention = try Retention(pageCapacity: hot + cold, trapTicks: trapTicks)
    let writeSet = try WriteSet(pageCapacity: hot + cold)
    var kept: Set<Int> = []
    for commit in 0..<commits {
      let changed = Set(0..<hot).union([hot + commit % cold])
      writeSet.removeAll()
      for page in changed.union(kept).sorted() {
        writeSet.changedLines[writeSet.pageCount] = changed.contains(page) ? 1 : 0
        writeSet.append(page: page)
      }
      retention.decide(writeSet)
      kept = Set(
        (0..<writeSet.pageCount).filter { writeSet.isRetained($0) }.map { writeSet.page($0) })
      retention.learn(writeSet, ticks: comparisonTicks * UInt64(writeSet.pageCount))
    }
    return (kept.filter { $0 < hot }.count, kept.filter { $0 >= hot }.count)
  }

  @Test func pagesThatChangeInEveryCommitAreRetainedAndOthersAreNot() throws {
    let (hot, cold) = try play(
      commits: 200, trapTicks: 1400, comparisonTicks: 400, hot: 5, cold: 1000)
    #expect(hot == 5)
    #expect(cold == 0)
  }

  /// Large sections teach that pages which change in a row are worth retaining. Sections of one
  /// page each, afterwards, must not pay for it; a large one must not wait for the next period.
  @Test func retentionIsIdleInSmallSectionsAfterLargeOnesAndAwakeAgainAtOnce() throws {
    let retention = try Retention(pageCapacity: 1000, trapTicks: 1400)
    let writeSet = try WriteSet(pageCapacity: 1000)
    var looks = 0
    func commit(_ pages: Range<Int>) {
      writeSet.removeAll()
      for page in pages {
        writeSet.changedLines[writeSet.pageCount] = 1
        writeSet.append(page: page)
      }
      if retention.isIdle { writeSet.retainNone() } else { retention.decide(writeSet) }
      let isObserved = retention.observes(writeSet)
      looks += isObserved ? 1 : 0
      retention.learn(writeSet, ticks: isObserved ? 400 * UInt64(writeSet.pageCount) : nil)
    }
    for _ in 0..<50 { commit(0..<500) }
    #expect(!retention.isIdle && writeSet.isRetained(0))
    // The retained pages themselves are the tracker's to report; here they are gone at once.
    // So long, because what the lowest streak was worth fades with each page that disappoints.
    for index in 0..<3000 { commit(500 + index % 500..<501 + index % 500) }
    #expect(retention.isIdle)
    looks = 0
    for page in 600..<760 { commit(page..<page + 1) }
    #expect(retention.isIdle && looks <= 160 * 6 / 32 + 6)
    var needed = 0
    while retention.isIdle, needed < 100 {
      commit(0..<500)
      needed += 1
    }
    #expect(needed <= 6)
  }

  @Test func nothingIsRetainedWhenRetentionIsOff() throws {
    let (hot, cold) = try play(commits: 50, trapTicks: 0, comparisonTicks: 400, hot: 5, cold: 10)
    #expect(hot + cold == 0)
  }

  @Test func aPageThatStopsChangingIsArmedWhenComparisonsHaveCostOneTrap() throws {
    let retention = try Retention(pageCapacity: 2, trapTicks: 1000)
    let writeSet = try WriteSet(pageCapacity: 2)
    func commit(changed: Bool) -> Bool {
      writeSet.removeAll()
      writeSet.changedLines[0] = changed ? 1 : 0
      writeSet.append(page: 0)
      retention.decide(writeSet)
      retention.learn(writeSet, ticks: 100)
      return writeSet.isRetained(0)
    }
    for _ in 0..<20 { _ = commit(changed: true) }
    #expect(commit(changed: true))
    var fruitless = 0
    while commit(changed: false) { fruitless += 1 }
    #expect(fruitless <= 10)
  }
}
