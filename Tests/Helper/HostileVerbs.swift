import Glibc
import HostilePool
import VolipMem

/// What HostilePoolTests run in a process of its own.
let hostileVerbs: [String: @Sendable ([String]) throws -> Void] = [
  "leave-log": leaveLog,
  "meet-each": meetEach,
  "flip-bits": flipBits,
  "open-each": openEach,
  "open-as": openAs,
  "open-with-limit": openWithLimit,
  "create-at-taken-base": createAtTakenBase,
  "write-outside-section": writeOutsideSection,
  "disk-full": diskFull,
  "fork-child": forkChild,
  "fork-in-section": forkInSection,
  "fork-and-leave": forkAndLeave,
]

/// A function of the C library that Swift does not show.
func function<Function>(_ name: String, as type: Function.Type) -> Function {
  unsafeBitCast(dlsym(nil, name)!, to: type)
}

func say(_ text: String) {
  print(text)
  fflush(nil)
}

/// Creates a pool of 1 MiB with roots and blocks (all the memory that there is, after "full"),
/// commits sections that count up, and ends without closing it: their records stay in the log.
func leaveLog(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.engine.retention = false
  let pool = try Pool.create(arguments[0], byteCount: 1 << 20, options: options)
  let number = try pool.section { section in
    let number = try pool.root("number", in: &section) { UInt64(0) }
    for index in 0..<3 { _ = try pool.root("root \(index)", in: &section) { index } }
    var holes: [UnsafeMutableRawPointer] = []
    for byteCount in [16, 100, 1000, 5000, 20_000] {
      _ = try pool.allocate(byteCount: byteCount)
      holes.append(try pool.allocate(byteCount: byteCount))
      _ = try pool.allocate(byteCount: byteCount)
    }
    if arguments.last == "full" {
      while let block = try? pool.allocate(byteCount: 4096) { holes.append(block) }
      holes.removeSubrange(5..<holes.count - 20)
    }
    for hole in holes { try pool.deallocate(hole) }
    return number
  }
  try pool.checkpoint()
  for index in 0..<Int(arguments[1])! {
    try pool.section { _ in
      number.pointee += 1
      let block = try pool.allocate(byteCount: 200)
      memset(block, Int32(index), 200)
    }
  }
  if arguments[1] == "0" { try pool.close() }
  say("left")
  _exit(0)
}

/// Opens files that may hold anything, uses each that opens, and says what became of it. A name is
/// printed before its file is touched.
func openEach(_ paths: [String]) throws {
  for path in paths {
    say("open \(path)")
    _ = look(path)
    do throws(PoolError) {
      let pool = try Pool.open(path)
      let isWell = use(pool, variety: 0)
      try pool.close()
      say(isWell ? "opened" : "opened with problems")
    } catch {
      say("refused \(caseName(error)) \(error)")
    }
  }
  say("end")
}

/// Meets each input of a fuzzer's corpus; says what became of it.
func meetEach(_ paths: [String]) throws {
  for path in paths {
    say("input \(path)")
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    defer { close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: 4096)
    let count = read(descriptor, &bytes, bytes.count)
    guard count >= 0 else { return say("no such input") }
    say("\(bytes[..<count].withUnsafeBufferPointer { HostileFile.shared.meet($0) })")
  }
  say("end")
}

/// flip-bits FIRST STEP
func flipBits(_ arguments: [String]) throws {
  let tally = try HostileFile.shared.flipBits(from: Int(arguments[0])!, step: Int(arguments[1])!)
  say("\(tally)")
  say("flips \(tally.flips) believed \(tally.believed.count)")
}

/// The name of an error's case.
func caseName(_ error: PoolError) -> String {
  // A case without values has no label.
  error == .forkedChild ? "forkedChild" : Mirror(reflecting: error).children.first?.label ?? "?"
}

/// Prints the case of the error that `body` throws, or "nothing".
func sayError(_ name: String, _ body: () throws(PoolError) -> Void) {
  do throws(PoolError) {
    try body()
    say("\(name) nothing")
  } catch {
    say("\(name) \(caseName(error))")
  }
}

/// Opens a pool as another user.
func openAs(_ arguments: [String]) throws {
  let user = UInt32(arguments[0])!
  guard setgid(user) == 0, setuid(user) == 0 else { return say("skipped: cannot be user \(user)") }
  sayError("open") { () throws(PoolError) in _ = try Pool.open(arguments[1]) }
  sayError("create") { () throws(PoolError) in
    _ = try Pool.create(arguments[1] + ".new", byteCount: 1 << 20)
  }
}

/// Opens a pool with so many bytes of address space left.
func openWithLimit(_ arguments: [String]) throws {
  let statm = open("/proc/self/statm", O_RDONLY)
  var text = [CChar](repeating: 0, count: 64)
  guard read(statm, &text, 63) > 0 else { return say("skipped: no /proc") }
  let bytes = strtoul(text, nil, 10) * 4096 + UInt(arguments[1])!
  var limit = rlimit(rlim_cur: bytes, rlim_max: bytes)
  let addressSpace: Int32 = 9  // RLIMIT_AS
  let set = function(
    "setrlimit", as: (@convention(c) (Int32, UnsafePointer<rlimit>) -> Int32).self)
  guard set(addressSpace, &limit) == 0 else { return say("skipped: setrlimit") }
  sayError("open") { () throws(PoolError) in _ = try Pool.open(arguments[0]) }
}

/// Creates a pool at the forced base address, where something is mapped.
func createAtTakenBase(_ arguments: [String]) throws {
  let base = UnsafeMutableRawPointer(bitPattern: UInt(AddressMap.forcedBase!))
  let mapped = mmap(
    base, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
  precondition(mapped == base)
  sayError("create") { () throws(PoolError) in
    _ = try Pool.create(arguments[0], byteCount: 1 << 20)
  }
  munmap(base, 4096)
  let pool = try Pool.create(arguments[0], byteCount: 1 << 20)
  say("created \(UInt(bitPattern: pool.base) == AddressMap.forcedBase!)")
}

/// Writes to pool memory between two sections; the tracker kills it.
func writeOutsideSection(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.engine.tracker = .writeProtect
  let pool = try Pool.open(arguments[0], options: options)
  let number = try pool.section { section in
    let number = try pool.root("number", in: &section) { UInt64(0) }
    number.pointee = 1000
    return number
  }
  say("offset 0x\(String(UnsafeRawPointer(number) - pool.base, radix: 16))")
  number.pointee = 2000
  say("survived")
}
