/// A doubly linked list of runs through the page table, its head in the heap header.
struct PageList {
  let table: PageTable
  /// Where the head's page index stands.
  let headByte: Int

  @inline(__always)
  var first: Int { Int(table.memory.load(headByte, as: UInt32.self)) }

  private func setFirst(_ page: Int) { table.memory.store(UInt32(page), headByte) }

  /// Puts a run in front. Its entry is written with the links.
  func push(_ page: Int, _ entry: PageEntry) throws(PoolError) {
    let old = first
    var entry = entry
    entry.next = old
    entry.previous = 0
    if old != 0 {
      var second = try table[old]
      second.previous = page
      table.set(old, second)
    }
    table.set(page, entry)
    setFirst(page)
  }

  /// Takes a run out. Its own entry keeps stale links until the caller writes it.
  func remove(_ page: Int, _ entry: PageEntry) throws(PoolError) {
    if entry.previous == 0 {
      guard first == page else {
        throw .damagedHeap(offset: UInt64(headByte), reason: "list does not begin at page \(page)")
      }
      setFirst(entry.next)
    } else {
      var before = try table[entry.previous]
      before.next = entry.next
      table.set(entry.previous, before)
    }
    if entry.next != 0 {
      var after = try table[entry.next]
      after.previous = entry.previous
      table.set(entry.next, after)
    }
  }
}
