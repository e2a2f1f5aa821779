// Time, in seconds.

private let clock = ContinuousClock()

/// Seconds that `body` takes.
func seconds(_ body: () throws -> Void) rethrows -> Double {
  let start = clock.now
  try body()
  return (clock.now - start) / .seconds(1)
}

/// Runs `body` again and again for at least `duration` seconds; returns runs and true duration.
///
/// `body` should take some microseconds, against the 50 ns of a look at the clock.
@inline(__always)
func repeated(for duration: Double, _ body: () throws -> Void) rethrows -> (Int, seconds: Double) {
  let start = clock.now
  var runs = 0
  while true {
    try body()
    runs += 1
    let elapsed = (clock.now - start) / .seconds(1)
    if elapsed >= duration { return (runs, elapsed) }
  }
}
