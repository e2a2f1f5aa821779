import Glibc

/// A random number generator that replays: its seed is printed, and `VOLIP_TEST_SEED` sets it.
public struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64

  public init(seed: UInt64) { state = seed }

  /// A generator for the test named `test`; prints the seed so that a failure can be replayed.
  public static func forTest(_ test: String = #function) -> SeededGenerator {
    var system = SystemRandomNumberGenerator()
    let given = getenv("VOLIP_TEST_SEED").flatMap { UInt64(String(cString: $0)) }
    let seed = given ?? system.next()
    print("\(test): VOLIP_TEST_SEED=\(seed)")
    return SeededGenerator(seed: seed)
  }

  public mutating func next() -> UInt64 {  // splitmix64
    state &+= 0x9E37_79B9_7F4A_7C15
    var word = state
    word = (word ^ word >> 30) &* 0xBF58_476D_1CE4_E5B9
    word = (word ^ word >> 27) &* 0x94D0_49BB_1331_11EB
    return word ^ word >> 31
  }
}
