import Testing
import TestSupport
import VolipMem

@Suite struct PoolLockTests {
  @Test func secondOpenerIsRefusedWhileAnotherProcessHoldsThePool() async throws {
    let directory = TemporaryDirectory()
    let path = directory.file("a.pool")
    let pool = try Pool.create(path, byteCount: 1 << 20, options: .test())
    let outcome = try await Helper.run("volip-test-helper", ["hold", path])
    #expect(outcome.output.contains("open in another handle"))
    try pool.close()
  }
}
