import Glibc
import TestSupport
import Testing

@testable import VolipMem

@Suite struct SparseLogTests {
  /// Recovery has to see that nothing is sealed behind the last record. It once read a whole log
  /// for that, as long as an attacker said.
  @Test func aLogThatIsAHoleIsNotRead() throws {
    var template = Array("/var/tmp/volip-test-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { return print("skipped: no /var/tmp") }
    let directory = String(decoding: template.dropLast().map { UInt8($0) }, as: UTF8.self)
    let path = directory + "/sparse.pool"
    defer {
      unlink(path)
      rmdir(directory)
    }
    let logBytes: UInt64 = 2 << 30
    let options = Pool.Options.test(
      tracker: .writeProtect, logBytes: logBytes, logBytesMax: logBytes)
    guard (try? Pool.create(path, byteCount: 4 << 30, options: options).close()) != nil else {
      return print("skipped: the disk has no \(logBytes) bytes")
    }
    let before = pageFaults()
    let pool = try Pool.open(path, options: options)
    // Other tests run at the same time, and have faults of their own.
    #expect(pageFaults() - before < Int(logBytes) / 4096 / 4)
    try pool.close()
  }

  private func pageFaults() -> Int {
    var usage = rusage()
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    return usage.ru_minflt + usage.ru_majflt
  }
}
