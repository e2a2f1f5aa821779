// Tracker: finds the pages that were written, from the page table.
//
//                    watch                 section                take
//   (unwatched) ---------------> armed ------------> writable -----------> (in the write set)
//                                  ^      a write                              |
//                                  |                                          |
//                                  +------------- arm ------------------------+
//
// A page that is not armed again stays writable: it is retained, and every take reports it whether
// it was written or not. So what a take reports is a superset of what was written, never less.
//
// All calls come from the thread that holds the pool's gate, with no section of another thread
// open; writes by any thread between sectionOpened and sectionClosed are found.

@_exported import VolipMachine

public enum TrackerKind: String, CaseIterable, Sendable {
  /// Asynchronous userfaultfd write-protection and PAGEMAP_SCAN (Linux 6.7 and later). Sees the
  /// writes of system calls too.
  case pageMapScan = "page-map-scan"
  /// mprotect and SIGSEGV. A system call that writes to an armed page fails with EFAULT unless
  /// `willWrite` came first.
  case writeProtect = "write-protect"
  /// In guest mode: bit D of the entries in the guest's page table.
  case dirtyBits = "dirty-bits"
  /// In guest mode: entries without write permission, given back by the guest's fault handler.
  case detectOnWrite = "detect-on-write"
  /// In guest mode: one of the last two, by what the last sections wrote.
  case adaptive = "adaptive"
  /// In guest mode: KVM's log of the memory slots. Never chosen without being asked for.
  case dirtyLog = "dirty-log"

  /// Those that need no virtual machine.
  public static let hostKinds: [TrackerKind] = [.pageMapScan, .writeProtect]
  /// Those that need one.
  public static let guestKinds: [TrackerKind] = [.dirtyBits, .detectOnWrite, .adaptive, .dirtyLog]
}

public protocol Tracker: AnyObject {
  var kind: TrackerKind { get }

  /// Arms pages up to `limit` that were not watched yet. Writes beyond the limit are stray.
  func watch(upTo limit: Int) throws(PoolError)

  /// Lets watched pages be written for good, and reports them no more: announced memory, which the
  /// working copy knows by now.
  func release(_ pages: Range<Int>) throws(PoolError)

  /// Takes a release back: arms the pages, which equal their image.
  func reclaim(_ pages: Range<Int>) throws(PoolError)

  func sectionOpened()

  /// After this every write of the section is known to `takeWritten`.
  func sectionClosed()

  /// Puts every page that may have been written since it was armed into `writeSet`, in ascending
  /// order.
  func takeWritten(into writeSet: WriteSet) throws(PoolError)

  /// As `takeWritten`, and arms every page that it reports: for sections that retain nothing.
  func takeWrittenAndArm(into writeSet: WriteSet) throws(PoolError)

  /// Arms the pages that `writeSet` does not retain. Armed pages may be armed again; one that was
  /// written since the take and is armed with them joins the set. Before `compare`.
  func arm(_ writeSet: WriteSet) throws(PoolError)

  /// Whether pages that wait for each other are armed for less.
  var armsForLessTogether: Bool { get }

  /// Whether arming costs next to nothing in `takeWrittenAndArm`.
  var armsForLessWithTake: Bool { get }

  /// Called at the end of a section, after the arming that follows a take; the pages that
  /// `writeSet` retains stayed writable.
  func settle(_ writeSet: WriteSet)

  /// Announces that a system call will write to these pages.
  func willWrite(_ pages: Range<Int>) throws(PoolError)

  /// Stops watching for good, before the working copy is unmapped.
  func stop()

  /// False when certainly nothing was written since `settle` to a page that was armed then.
  func mayHaveStrayWrites() -> Bool
}

extension Tracker {
  public var armsForLessTogether: Bool { false }
  public var armsForLessWithTake: Bool { false }
}
