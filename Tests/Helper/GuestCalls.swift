import CVolimem
import Glibc
import VolipMem

/// One way to make a call of CVolimem's table that fills memory.
struct CallCase: Sendable {
  let name: String
  /// Runs in a section that is committed; returns what makes the call. That runs in a section of
  /// its own, in which nothing but the kernel writes to the slot.
  let prepare: @Sendable (CallSlot) -> () -> Int

  init(_ name: String, _ prepare: @escaping @Sendable (CallSlot) -> () -> Int) {
    self.name = name
    self.prepare = prepare
  }
}

/// Pages of a pool for the outputs of one call.
final class CallSlot {
  static let pageCount = 16
  static let byteCount = pageCount * 4096

  struct Output {
    let address: Int
    /// Bytes of which at least one in each page is sure to change.
    let changed: Int
  }

  let base: UnsafeMutableRawPointer
  private(set) var outputs: [Output] = []
  private var usedPages = 0

  init(_ base: UnsafeMutableRawPointer) {
    self.base = base
    memset(base, 0xA5, Self.byteCount)
  }

  /// Room for an output in pages of its own. Its last 8 bytes lie in another page than the rest, so
  /// that a table which says too few bytes misses a page; outputs below 16 bytes lie in one.
  func output(_ byteCount: Int, changed: Int? = nil) -> Int {
    let tail = byteCount < 16 ? byteCount : 8
    let head = byteCount - tail
    let headPages = (head + 4095) / 4096
    usedPages += headPages + 1
    precondition(usedPages <= Self.pageCount)
    let address = Int(bitPattern: base + (usedPages - 1) * 4096) - head
    outputs.append(Output(address: address, changed: changed ?? byteCount))
    return address
  }

  /// As `output`, with bytes that the call reads there.
  func output<Value>(holding value: Value, changed: Int? = nil) -> Int {
    let address = output(MemoryLayout<Value>.size, changed: changed)
    withUnsafeBytes(of: value) { _ = memcpy(pointer(address), $0.baseAddress!, $0.count) }
    return address
  }

  /// Pages that must have changed, by their index in the slot.
  var changedPages: Set<Int> {
    Set(
      outputs.flatMap { output in
        let offset = output.address - Int(bitPattern: base)
        return Array(offset / 4096...(offset + output.changed - 1) / 4096)
      })
  }

  var bytes: [UInt8] { Array(UnsafeRawBufferPointer(start: base, count: Self.byteCount)) }
}

func pointer(_ address: Int) -> UnsafeMutableRawPointer {
  UnsafeMutableRawPointer(bitPattern: address)!
}

// MARK: Raw calls

/// From the table's names: the test needs no numbers of its own.
private let callNumbers: [String: Int] = {
  var numbers: [String: Int] = [:]
  for number in 0..<1024 {
    if let name = cvm_call_name(Int32(number)) { numbers[String(cString: name)] = number }
  }
  return numbers
}()

private let rawSyscall = function(
  "syscall", as: (@convention(c) (Int, Int, Int, Int, Int, Int, Int) -> Int).self)

/// Makes a call by its number; errors are negative, as the kernel has them.
func call(
  number: Int, _ a: Int = 0, _ b: Int = 0, _ c: Int = 0, _ d: Int = 0, _ e: Int = 0, _ f: Int = 0
) -> Int {
  let result = rawSyscall(number, a, b, c, d, e, f)
  return result == -1 ? -Int(errno) : result
}

func call(
  _ name: String, _ a: Int = 0, _ b: Int = 0, _ c: Int = 0, _ d: Int = 0, _ e: Int = 0, _ f: Int = 0
) -> Int {
  call(number: callNumbers[name]!, a, b, c, d, e, f)
}

/// Words in ordinary memory, for what calls read.
func words(_ values: Int...) -> Int {
  let memory = UnsafeMutablePointer<Int>.allocate(capacity: values.count)
  for (index, value) in values.enumerated() { memory[index] = value }
  return Int(bitPattern: memory)
}

func bytes(_ values: [UInt8]) -> Int {
  let memory = UnsafeMutablePointer<UInt8>.allocate(capacity: values.count)
  for (index, value) in values.enumerated() { memory[index] = value }
  return Int(bitPattern: memory)
}

func text(_ string: String) -> Int { bytes(Array(string.utf8) + [0]) }

func room(_ byteCount: Int) -> Int { Int(bitPattern: calloc(1, byteCount)!) }

/// 0 in the place of an error that is what the case wants.
func expecting(_ errorNumber: Int32, _ result: Int) -> Int {
  result == -Int(errorNumber) ? 0 : result
}

// MARK: The verb

/// guest-calls POOL TRACKER: makes every call of the table that fills memory with its outputs in
/// pool memory, and looks after reopening the pool whether anything was lost.
func guestCalls(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.engine.persistencePath = .cacheLines
  options.engine.tracker = TrackerKind(rawValue: arguments[1])
  options.engine.retention = false  // a retained page is compared whether it was marked or not
  callDirectory = arguments[0] + ".d"
  _ = call("mkdir", text(callDirectory), 0o700)
  defer { removeCallDirectory() }
  let only = arguments.dropFirst(2).first
  let cases = (fileCases + socketCases + processCases + timeCases + memoryCases)
    .filter { only == nil || $0.name == only }
  let pool = try Pool.create(arguments[0], byteCount: 64 << 20, options: options)
  let base = try pool.section { _ in
    try pool.allocate(byteCount: cases.count * CallSlot.byteCount, alignment: 4096)
  }
  var report = CallReport()
  for (index, each) in cases.enumerated() {
    try report.make(each, pool, base + index * CallSlot.byteCount)
  }
  try pool.close()
  let again = try Pool.open(arguments[0], options: options)
  for (each, outcome) in report.outcomes where outcome.slot.bytes != outcome.after {
    report.say("lost", each)
  }
  try again.close()
  if only == nil { report.findRowsWithoutCases() }
  report.summarize()
}

private struct CallReport {
  struct Outcome {
    let slot: CallSlot
    let after: [UInt8]
  }

  var outcomes: [(CallCase, Outcome)] = []
  private var counts: [String: Int] = [:]
  private var outputsTested: [String: Int] = [:]

  mutating func say(_ what: String, _ each: CallCase, _ detail: String = "") {
    counts[what, default: 0] += 1
    print("\(what): \(each.name) \(detail)")
  }

  mutating func make(_ each: CallCase, _ pool: Pool, _ base: UnsafeMutableRawPointer) throws {
    var slot: CallSlot!
    var make: (() -> Int)!
    try pool.section { _ in
      slot = CallSlot(base)
      make = each.prepare(slot)
    }
    let before = slot.bytes
    try pool.pstart()
    let result = make()
    try pool.pend()
    let after = slot.bytes
    outputsTested[each.name, default: 0] += slot.outputs.count
    outcomes.append((each, Outcome(slot: slot, after: after)))
    if [-Int(EPERM), -Int(EACCES), -Int(ENOSYS), -Int(EOPNOTSUPP)].contains(result) {
      return say("cannot be made here", each, "errno \(-result)")
    }
    if result < 0 { return say("failed", each, "errno \(-result)") }
    for page in slot.changedPages.sorted() {
      let range = page * 4096..<(page + 1) * 4096
      if before[range] == after[range] { say("unchanged", each, "page \(page)") }
    }
  }

  mutating func findRowsWithoutCases() {
    for number in 0..<1024 {
      let count = Int(cvm_call_output_count(Int32(number)))
      guard count > 0 else { continue }
      let name = String(cString: cvm_call_name(Int32(number)))
      counts["rows", default: 0] += 1
      if outputsTested[name, default: 0] < count {
        counts["without a case", default: 0] += 1
        print("without a case: \(name) has \(count) outputs")
      }
    }
  }

  func summarize() {
    let words = ["rows", "lost", "failed", "unchanged", "without a case", "cannot be made here"]
    print(words.map { "\($0) \(counts[$0] ?? 0)" }.joined(separator: ", "))
  }
}

/// Where cases make files.
nonisolated(unsafe) var callDirectory = ""

private func removeCallDirectory() {
  for name in ["link", "file", "other", String(repeating: "d", count: 200)] {
    _ = call("unlink", text("\(callDirectory)/\(name)"))
  }
  _ = call("rmdir", text(callDirectory))
}
