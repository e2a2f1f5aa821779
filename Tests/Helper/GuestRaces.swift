import Glibc
import Synchronization
import VolipMem

// Threads that meddle while another one commits.

/// guest-lock-words POOL TRACKER SECTIONS: two threads try in vain to take lock words that lie in
/// pool memory, which writes them without changing them, while a third counts in the same pages.
func guestLockWords(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.engine.persistencePath = .cacheLines
  options.engine.tracker = TrackerKind(rawValue: arguments[1])
  options.engine.retention = false
  let pool = try Pool.create(arguments[0], byteCount: 16 << 20, options: options)
  let (pageCount, wordsPerPage) = (8, 512)
  nonisolated(unsafe) let words = try pool.section { _ in
    let words = try pool.allocate(byteCount: pageCount * 4096)
      .bindMemory(to: UInt64.self, capacity: pageCount * wordsPerPage)
    words.update(repeating: 0, count: pageCount * wordsPerPage)
    return words
  }
  let isOver = Atomic(false)
  var errors = 0
  let sections = Int(arguments[2])!
  nonisolated(unsafe) let count = {
    var generator = SplitMix(state: 1)
    for _ in 0..<sections {
      let page = Int(generator.next() % UInt64(pageCount))
      do {
        try pool.pstart()
        words[page * wordsPerPage + 1 + Int(generator.next() % 400)] += 1
        try pool.pend()
      } catch { errors += 1 }
    }
    isOver.store(true, ordering: .releasing)
  }
  onThreads(3) { thread in
    if thread == 0 { return count() }
    while !isOver.load(ordering: .acquiring) {
      for page in 0..<pageCount { tryInVain(words + page * wordsPerPage) }
    }
  }
  let memory = Array(UnsafeBufferPointer(start: words, count: pageCount * wordsPerPage))
  let offset = UnsafeRawPointer(words) - pool.base
  try pool.close()
  let again = try Pool.open(arguments[0])
  let stored = (again.base + offset).assumingMemoryBound(to: UInt64.self)
  let lost = memory.indices.count { stored[$0] != memory[$0] }
  print("sum \(memory.reduce(0, +)) lost \(lost) errors \(errors)")
  try again.close()
}

private func tryInVain(_ word: UnsafeMutablePointer<UInt64>) {
  UnsafeMutableRawPointer(word).withMemoryRebound(to: Atomic<UInt64>.self, capacity: 1) {
    _ = $0.pointee.compareExchange(expected: 1, desired: 2, ordering: .relaxed)
  }
}
