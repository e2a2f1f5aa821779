// PageTableSegments: where the parts of the page table are, in memory that nobody counts.
//
// An Array in PageTable cost a retain and a release each time that the heap looked into its table:
// 42 % of an allocate and a free. The heap owns the memory; tables only point to it.

final class PageTableSegments {
  private let base: UnsafeMutablePointer<PageTableSegment>

  init() {
    base = .allocate(capacity: HeapHeader.pageTablesMax)
  }

  deinit {
    base.deallocate()
  }

  /// The segments as a table sees them: valid as long as this object lives.
  var list: List { List(base: base) }

  struct List {
    fileprivate let base: UnsafeMutablePointer<PageTableSegment>
    private(set) var count = 0

    fileprivate init(base: UnsafeMutablePointer<PageTableSegment>) { self.base = base }

    mutating func append(_ segment: PageTableSegment) {
      precondition(count < HeapHeader.pageTablesMax)
      // SAFETY: below the capacity; the type is trivial.
      base[count] = segment
      count += 1
    }

    func isEqual(to other: List) -> Bool {
      count == other.count && (0..<count).allSatisfy { self[$0] == other[$0] }
    }

    @inline(__always)
    subscript(index: Int) -> PageTableSegment {
      precondition(index < count)
      // SAFETY: below count, which append keeps within the capacity.
      return base[index]
    }
  }
}
