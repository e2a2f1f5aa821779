// Audit: what a pool holds after a crash, judged against what was acknowledged and the model.

import PersistentHashmap
import VolipMem

/// What is wrong with a pool; nothing should be.
struct Findings {
  /// Sections that were acknowledged and are not there.
  var lost: UInt64 = 0
  /// Pools in which something is neither before nor after a section.
  var torn = 0
  /// Blocks of the heap that nothing refers to.
  var leaked = 0
  var remarks: [String] = []

  var isClean: Bool { lost == 0 && torn == 0 && leaked == 0 }

  mutating func noteTorn(_ remark: String) {
    torn += 1
    remarks.append(remark)
  }
}

struct Audit {
  let pool: Pool?
  let acknowledged: UInt64
  private(set) var findings = Findings()
  /// The last section that the pool holds.
  private(set) var section: UInt64 = 0

  init(_ pool: Pool?, acknowledged: UInt64) {
    self.pool = pool
    self.acknowledged = acknowledged
  }

  /// Compares everything. The heap comes first: a damaged one may hold pointers to anywhere.
  mutating func run(_ model: inout Model) throws {
    let state = try pool?.root(DemoPool.rootName, as: DemoState.self)
    section = state?.pointee.section ?? 0
    guard judgeSection() else { return }
    model.advance(to: section)
    guard let pool else { return }
    let heap = pool.checkHeap()
    guard heap.isConsistent else {
      return findings.noteTorn("heap: " + heap.problems.map(\.description).joined(separator: "; "))
    }
    if let state { compare(state.pointee.map, model) }
    guard findings.isClean else { return }
    judgeBlocks(heap, reachable: reachable(from: state, in: pool))
  }

  /// Of sections that were not acknowledged only one can be there: the one that was under way.
  private mutating func judgeSection() -> Bool {
    if section < acknowledged {
      findings.lost += acknowledged - section
      findings.remarks.append("section \(acknowledged) was acknowledged, the pool has \(section)")
    } else if section > acknowledged + 1 {
      findings.noteTorn("section \(section) in the pool, only \(acknowledged) acknowledged")
    }
    return findings.isClean
  }

  private struct Difference: Error {
    let remark: String
  }

  private mutating func compare(_ map: HashMap, _ model: Model) {
    var visited = 0
    do {
      try map.forEach { key, value in
        visited += 1
        guard visited <= model.entries.count else { throw Difference(remark: "too many entries") }
        guard model.entries[key] == value else {
          let expected = model.entries[key].map(String.init) ?? "nothing"
          throw Difference(remark: "key \(key) has \(value), not \(expected)")
        }
      }
      guard visited == model.entries.count, visited == map.count else {
        throw Difference(
          remark: "\(visited) entries, a count of \(map.count), not \(model.entries.count)")
      }
    } catch let difference as Difference {
      findings.noteTorn("after section \(section): \(difference.remark)")
    } catch {
      findings.noteTorn("after section \(section): \(error)")
    }
  }

  private func reachable(
    from state: UnsafeMutablePointer<DemoState>?, in pool: Pool
  ) -> Set<PoolOffset> {
    guard let state else { return [] }
    func offset(_ address: UnsafeRawPointer) -> PoolOffset {
      PoolOffset(bytes: UInt64(address - pool.base))
    }
    var blocks: Set = [offset(state)]
    state.pointee.map.forEachBlock { blocks.insert(offset($0)) }
    return blocks
  }

  private mutating func judgeBlocks(_ heap: HeapReport, reachable: Set<PoolOffset>) {
    let leaks = heap.leaks(reachable: reachable)
    if let first = leaks.first {
      findings.leaked += leaks.count
      findings.remarks.append("\(leaks.count) blocks leaked, the first at \(first)")
    }
    if let first = heap.dangling(reachable: reachable).first {
      findings.noteTorn("the map refers to \(first), which is no block")
    }
  }
}
