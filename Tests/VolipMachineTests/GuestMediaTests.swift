import TestSupport
import Testing

/// Pages of a pool that fail while its process is a virtual machine: KVM's signal finds the
/// library's handler in the guest.
@Suite(.guest) struct GuestMediaTests {
  @Test(arguments: Guest.trackers, [false, true])
  func pagesThatFailUnderASectionAreRebuiltOrRollItBack(tracker: String, retention: Bool)
    async throws
  {
    let directory = TemporaryDirectory()
    var generator = SeededGenerator.forTest("media \(tracker) \(retention)")
    let outcome = try await Guest.run(
      "guest-bad-media",
      [directory.file("media.pool"), tracker, "\(retention)", "\(generator.next())"])
    if outcome.output.hasPrefix("skipped") { return print(outcome.output) }
    #expect(outcome.output == "wrong 0 failed 10\n", "\(outcome.errors)")
  }
}
