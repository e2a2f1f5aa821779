// PageRuns: runs of whole pages, taken and given back.
//
// Free runs are in 32 lists by the power of two of their length. A run is taken from the first list
// that surely has one long enough, after a short look into the list that may; else from above the
// high-water mark. Neighbouring free runs become one.

extension Heap {
  /// Free runs that are looked at in the one list whose runs may be too short.
  static let fitAttemptsMax = 16

  private func bin(_ length: Int) -> PageList {
    let power = Int.bitWidth - 1 - length.leadingZeroBitCount
    return PageList(table: table, headByte: HeapHeader.runBinsByte + power * 4)
  }

  /// Takes a run of `length` pages. The caller writes its entries.
  func takeRun(_ length: Int) throws(PoolError) -> Int {
    precondition(length > 0)
    pass(.allocation)
    if let (page, entry) = try findRun(length) {
      try bin(entry.length).remove(page, entry)
      if entry.length > 1 { table.set(page + entry.length - 1, PageEntry(kind: .interior)) }
      if entry.length > length { try addFree(page + length, length: entry.length - length) }
      return page
    }
    return try extendHighWater(length)
  }

  private func findRun(_ length: Int) throws(PoolError) -> (Int, PageEntry)? {
    let power = Int.bitWidth - 1 - length.leadingZeroBitCount
    guard power < HeapHeader.runBinCount else { return nil }
    var page = bin(length).first
    for _ in 0..<Self.fitAttemptsMax where page != 0 {
      let entry = try freeEntry(page)
      if entry.length >= length { return (page, entry) }
      page = entry.next
    }
    for larger in power + 1..<max(HeapHeader.runBinCount, power + 1) {
      let page = bin(1 << larger).first
      if page != 0 {
        let entry = try freeEntry(page)
        guard entry.length >= length else { throw damage(page, "free run in the wrong list") }
        return (page, entry)
      }
    }
    return nil
  }

  /// The entry of a page that a list of free runs names.
  private func freeEntry(_ page: Int) throws(PoolError) -> PageEntry {
    let entry = try table[page]
    guard entry.kind == .free, entry.length > 0, entry.length <= header.highWater - page else {
      throw damage(page, "no free run")
    }
    return entry
  }

  func extendHighWater(_ length: Int) throws(PoolError) -> Int {
    let page = header.highWater
    guard table.pageLimit == header.pageLimit else {
      throw .damagedHeap(offset: 16, reason: "page limit differs from the page tables")
    }
    guard length <= table.pageLimit - page else {
      let longest = (0..<HeapHeader.runBinCount).last { bin(1 << $0).first != 0 }
      let free = max(table.pageLimit - page, longest.map { 1 << $0 } ?? 0)
      throw .poolFull(
        requestedBytes: UInt64(length) << 12, availableBytes: UInt64(free) << 12)
    }
    try watch(upTo: page + length)
    header.setHighWater(page + length)
    return page
  }

  /// Gives a run back whose entries are `.interior` by now, and joins it with free neighbours.
  func giveRun(_ page: Int, length: Int) throws(PoolError) {
    var (page, length) = (page, length)
    let before = try table[page - 1]
    if before.kind == .freeTail || before.kind == .free {
      let head = before.kind == .free ? page - 1 : page - before.length
      let entry = try freeEntry(head)
      guard head + entry.length == page else { throw damage(page - 1, "end of a free run") }
      try removeFree(head, entry)
      (page, length) = (head, length + entry.length)
    }
    let next = page + length
    if next < header.highWater, try table[next].kind == .free {
      let entry = try freeEntry(next)
      try removeFree(next, entry)
      length += entry.length
    }
    try addFree(page, length: length)
  }

  private func removeFree(_ page: Int, _ entry: PageEntry) throws(PoolError) {
    try bin(entry.length).remove(page, entry)
    table.set(page, PageEntry(kind: .interior))
    table.set(page + entry.length - 1, PageEntry(kind: .interior))
  }

  private func addFree(_ page: Int, length: Int) throws(PoolError) {
    if length > 1 { table.set(page + length - 1, PageEntry(kind: .freeTail, length: length)) }
    try bin(length).push(page, PageEntry(kind: .free, length: length))
  }

  /// Writes the entries of a run in use.
  func markRun(_ page: Int, length: Int, _ kind: PageKind) {
    table.set(page, PageEntry(kind: kind, length: length))
    if length > 1 { table.set(page + length - 1, PageEntry(kind: .largeTail, length: length)) }
  }

  /// Takes a free run that ends at the high-water mark out of use, as if it had never been.
  ///
  /// - Returns: its pages.
  package func lowerHighWater() throws(PoolError) -> Int {
    try requireWritable()
    let end = header.highWater
    let last = try table[end - 1]
    guard last.kind == .free || last.kind == .freeTail, last.length > 0, last.length < end else {
      return 0
    }
    let head = last.kind == .free ? end - 1 : end - last.length
    let entry = try freeEntry(head)
    guard head + entry.length == end else { throw damage(end - 1, "end of a free run") }
    try removeFree(head, entry)
    header.setHighWater(head)
    return entry.length
  }

  func freeLarge(_ page: Int, _ entry: PageEntry) throws(PoolError) {
    table.set(page, PageEntry(kind: .interior))
    table.set(page + entry.length - 1, PageEntry(kind: .interior))
    try giveRun(page, length: entry.length)
  }

  func damage(_ page: Int, _ reason: String) -> PoolError {
    .damagedHeap(offset: table.offset(ofEntry: page), reason: "page \(page): \(reason)")
  }
}
