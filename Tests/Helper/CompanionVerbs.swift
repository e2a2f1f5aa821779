import CVolimem
import Glibc
import VolipMem

// Calls that another thread makes: who may make which, and what is left of the thread's own.

// MARK: Rows of the table

/// A call with what it needs, and whether the companion is to make it.
private struct WayCase {
  let name: String
  let isServed: Bool
  let make: () -> Int
}

private func pair(_ flags: Int = 0, type: __socket_type = SOCK_STREAM) -> (Int, Int) {
  let pair = room(8)
  _ = call("socketpair", Int(AF_UNIX), Int(type.rawValue) | flags, 0, pair)
  let both = pointer(pair).assumingMemoryBound(to: Int32.self)
  return (Int(both[0]), Int(both[1]))
}

private func pipePair() -> (Int, Int) {
  let pair = room(8)
  _ = call("pipe", pair)
  let both = pointer(pair).assumingMemoryBound(to: Int32.self)
  return (Int(both[0]), Int(both[1]))
}

/// Calls whose path is the second argument.
private let secondPaths: Set<String> = [
  "openat", "newfstatat", "readlinkat", "mkdirat", "unlinkat", "fchmodat", "fchownat", "faccessat",
  "faccessat2", "statx", "utimensat", "inotify_add_watch",
]

/// Every row that any thread may make, with arguments that harm nothing.
private func plainCases() -> [WayCase] {
  let made: Set<String> = [
    "inotify_init", "inotify_init1", "eventfd", "eventfd2", "epoll_create1", "dup", "memfd_create",
  ]
  return (0..<1024).compactMap { number in
    guard let way = cvm_call_way(Int32(number)).map({ String(cString: $0) }) else { return nil }
    let name = String(cString: cvm_call_name(Int32(number)))
    let path = text("")
    let isSecond = secondPaths.contains(name)
    switch way {
    case "any" where name != "umask":
      return WayCase(name: name, isServed: true) {
        let result = call(number: number, -1)
        if made.contains(name), result >= 0 { _ = call("close", result) }
        return result
      }
    case "path":
      return WayCase(name: name, isServed: true) {
        isSecond ? call(number: number, -1, path) : call(number: number, path)
      }
    default: return nil
    }
  }
}

/// What depends on more than the call's number.
private func conditionalCases() -> [WayCase] {
  let (readEnd, writeEnd) = pipePair()
  let (left, right) = pair()
  let (quiet, _) = pair(Int(SOCK_NONBLOCK.rawValue))
  let (recordEnd, _) = pair(type: SOCK_SEQPACKET)
  let about = call("openat", -100, text("/proc/self/comm"), Int(O_WRONLY))
  let zeros = call("openat", -100, text("/dev/zero"), 0)
  let muchBytes = 2 << 20
  let much = room(muchBytes)
  let buffer = room(64)
  let word = room(8)
  let vector = words(buffer, 8)
  let message = words(0, 0, vector, 1, 0, 0, 0)
  // For each attempt at reading: one that is not served takes its bytes all the same.
  _ = call("write", writeEnd, much, 8 * attemptsMax)
  let events = room(12 * 4)
  let epoll = call("epoll_create1", 0)
  let poll = words(Int(readEnd) | Int(POLLIN) << 32)
  let request = words(0, 0, 0, 0)
  let short = words(0, 1000)
  func written(_ body: @escaping () -> Int) -> () -> Int {
    return {
      _ = call("write", right, buffer, 8)
      defer { _ = call("recvfrom", left, buffer, 64, Int(MSG_DONTWAIT)) }
      return body()
    }
  }
  return [
    WayCase(name: "write to a pipe", isServed: true) { call("write", writeEnd, buffer, 8) },
    WayCase(name: "read from a pipe", isServed: true) { call("read", readEnd, buffer, 8) },
    WayCase(
      name: "read from a socket", isServed: true, make: written { call("read", left, buffer, 8) }),
    WayCase(name: "recvfrom", isServed: true, make: written { call("recvfrom", left, buffer, 8) }),
    WayCase(name: "recvmsg", isServed: true, make: written { call("recvmsg", left, message) }),
    WayCase(name: "recvmsg of nothing, non-blocking", isServed: true) {
      call("recvmsg", quiet, message)
    },
    WayCase(name: "accept4, non-blocking", isServed: true) { call("accept4", quiet) },
    WayCase(name: "readv, non-blocking", isServed: true) { call("readv", quiet, vector, 1) },
    WayCase(
      name: "readv, blocking", isServed: false, make: written { call("readv", left, vector, 1) }),
    WayCase(name: "recvfrom that waits for all", isServed: false) {
      call("recvfrom", quiet, buffer, 8, Int(MSG_WAITALL))
    },
    WayCase(name: "poll without waiting", isServed: true) { call("poll", poll, 1, 0) },
    WayCase(name: "epoll_wait without waiting", isServed: true) {
      call("epoll_wait", epoll, events, 4, 0)
    },
    WayCase(name: "epoll_wait that waits", isServed: false) {
      call("epoll_wait", epoll, events, 4, 1)
    },
    WayCase(name: "futex wake", isServed: true) { call("futex", word, 1, 1) },
    WayCase(name: "futex wait", isServed: false) { call("futex", word, 0, 1, short) },
    WayCase(name: "fcntl", isServed: true) { call("fcntl", readEnd, Int(F_GETFL)) },
    WayCase(name: "fcntl that waits", isServed: false) {
      call("fcntl", readEnd, Int(F_SETLKW), request)
    },
    WayCase(name: "ioctl FIONREAD", isServed: true) { call("ioctl", readEnd, 0x541B, word) },
    WayCase(name: "ioctl TCGETS", isServed: false) { call("ioctl", readEnd, 0x5401, buffer) },
    WayCase(name: "clock_gettime", isServed: true) { call("clock_gettime", 0, request) },
    WayCase(name: "clock_gettime of the thread", isServed: false) {
      call("clock_gettime", 3, request) < 0 ? -1 : 0
    },
    WayCase(name: "a path to the thread", isServed: false) {
      call("access", text("/proc/thread-self"), 0)
    },
    WayCase(name: "a write about the process", isServed: false) {
      call("write", about, text("helper"), 6)
    },
    WayCase(name: "the end of a record", isServed: false) { call("write", recordEnd, buffer, 8) },
    WayCase(name: "getrandom", isServed: true) { call("getrandom", buffer, 64, 0) },
    WayCase(name: "getrandom of much", isServed: false) { call("getrandom", much, muchBytes, 0) },
    WayCase(name: "much of something endless", isServed: false) {
      call("read", zeros, much, muchBytes) == muchBytes ? 0 : -1
    },
    WayCase(name: "gettid", isServed: false) { call("gettid") > 0 ? 0 : -1 },
    WayCase(name: "rt_sigprocmask", isServed: false) { call("rt_sigprocmask", 0, 0, word, 8) },
    WayCase(name: "sched_yield", isServed: false) { call("sched_yield") },
    WayCase(name: "a file's write", isServed: true) {
      let file = call("memfd_create", text("x"), 0)
      defer { _ = call("close", file) }
      return call("write", file, buffer, 8)
    },
  ]
}

private let attemptsMax = 200

private var served: Int { VirtualMachine.facts.companionCalls }

/// Makes calls until the companion takes them; false if it does not.
private func wakeCompanion() -> Bool {
  let enough = 4, attempts = 20_000
  var before = served
  for attempt in 1...attempts {
    _ = call("getppid")
    guard attempt % enough == 0 else { continue }
    if served - before == enough { return true }
    before = served
  }
  return false
}

/// Whether the companion made the call, by the number of those that it has made. With a case that
/// makes others as well, by more than those.
private func isServed(_ each: WayCase, others: Int) -> (Bool, Int) {
  var result = 0
  for _ in 0..<(each.isServed ? attemptsMax : 3) {
    guard wakeCompanion() else { return (false, result) }
    let before = served
    result = each.make()
    if served - before > others { return (true, result) }
  }
  return (false, result)
}

/// guest-ways: a line for each call: its name, its result, whether the companion made it and
/// whether it was to. Natively, results alone.
func guestWays(_ arguments: [String]) {
  for each in plainCases() {
    let made = VirtualMachine.isEntered ? isServed(each, others: 0) : (true, each.make())
    say("\(each.name): \(made.1 < 0 ? made.1 : 0) \(made.0 == each.isServed)")
  }
  for each in conditionalCases() {
    // A file is opened and closed, or bytes are put there and taken away.
    let others = each.name.contains("file") ? 2 : each.name.contains("socket") ? 2 : 0
    let isPrepared = ["recvfrom", "recvmsg", "readv, blocking"].contains(each.name)
    let made =
      VirtualMachine.isEntered
      ? isServed(each, others: isPrepared ? 2 : others) : (each.isServed, each.make())
    say("\(each.name): \(made.1 < 0 ? made.1 : 0) \(made.0 == each.isServed)")
  }
}

// MARK: What is the thread's own

nonisolated(unsafe) private let signalled = {
  let count = UnsafeMutablePointer<Int>.allocate(capacity: 2)
  count.initialize(repeating: 0, count: 2)
  return count
}()

private func handle(_ signal: Int32) {
  signalled.pointee = 0
  var action = sigaction()
  action.__sigaction_handler.sa_handler = { _ in
    signalled[0] += 1
    signalled[1] = call("gettid")
  }
  sigaction(signal, &action, nil)
}

private func inThread(_ body: @escaping () -> Void) {
  final class Box {
    let body: () -> Void
    init(_ body: @escaping () -> Void) { self.body = body }
  }
  var thread = pthread_t()
  pthread_create(
    &thread, nil,
    { box in
      Unmanaged<Box>.fromOpaque(box!).takeRetainedValue().body()
      return nil
    }, Unmanaged.passRetained(Box(body)).toOpaque())
  pthread_join(thread, nil)
}

/// guest-companion WHAT
func guestCompanion(_ arguments: [String]) {
  switch arguments[0] {
  case "broken-pipe": brokenPipe()
  case "long-write": longWrite()
  case "half-write": halfWrite()
  case "signals": signalsBetween()
  case "threads": pingPong(Int(arguments[1])!)
  case "thread-self": threadSelf()
  case "apart": apart()
  case "alone": alone()
  case "last-thread": lastThread()
  case "segment-base": segmentBase()
  case "changed-code": changedCode()
  case "children": children()
  default: print("unknown")
  }
}

/// SIGPIPE belongs to the thread that writes.
private func brokenPipe() {
  handle(SIGPIPE)
  let buffer = room(8)
  inThread {
    let own = call("gettid")
    for _ in 0..<50 {
      let (readEnd, writeEnd) = pipePair()
      _ = call("close", readEnd)
      _ = wakeCompanion()
      let before = signalled[0]
      let result = call("write", writeEnd, buffer, 8)
      _ = call("close", writeEnd)
      if result != -Int(EPIPE) || signalled[0] != before + 1 || signalled[1] != own {
        return say("wrong: \(result), \(signalled[0] - before) signals, thread \(signalled[1])")
      }
    }
    say("each once, in its thread")
  }
}

/// A blocking write is whole, however little room there is.
private func longWrite() {
  let (left, right) = pair()
  let byteCount = 3 << 20
  let data = room(byteCount)
  for index in 0..<byteCount {
    pointer(data).storeBytes(
      of: UInt8(truncatingIfNeeded: index * 31), toByteOffset: index, as: UInt8.self)
  }
  var thread = pthread_t()
  final class Reader { var total = 0, wrong = 0, descriptor = 0 }
  let reader = Reader()
  reader.descriptor = right
  pthread_create(
    &thread, nil,
    { pointer in
      let reader = Unmanaged<Reader>.fromOpaque(pointer!).takeUnretainedValue()
      let buffer = room(5000)
      while true {
        let count = call("read", reader.descriptor, buffer, 5000)
        guard count > 0 else { return nil }
        let bytes = byteMemory(buffer)
        for index in 0..<count
        where bytes[index] != UInt8(truncatingIfNeeded: (reader.total + index) * 31) {
          reader.wrong += 1
        }
        reader.total += count
      }
    }, Unmanaged.passUnretained(reader).toOpaque())
  var short = 0
  var offset = 0
  while offset < byteCount {
    _ = call("getppid")
    let count = min(3000, byteCount - offset)
    let written = call("write", left, data + offset, count)
    if written != count { short += 1 }
    offset += max(written, 0)
  }
  _ = call("close", left)
  pthread_join(thread, nil)
  say("short \(short) wrong \(reader.wrong) total \(reader.total == byteCount)")
}

/// A write whose second half finds nobody who reads says how much was written, without a signal.
private func halfWrite() {
  handle(SIGPIPE)
  let byteCount = 1 << 20
  let data = room(byteCount)
  var wrong = 0
  for _ in 0..<20 {
    let (left, right) = pair()
    var thread = pthread_t()
    pthread_create(
      &thread, nil,
      { number in
        let descriptor = Int(bitPattern: number)
        _ = call("poll", words(descriptor | Int(POLLIN) << 32), 1, -1)
        _ = call("close", descriptor)
        return nil
      }, UnsafeMutableRawPointer(bitPattern: right))
    _ = wakeCompanion()
    let result = call("write", left, data, byteCount)
    if result <= 0 || result >= byteCount { wrong += 1 }
    pthread_join(thread, nil)
    _ = call("close", left)
  }
  say("signals \(signalled[0]) wrong \(wrong)")
}

private func byteMemory(_ address: Int) -> UnsafeMutablePointer<UInt8> {
  pointer(address).assumingMemoryBound(to: UInt8.self)
}

/// Signals find the thread anywhere on a call's way: nothing is lost and nothing made twice.
private func signalsBetween() {
  handle(SIGALRM)
  let (readEnd, writeEnd) = pipePair()
  let value = room(8)
  _ = call("setitimer", 0, words(0, 1000, 0, 1000))
  var wrong = 0, calls = 0
  while signalled[0] < 300 {
    calls += 1
    pointer(value).storeBytes(of: calls, as: Int.self)
    while true {
      let written = call("write", writeEnd, value, 8)
      if written == 8 { break }
      if written != -Int(EINTR) { wrong += 1 }
    }
    pointer(value).storeBytes(of: 0, as: Int.self)
    while true {
      let count = call("read", readEnd, value, 8)
      if count == 8 { break }
      if count != -Int(EINTR) { wrong += 1 }
    }
    if pointer(value).load(as: Int.self) != calls { wrong += 1 }
  }
  _ = call("setitimer", 0, words(0, 0, 0, 0))
  let left = room(8)
  _ = call("ioctl", readEnd, 0x541B, left)
  say("wrong \(wrong) left \(pointer(left).load(as: Int.self))")
}

private final class Ends {
  var readEnd = 0, writeEnd = 0, wrong = 0, count = 0
}

/// Pairs of threads hand numbers to and fro.
private func pingPong(_ pairs: Int) {
  var threads: [pthread_t] = []
  var all: [Ends] = []
  func start(
    _ ends: Ends,
    _ body: @escaping @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer?
  ) {
    var thread = pthread_t()
    pthread_create(&thread, nil, body, Unmanaged.passUnretained(ends).toOpaque())
    threads.append(thread)
    all.append(ends)
  }
  for _ in 0..<pairs {
    let (firstRead, firstWrite) = pipePair()
    let (secondRead, secondWrite) = pair()
    let asking = Ends()
    (asking.readEnd, asking.writeEnd, asking.count) = (secondRead, firstWrite, 2000)
    let answering = Ends()
    (answering.readEnd, answering.writeEnd, answering.count) = (firstRead, secondWrite, 2000)
    start(asking) { pointer in hand(pointer!, isFirst: true) }
    start(answering) { pointer in hand(pointer!, isFirst: false) }
  }
  for thread in threads { pthread_join(thread, nil) }
  say("wrong \(all.map(\.wrong).reduce(0, +))")
}

private func hand(_ box: UnsafeMutableRawPointer, isFirst: Bool) -> UnsafeMutableRawPointer? {
  let ends = Unmanaged<Ends>.fromOpaque(box).takeUnretainedValue()
  let value = room(8)
  for number in 1...ends.count {
    if isFirst {
      pointer(value).storeBytes(of: number, as: Int.self)
      if call("write", ends.writeEnd, value, 8) != 8 { ends.wrong += 1 }
    }
    if call("read", ends.readEnd, value, 8) != 8 { ends.wrong += 1 }
    if pointer(value).load(as: Int.self) != number { ends.wrong += 1 }
    if !isFirst, call("write", ends.writeEnd, value, 8) != 8 { ends.wrong += 1 }
  }
  return nil
}

private func threadSelf() {
  inThread {
    let own = call("gettid")
    var wrong = 0
    let buffer = room(64)
    for _ in 0..<50 {
      _ = wakeCompanion()
      let count = call("readlink", text("/proc/thread-self"), buffer, 64)
      let name = String(
        decoding: UnsafeRawBufferPointer(start: pointer(buffer), count: count), as: UTF8.self)
      if !name.hasSuffix("/\(own)") { wrong += 1 }
    }
    say("wrong \(wrong)")
  }
}

private let noNewPrivileges = 38

/// After a call that sets the only thread apart, the companion is a copy of it.
private func apart() {
  _ = wakeCompanion()
  let result = call("prctl", noNewPrivileges, 1)
  let path = "/proc/self/task"
  guard wakeCompanion(), let directory = opendir(path) else { return say("none \(result)") }
  var wrong = 0, tasks = 0
  while let entry = readdir(directory) {
    let name = withUnsafePointer(to: &entry.pointee.d_name) {
      $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
    }
    guard !name.hasPrefix("."), let file = fopen("\(path)/\(name)/status", "r") else { continue }
    var line = [CChar](repeating: 0, count: 256)
    var isSet = false, isOther = false
    while fgets(&line, 256, file) != nil {
      let text = String(decoding: line.prefix { $0 != 0 }.map(UInt8.init), as: UTF8.self)
      if text.hasPrefix("NoNewPrivs:\t1") { isSet = true }
      if text.hasPrefix("State:\tZ") || text.hasPrefix("State:\tX") { isOther = true }
      if text.hasPrefix("Name:\tkvm") { isOther = true }
    }
    fclose(file)
    tasks += isOther ? 0 : 1
    if !isSet && !isOther { wrong += 1 }
  }
  say("result \(result) tasks \(tasks) wrong \(wrong)")
}

/// With a thread apart from others, or a signal descriptor, there is no companion any more.
private func alone() {
  _ = wakeCompanion()
  _ = call("signalfd4", -1, words(0), 8, 0)
  let before = served
  for _ in 0..<1000 { _ = call("getppid") }
  say("served \(served - before)")
}

/// The process ends when its last thread does, with the first one's status.
private func lastThread() {
  _ = wakeCompanion()
  var thread = pthread_t()
  pthread_create(
    &thread, nil,
    { _ in
      _ = wakeCompanion()
      say("last")
      _ = call("exit", 0)
      return nil
    }, nil)
  _ = call("exit", 7)
}

/// A program that uses gs for itself.
private func segmentBase() {
  _ = wakeCompanion()
  let (setBase, getBase) = (0x1001, 0x1004)
  let storage = words(0x1234)
  let before = room(8)
  _ = call("arch_prctl", getBase, before)
  let result = call("arch_prctl", setBase, storage)
  let now = room(8)
  _ = call("arch_prctl", getBase, now)
  var wrong = 0
  let process = call("getpid")
  for _ in 0..<1000 where call("getpid") != process { wrong += 1 }
  say(
    "before \(pointer(before).load(as: Int.self)) result \(result)",
    "\(pointer(now).load(as: Int.self) == storage) wrong \(wrong)")
}

private func say(_ first: String, _ second: String) { say("\(first) \(second)") }

/// Code that the program makes writable is its own again, as it was, and can be changed.
private func changedCode() {
  let symbol = dlsym(nil, "getppid")!
  let getppid = unsafeBitCast(symbol, to: (@convention(c) () -> Int32).self)
  let parent = getppid()
  // Whether it was replaced: the guest sees a jump where the number was moved.
  for _ in 0..<10_000 { _ = getppid() }
  let isReplaced = symbol.load(as: UInt8.self) == 0xe9
  let page = Int(bitPattern: symbol) & ~4095
  let result = call("mprotect", page, 4096, Int(PROT_READ | PROT_WRITE | PROT_EXEC))
  let isMove = symbol.load(as: UInt8.self) == 0xb8
  let number = (symbol + 1).loadUnaligned(as: Int32.self)
  (symbol + 1).storeBytes(of: 39, as: Int32.self)  // getpid
  let process = getppid()
  (symbol + 1).storeBytes(of: number, as: Int32.self)
  say(
    "replaced \(isReplaced) \(result) move \(isMove) number \(number)",
    "changed \(process == Glibc.getpid()) back \(getppid() == parent)")
}

/// Children have the program as it was.
private func children() {
  let fork = function("fork", as: (@convention(c) () -> Int32).self)
  var wrong = 0
  for _ in 0..<20 {
    _ = wakeCompanion()
    let child = fork()
    if child == 0 {
      let parent = call("getppid")
      for _ in 0..<100 where call("getppid") != parent { _exit(1) }
      _exit(0)
    }
    var status: Int32 = 0
    waitpid(child, &status, 0)
    if status != 0 { wrong += 1 }
  }
  say("wrong \(wrong)")
}
