import Glibc
import VolipMem

/// What went wrong once, each found by a reviewer who tried to lose data.
let survivalVerbs: [String: @Sendable ([String]) throws -> Void] = [
  "cancelled-commit": cancelledCommit,
  "chaining-handler": chainingHandler,
  "create-without-unnamed-files": createWithoutUnnamedFiles,
  "crowded-sections": crowdedSections,
  "fork-in-section-for-another": forkInSectionForAnother,
  "fork-while-opening": forkWhileOpening,
  "grow-on-full-disk": growOnFullDisk,
  "map-at-once": mapAtOnce,
  "reopen-on-full-disk": reopenOnFullDisk,
  "lone-pages-retained": lonePagesRetained,
  "locked-memory": lockedMemory,
  "sent-signal": sentSignal,
]

/// A thread that is cancelled while `pend` waits for the disk: the section commits, then it ends.
func cancelledCommit(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.engine.persistencePath = .msync
  let pool = try Pool.create(arguments[0], byteCount: 4 << 20, options: options)
  let number = try pool.section { section in try pool.root("n", in: &section) { 1 } }
  let context = Unmanaged.passRetained(pool).toOpaque()
  var thread = pthread_t()
  pthread_create(
    &thread, nil,
    { context in
      let pool = Unmanaged<Pool>.fromOpaque(context!).takeUnretainedValue()
      guard let number = try? pool.root("n", as: Int.self), (try? pool.pstart()) != nil else {
        return nil
      }
      number.pointee = 2
      pthread_cancel(pthread_self())
      try? pool.pend()
      pthread_testcancel()
      return nil
    }, context)
  var result: UnsafeMutableRawPointer?
  pthread_join(thread, &result)
  say("cancelled \(result == UnsafeMutableRawPointer(bitPattern: -1)) memory \(number.pointee)")
  kill(getpid(), SIGKILL)
}

nonisolated(unsafe) private var previousAction = sigaction()
nonisolated(unsafe) private var handlerEntries = 0

/// A crash reporter that was installed after the pool was opened, and hands each signal on to the
/// handler that it found: ours, which has its own in front of it by then.
func chainingHandler(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.engine.tracker = .writeProtect
  let pool = try Pool.create(arguments[0], byteCount: 1 << 20, options: options)
  var action = sigaction()
  action.__sigaction_handler.sa_sigaction = { number, information, context in
    handlerEntries += 1
    if handlerEntries > 3 { _exit(9) }
    previousAction.__sigaction_handler.sa_sigaction(number, information, context)
  }
  action.sa_flags = SA_SIGINFO
  sigaction(SIGSEGV, &action, &previousAction)
  let number = try pool.section { section in try pool.root("n", in: &section) { 1 } }
  for _ in 0..<10 { try pool.section { _ in number.pointee += 1 } }
  say("counted \(number.pointee)")
  UnsafeMutablePointer<UInt8>(bitPattern: 0x123)!.pointee = 1
}

/// SIGSEGV that somebody sends ends the process as it would without us.
func sentSignal(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.engine.tracker = .writeProtect
  let pool = try Pool.create(arguments[0], byteCount: 1 << 20, options: options)
  try pool.section { _ in _ = try pool.allocate(byteCount: 16) }
  say("ready")
  kill(getpid(), SIGSEGV)
  say("not reached")
}

/// A section that aborts in a program that locked all its memory.
func lockedMemory(_ arguments: [String]) throws {
  let pool = try Pool.create(arguments[0], byteCount: 1 << 20)
  let number = try pool.section { section in try pool.root("n", in: &section) { 1 } }
  let lockAll = function("mlockall", as: (@convention(c) (Int32) -> Int32).self)
  guard lockAll(3) == 0 else { return say("skipped: mlockall errno \(errno)") }
  try pool.pstart()
  number.pointee = 2
  try pool.pabort()
  say("value \(number.pointee)")
  try pool.section { _ in number.pointee = 3 }
  say("value \(number.pointee)")
}

/// More lone pages than mappings, written by section after section, so that retention wants them.
func lonePagesRetained(_ arguments: [String]) throws {
  let pageCount = 33_000
  var options = Pool.Options()
  options.engine.tracker = .writeProtect
  options.engine.persistencePath = .cacheLines
  options.logBytesMax = 64 << 20
  let pool = try Pool.create(arguments[0], byteCount: 512 << 20, options: options)
  let pages = try pool.section { _ in try pool.allocate(UInt8.self, count: pageCount * 2 * 4096) }
  for round in 1...5 {
    try pool.section { _ in
      for page in 0..<pageCount { pages[page * 2 * 4096] = UInt8(round) }
    }
    var mappings = 0
    let maps = fopen("/proc/self/maps", "r")
    var line = [CChar](repeating: 0, count: 512)
    while fgets(&line, 512, maps) != nil { mappings += 1 }
    fclose(maps)
    guard mappings < 50_000 else { return say("round \(round): \(mappings) mappings") }
  }
  let base = pages - 0
  try pool.close()
  let again = try Pool.open(arguments[0], options: options)
  let kept = (0..<pageCount).filter { base[$0 * 2 * 4096] == 5 }.count
  say("kept \(kept)")
  try again.close()
}

/// Growth whose heap part meets a full disk; the pool goes on at its old size, and can be opened.
func growOnFullDisk(_ arguments: [String]) throws {
  let directory = arguments[0]
  guard mountSmallFileSystem(directory, byteCount: 8 << 20) else { return }
  let path = "\(directory)/a.pool"
  let pool = try Pool.create(path, byteCount: 2 << 20)
  let rest = "\(directory)/rest"
  try pool.checkpoint()
  fillRest(rest)
  do {
    try pool.grow(byteCount: 16 << 20)
    say("grew")
  } catch {
    say("grow failed")
  }
  unlink(rest)
  var count = 0
  while (try? pool.section { _ in _ = memset(try pool.allocate(byteCount: 30_000), 1, 30_000) })
    != nil, count < 100
  { count += 1 }
  say("consistent \(pool.checkHeap().isConsistent)")
  try pool.close()
  let again = try Pool.open(path)
  say("blocks \(again.checkHeap().blocks.count == count) \(again.checkHeap().isConsistent)")
}

/// Creates a pool where the file system has no unnamed files, twice; the first meets a base address
/// that is taken.
func createWithoutUnnamedFiles(_ arguments: [String]) throws {
  guard refuseUnnamedFiles() else { return say("skipped: no filter, errno \(errno)") }
  let base: UInt64 = 0x5800_0000_0000
  let page = mmap(
    UnsafeMutableRawPointer(bitPattern: UInt(base)), 4096, PROT_READ,
    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
  setenv("VOLIP_POOL_BASE", "0x" + String(base, radix: 16), 1)
  let create = { () throws(PoolError) in _ = try Pool.create(arguments[0], byteCount: 1 << 20) }
  sayError("create", create)
  say("exists \(access(arguments[0], F_OK) == 0)")
  munmap(page, 4096)
  sayError("create", create)
  say("exists \(access(arguments[0], F_OK) == 0)")
}

/// From now on open with O_TMPFILE fails as on NFS.
private func refuseUnnamedFiles() -> Bool {
  let control = function(
    "prctl", as: (@convention(c) (Int32, UInt, UInt, UInt, UInt) -> Int32).self)
  // Classic BPF, 8 bytes an instruction: code, jumps if true and if false, value.
  func instruction(_ code: UInt64, _ yes: UInt64, _ no: UInt64, _ value: UInt64) -> UInt64 {
    code | yes << 16 | no << 24 | value << 32
  }
  let load: UInt64 = 0x20
  let answer: UInt64 = 0x06
  let program: [UInt64] = [
    instruction(load, 0, 0, 0),  // the call's number
    instruction(0x15, 0, 3, 257),  // openat?
    instruction(load, 0, 0, 32),  // its flags
    instruction(0x45, 0, 1, 0x40_0000),  // O_TMPFILE's own bit?
    instruction(answer, 0, 0, 0x0005_0000 | UInt64(EOPNOTSUPP)),
    instruction(answer, 0, 0, 0x7FFF_0000),
  ]
  return program.withUnsafeBytes { bytes in
    let header = [UInt(program.count), UInt(bitPattern: bytes.baseAddress!)]
    return header.withUnsafeBytes {
      control(38, 1, 0, 0, 0) == 0  // PR_SET_NO_NEW_PRIVS
        && control(22, 2, UInt(bitPattern: $0.baseAddress!), 0, 0) == 0  // PR_SET_SECCOMP
    }
  }
}

nonisolated(unsafe) private var isOpening = true
nonisolated(unsafe) private var pathToOpen = ""

/// Children that live on, forked at any moment while another thread opens and closes a pool.
func forkWhileOpening(_ arguments: [String]) throws {
  let fork = function("fork", as: (@convention(c) () -> Int32).self)
  pathToOpen = arguments[0]
  try Pool.create(pathToOpen, byteCount: 1 << 20).close()
  var opener = pthread_t()
  pthread_create(
    &opener, nil,
    { _ in
      while isOpening { try? Pool.open(pathToOpen).close() }
      return nil
    }, nil)
  var children: [Int32] = []
  for _ in 0..<100 {
    usleep(UInt32.random(in: 0..<300))
    let child = fork()
    if child == 0 {
      while true { pause() }
    }
    children.append(child)
  }
  isOpening = false
  pthread_join(opener, nil)
  sayError("open") { () throws(PoolError) in _ = try Pool.open(pathToOpen) }
  for child in children { kill(child, SIGKILL) }
}

/// A pool whose growth met a full disk, opened while the disk is full still, and when it is not.
func reopenOnFullDisk(_ arguments: [String]) throws {
  let directory = arguments[0]
  guard mountSmallFileSystem(directory, byteCount: 8 << 20) else { return }
  let path = "\(directory)/a.pool"
  let rest = "\(directory)/rest"
  let pool = try Pool.create(path, byteCount: 2 << 20)
  try pool.checkpoint()
  fillRest(rest)
  sayError("grow") { () throws(PoolError) in try pool.grow(byteCount: 16 << 20) }
  try pool.close()
  sayError("open") { () throws(PoolError) in try Pool.open(path).close() }
  unlink(rest)
  let again = try Pool.open(path)
  try again.section { _ in _ = try again.allocate(byteCount: 4 << 20) }
  say("consistent \(again.checkHeap().isConsistent)")
}

/// Sections in a process that has hardly a mapping left, so that granting and arming of single
/// pages fails again and again. After each the file is compared with what was committed.
func crowdedSections(_ arguments: [String]) throws {
  var generator = SplitMix(state: UInt64(arguments[1])!)
  var options = Pool.Options()
  options.engine.tracker = .writeProtect
  options.engine.persistencePath = .cacheLines
  let pool = try Pool.create(arguments[0], byteCount: 32 << 20, options: options)
  let pageCount = 1000
  let byteCount = pageCount * 4096
  let block = try pool.section { _ in
    let block = try pool.allocate(UInt8.self, count: byteCount)
    memset(block, 0, byteCount)
    return block
  }
  let file = open(arguments[0], O_RDONLY)
  var imageOffset: UInt64 = 0
  pread(file, &imageOffset, 8, 80)
  let offset = off_t(imageOffset) + off_t(UnsafeRawPointer(block) - pool.base)
  // From here on nothing can be allocated.
  let buffers = (0..<3).map { _ in UnsafeMutablePointer<UInt8>.allocate(capacity: byteCount) }
  let (expected, next, image) = (buffers[0], buffers[1], buffers[2])
  for buffer in buffers { buffer.initialize(repeating: 0, count: byteCount) }
  var mappings = Mappings()
  for round in 1...150 {
    if round % 10 == 1 { mappings.fill() }
    mappings.release(Int.random(in: round % 10 == 1 ? 2...4 : 0...4, using: &generator))
    memcpy(next, expected, byteCount)
    try pool.pstart()
    let hot = round / 30 * 37
    for index in 0..<30 + Int.random(in: 0...60, using: &generator) {
      let byte =
        index < 30
        ? (hot + index) * 4096 : Int.random(in: 0..<byteCount, using: &generator)
      next[byte] &+= 1
      block[byte] = next[byte]
    }
    if Int.random(in: 0..<8, using: &generator) == 0 {
      try pool.pabort()
    } else {
      try pool.pend()
      memcpy(expected, next, byteCount)
    }
    pread(file, image, byteCount, offset)
    guard memcmp(image, expected, byteCount) == 0, memcmp(block, expected, byteCount) == 0 else {
      return say("round \(round) differs")
    }
  }
  say("kept, \(mappings.failures) times full")
}

/// All the mappings that a process may have.
private struct Mappings {
  private let pages = UnsafeMutablePointer<UnsafeMutableRawPointer>.allocate(capacity: 1 << 20)
  private var count = 0
  private(set) var failures = 0

  /// Takes mappings until there are none left. Every other page has another protection.
  mutating func fill() {
    while count < 1 << 20 {
      let protection = count % 2 == 0 ? PROT_READ : PROT_NONE
      let page = mmap(nil, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
      guard let page, page != MAP_FAILED else { break }
      pages[count] = page
      count += 1
    }
    failures += 1
  }

  mutating func release(_ wanted: Int) {
    for _ in 0..<min(wanted, count) {
      count -= 1
      munmap(pages[count], 4096)
    }
  }
}

struct SplitMix: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var word = state
    word = (word ^ word >> 30) &* 0xBF58_476D_1CE4_E5B9
    word = (word ^ word >> 27) &* 0x94D0_49BB_1331_11EB
    return word ^ word >> 31
  }
}

/// Two threads map the same new pool at once, many times: one of them makes it, the other finds it
/// in use, or free again.
func mapAtOnce(_ arguments: [String]) throws {
  pathToOpen = arguments[0]
  var failures = 0
  for _ in 0..<20 {
    var threads = [pthread_t](repeating: 0, count: 2)
    for index in threads.indices {
      pthread_create(
        &threads[index], nil,
        { _ in
          do throws(PoolError) {
            try pmap(pathToOpen, byteCount: 1 << 20).close()
          } catch {
            if case .inUse = error { return nil }
            return UnsafeMutableRawPointer(bitPattern: 1)
          }
          return nil
        }, nil)
    }
    for thread in threads {
      var result: UnsafeMutableRawPointer?
      pthread_join(thread, &result)
      if result != nil { failures += 1 }
    }
    unlink(pathToOpen)
  }
  say("failures \(failures)")
}
