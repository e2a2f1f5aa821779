// SystemCall: the one way to calls of the operating system that can fail, for the modules from here
// to VolipCommit. A laboratory build fails the n-th of them, so that a test meets every failure.

import Glibc
import Synchronization

/// Makes a call that answers with a negative number, and says why in errno, when it fails.
///
/// - Returns: what the call answered, or the negative errno.
@inline(__always)
package func attempt(_ operation: StaticString, _ call: () -> Int) -> Int {
  #if VOLIP_LAB
    if let refused = RefusedCall.current?.refusal(of: operation) { return refused }
  #endif
  let answer = call()
  return answer < 0 ? -Int(errno) : answer
}

/// The same for calls of our own that answer with the negative errno.
@inline(__always)
package func attemptShim(_ operation: StaticString, _ call: () -> Int) -> Int {
  #if VOLIP_LAB
    if let refused = RefusedCall.current?.refusal(of: operation) { return refused }
  #endif
  return call()
}

/// Makes a call whose failure has no better name than `.system`.
@inline(__always) @discardableResult
package func require(_ operation: StaticString, _ call: () -> Int) throws(PoolError) -> Int {
  let answer = attempt(operation, call)
  guard answer >= 0 else {
    throw .system(operation: "\(operation)", errorNumber: Int32(-answer))
  }
  return answer
}

/// Fails one call of those that are made while it is set, counted from 1.
package final class RefusedCall: Sendable {
  @TaskLocal package static var current: RefusedCall?

  private let number: Int
  private let errorNumber: Int32
  private let calls = Mutex<(made: Int, refused: String?)>((0, nil))

  package init(number: Int, errorNumber: Int32) {
    self.number = number
    self.errorNumber = errorNumber
  }

  /// The operation that was refused; nil where fewer calls were made.
  package var refused: String? { calls.withLock { $0.refused } }

  fileprivate func refusal(of operation: StaticString) -> Int? {
    calls.withLock { calls in
      calls.made += 1
      guard calls.made == number else { return nil }
      calls.refused = "\(operation)"
      return -Int(errorNumber)
    }
  }
}
