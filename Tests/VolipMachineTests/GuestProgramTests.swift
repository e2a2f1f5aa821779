import TestSupport
import Testing

/// A program that knows nothing of guest mode but how to enter it.
@Suite(.guest) struct GuestProgramTests {
  @Test(arguments: Guest.physicalBits)
  func aSwiftProgramPrintsTheSameInGuestModeAsNatively(bits: Int) async throws {
    let native = try await Helper.run("volip-guest-program", [])
    let guest = try await Helper.run(
      "volip-guest-program", ["--guest"], environment: ["VOLIP_PHYS_BITS": "\(bits)"])
    #expect(native.status == .exited(0) && native.output.hasSuffix("end\n"), "\(native.errors)")
    #expect(guest.status == .exited(0), "\(guest.errors)")
    #expect(guest.output == native.output)
    #expect(guest.errors.isEmpty, "\(guest.errors)")
  }
}
