// Errors: what a failure is for C: a code that is returned, and a sentence that the thread keeps.
//
// Every entry point runs its body in `code`, `pointer` or `result`, so that no error is lost and
// none passes into C.

@_exported import VolipMem

import CVolip

/// What an entry point throws.
struct Failure: Error {
  let code: volip_code
  let text: String

  /// Keeps it for volip_last_error.
  @inline(never)
  func keep() {
    // SAFETY: the text is copied before the call returns.
    cvf_keep_error(code, text)
  }
}

/// Runs `body` and returns what it returns, or nil after keeping its failure.
@inline(__always)
func result<Result>(_ body: () throws -> Result) -> Result? {
  do {
    return try body()
  } catch {
    failure(error).keep()
    return nil
  }
}

/// Runs `body` and returns VOLIP_OK, or the code of its failure.
@inline(__always)
func code(_ body: () throws -> Void) -> volip_code {
  do {
    try body()
    return VOLIP_OK
  } catch {
    let failure = failure(error)
    failure.keep()
    return failure.code
  }
}

@inline(never)
func failure(_ error: any Error) -> Failure {
  switch error {
  case let error as PoolError: Failure(code: code(of: error), text: "\(error)")
  case let error as MachineError: Failure(code: code(of: error), text: "\(error)")
  case let error as Failure: error
  default: Failure(code: VOLIP_SYSTEM, text: "\(error)")
  }
}

private func code(of error: PoolError) -> volip_code {
  switch error {
  case .notAPool: VOLIP_NOT_A_POOL
  case .truncated: VOLIP_TRUNCATED
  case .foreignVersion: VOLIP_FOREIGN_VERSION
  case .unknownFeatures: VOLIP_UNKNOWN_FEATURES
  case .damagedSuperblock: VOLIP_DAMAGED_SUPERBLOCK
  case .damagedLog: VOLIP_DAMAGED_LOG
  case .unreadable: VOLIP_UNREADABLE
  case .memoryFailed: VOLIP_MEMORY_FAILED
  case .damagedHeap: VOLIP_DAMAGED_HEAP
  case .inUse: VOLIP_IN_USE
  case .notFound: VOLIP_NOT_FOUND
  case .alreadyExists: VOLIP_ALREADY_EXISTS
  case .noPermission: VOLIP_NO_PERMISSION
  case .invalidArgument: VOLIP_INVALID_ARGUMENT
  case .system: VOLIP_SYSTEM
  case .addressTaken: VOLIP_ADDRESS_TAKEN
  case .addressSpaceExhausted: VOLIP_ADDRESS_SPACE_EXHAUSTED
  case .poolFull: VOLIP_POOL_FULL
  case .sectionTooLarge: VOLIP_SECTION_TOO_LARGE
  case .diskFull: VOLIP_DISK_FULL
  case .noSection: VOLIP_NO_SECTION
  case .writeOutsideSection: VOLIP_WRITE_OUTSIDE_SECTION
  case .unannouncedWrite: VOLIP_UNANNOUNCED_WRITE
  case .nestedSection: VOLIP_NESTED_SECTION
  case .sectionAborted: VOLIP_SECTION_ABORTED
  case .forkedChild: VOLIP_FORKED_CHILD
  case .closed: VOLIP_CLOSED
  case .poisoned: VOLIP_POISONED
  case .outcomeUnknown: VOLIP_OUTCOME_UNKNOWN
  case .trackerUnavailable: VOLIP_TRACKER_UNAVAILABLE
  case .notAllocated: VOLIP_NOT_ALLOCATED
  case .rootLayoutMismatch: VOLIP_ROOT_LAYOUT_MISMATCH
  case .invalidRootName: VOLIP_INVALID_ROOT_NAME
  // The command's alone, and the collections'.
  case .needsRecovery, .damagedExport, .volatilePointer: VOLIP_SYSTEM
  case .pageTrackedWrite: VOLIP_PAGE_TRACKED_WRITE
  case .laneFull: VOLIP_LANE_FULL
  case .sectionsDeadlocked: VOLIP_SECTIONS_DEADLOCKED
  }
}

private func code(of error: MachineError) -> volip_code {
  switch error {
  case .noDevice, .unsupported, .addressesExhausted: VOLIP_NO_GUEST
  case .otherThreads, .poolsAreOpen, .alreadyEntered: VOLIP_TOO_LATE
  }
}
