// primitives: what a tracker's pieces cost, on the host and in the guest.

import ArgumentParser
import Glibc
import VolipMem

struct Primitives: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Exit, forwarded call, first write, harvest, re-arm and flush, for every tracker.")

  @OptionGroup var runOptions: RunOptions
  @Option(help: "host, guest or all.")
  var mode = Mode.host

  func run() throws {
    let entering = mode == .guest ? try enterMeasurements() : []
    try Report(runOptions).show(primitivesBenchmark(runOptions, entering))
    if mode == .all { try runAgainInGuest("primitives", runOptions) }
  }
}

/// The same subcommand in this process's place, in guest mode.
func runAgainInGuest(_ subcommand: String, _ run: RunOptions) throws {
  fflush(nil)
  let options =
    (run.quick ? ["--quick"] : []) + (run.json ? ["--json"] : [])
    + (run.save.map { ["--save", $0] } ?? [])
  let words = ["volip-bench", subcommand, "--mode", "guest"] + options
  var arguments = words.map { strdup($0) } + [nil]
  execv("/proc/self/exe", &arguments)
  throw ValidationError("could not start again in guest mode")
}

/// Pages in the working copy, and how many of them are written, spread evenly.
private let pageCount = 8192
private let writtenCounts = [1, 16, 256, 2048]

/// One sample each: a process enters once.
private func enterMeasurements() throws -> [Measurement] {
  var time = Measurement("primitives", "entering guest mode", unit: "ms")
  var memory = Measurement("primitives", "memory for it", unit: "MiB")
  let (start, residentBefore) = (nanoseconds(), residentBytes())
  try VirtualMachine.enter()
  time.samples = [Double(nanoseconds() - start) / 1e6]
  memory.samples = [Double(residentBytes() - residentBefore) / 1_048_576]
  return [time, memory]
}

private func residentBytes() -> Int {
  guard let file = fopen("/proc/self/statm", "r") else { return 0 }
  defer { fclose(file) }
  var line = [CChar](repeating: 0, count: 128)
  guard fgets(&line, Int32(line.count), file) != nil else { return 0 }
  let text = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  return (Int(text.split(separator: " ")[1]) ?? 0) * 4096
}

func primitivesBenchmark(
  _ run: RunOptions, _ entering: [Measurement]
) throws -> BenchmarkResult {
  let isGuest = VirtualMachine.isEntered
  let kinds = isGuest ? [.pageMapScan] + TrackerKind.guestKinds : TrackerKind.hostKinds
  var measurements = entering + computeMeasurements(run) + [callMeasurement(run)]
  measurements.append(machineExitMeasurement(run))
  if isGuest { measurements += [exitMeasurement(run), flushMeasurement(run)] }
  for kind in kinds { measurements += try trackerMeasurements(kind, run) }
  for index in measurements.indices { measurements[index].mode = isGuest ? "guest" : "host" }
  return BenchmarkResult(
    title: "primitives, \(isGuest ? "guest" : "host"), ns, \(pageCount) pages",
    measurements: measurements, table: .list(measurements))
}

private func sampled(
  _ name: String, _ run: RunOptions, count: Int, _ body: () -> Void
) -> Measurement {
  var measurement = Measurement("primitives", name, unit: "ns")
  for _ in 0..<run.repetitionCount {
    let start = nanoseconds()
    for _ in 0..<count { body() }
    measurement.samples.append(Double(nanoseconds() - start) / Double(count))
  }
  return measurement
}

private func callMeasurement(_ run: RunOptions) -> Measurement {
  sampled("getppid", run, count: 1000) { getppid() }
}

/// An instruction that a hypervisor below this machine has to answer, if there is one: what this
/// machine's own exits cost. KVM's exits here consist of several of them.
private func machineExitMeasurement(_ run: RunOptions) -> Measurement {
  sampled("cpuid, this machine's own exit", run, count: 1000) {
    VirtualMachine.machineExit()
  }
}

private func exitMeasurement(_ run: RunOptions) -> Measurement {
  sampled("exit", run, count: 1000) { VirtualMachine.exitOnce() }
}

private func flushMeasurement(_ run: RunOptions) -> Measurement {
  sampled("flush, nothing changed", run, count: 1000) { VirtualMachine.flush() }
}

func nanoseconds() -> UInt64 {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// For each number of written pages: the first writes, the harvest and the re-arming with its
/// flush, all divided by the pages.
private func trackerMeasurements(_ kind: TrackerKind, _ run: RunOptions) throws -> [Measurement] {
  let workingCopy = try WorkingCopy.scratch(pageCount: pageCount)
  let tracker = try makeTracker(kind, workingCopy)
  defer { tracker.stop() }
  try tracker.watch(upTo: pageCount)
  let writeSet = try WriteSet(pageCapacity: pageCount)
  var result: [Measurement] = []
  for written in writtenCounts {
    let stride = pageCount / written
    var write = Measurement("primitives", "first write a page", unit: "ns")
    var harvest = Measurement("primitives", "harvest a page", unit: "ns")
    var arm = Measurement("primitives", "re-arm and flush a page", unit: "ns")
    for repetition in 0..<run.repetitionCount + 2 {
      tracker.sectionOpened()
      let start = nanoseconds()
      for index in 0..<written {
        // SAFETY: the scratch mapping has pageCount pages.
        (workingCopy.base + index * stride * 4096).storeBytes(
          of: UInt8(truncatingIfNeeded: repetition), as: UInt8.self)
      }
      let stored = nanoseconds()
      tracker.sectionClosed()
      try tracker.takeWritten(into: writeSet)
      let harvested = nanoseconds()
      writeSet.retainNone()
      try tracker.arm(writeSet)
      tracker.settle(writeSet)
      let armed = nanoseconds()
      precondition(writeSet.pageCount >= written || repetition == 0)
      guard repetition > 1 else { continue }  // private pages are made
      write.samples.append(Double(stored - start) / Double(written))
      harvest.samples.append(Double(harvested - stored) / Double(written))
      arm.samples.append(Double(armed - harvested) / Double(written))
    }
    for var each in [write, harvest, arm] {
      each.tracker = kind.rawValue
      each.batch = written
      result.append(each)
    }
  }
  return result
}
