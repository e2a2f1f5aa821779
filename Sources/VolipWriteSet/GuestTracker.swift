// GuestTracker: what trackers over the guest's own page table have in common.
//
// They run in guest mode, where no system call is needed to take a write set or to arm it, but for
// KVM's own log.

import VolipMachine

protocol GuestTracker: Tracker {
  var workingCopy: WorkingCopy { get }
  var region: GuestRegion { get }
  /// Pages that a section may write.
  var watched: Int { get set }
  /// What the entry of an armed page has besides the readable flags.
  var armedFlags: PageTableEntry.Flags { get }
}

/// Trackers that may change over to each other.
protocol AdoptingTracker: GuestTracker {
  /// Takes the region over from another tracker between two sections: the pages that `retained`
  /// retains stay written, all others are armed.
  func adopt(watched limit: Int, retained: WriteSet)
}

extension GuestTracker {
  func watch(upTo limit: Int) throws(PoolError) { try watchEntries(upTo: limit) }

  func watchEntries(upTo limit: Int) throws(PoolError) {
    guard limit > watched else { return }
    precondition(limit <= workingCopy.pageCount)
    // For system calls, which write by the host's mapping.
    try workingCopy.makeWritable(watched..<limit)
    region.watch(watched..<limit, armedFlags)
    watched = limit
  }

  func release(_ pages: Range<Int>) throws(PoolError) {
    for page in pages {
      region.add([.writable, .dirty], to: page)
      region.remove([.grantable, .listed], from: page)
    }
    region.flush()
  }

  func reclaim(_ pages: Range<Int>) throws(PoolError) { reclaimEntries(pages) }

  func reclaimEntries(_ pages: Range<Int>) {
    let rights: PageTableEntry.Flags = [.writable, .dirty, .grantable, .listed]
    for page in pages {
      region.add(armedFlags, to: page)
      region.remove(rights.subtracting(armedFlags), from: page)
    }
    region.flush()
  }

  /// A flush ends it.
  var armsForLessTogether: Bool { true }

  func sectionOpened() {}

  func sectionClosed() {}

  func settle(_ writeSet: WriteSet) {}

  /// System calls mark what they write (rule 16).
  func willWrite(_ pages: Range<Int>) {}

  /// A scan tells, and costs no more than looking for a reason not to make it.
  func mayHaveStrayWrites() -> Bool { true }

  func stop() { region.close() }
}

extension DetectOnWriteTracker {
  /// Pages that are listed already have been taken or are retained.
  func mayHaveStrayWrites() -> Bool { region.listedCount > 0 }
}
