import Glibc
import VolipMem

// What ends a process in guest mode, and what must not.

/// Machine code in a page of its own, for instructions that Swift does not make.
private func execute(_ code: [UInt8]) {
  let page = mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
  memcpy(page, code, code.count)
  mprotect(page, 4096, PROT_READ | PROT_EXEC)
  announce(address: page)
  unsafeBitCast(page, to: (@convention(c) () -> Void).self)()
}

/// What the message must say; then only the fault is left.
private func announce(address: UnsafeRawPointer?) {
  let number = String(UInt(bitPattern: address), radix: 16)
  say("address 0x\(number) thread \(call("gettid"))")
}

private func store(_ address: UnsafeMutableRawPointer?) {
  announce(address: address)
  let byte = UnsafeMutablePointer<UInt8>(bitPattern: UInt(bitPattern: address))
  byte!.pointee = 1
}

private func load(_ address: UnsafeMutableRawPointer?) {
  announce(address: address)
  say("\(UnsafeMutablePointer<UInt8>(bitPattern: UInt(bitPattern: address))!.pointee)")
}

/// A mapping of a file that has no bytes there.
private func beyondFile() -> UnsafeMutableRawPointer {
  let file = memfd(byteCount: 4096)
  return mmap(nil, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)! + 4096
}

private func recurse(_ depth: Int) -> Int { depth == -1 ? 0 : recurse(depth + 1) &+ depth }

/// guest-fault KIND [POOL]: prints an address and the thread, and faults. Runs on the host as well.
func guestFault(_ arguments: [String]) throws {
  let scratch = mmap(nil, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
  switch arguments[0] {
  case "null": store(UnsafeMutableRawPointer(bitPattern: 8))
  case "null-read": load(UnsafeMutableRawPointer(bitPattern: 16))
  case "null-call": execute([0x31, 0xC0, 0xFF, 0xE0])  // xor %eax, %eax; jmp *%rax
  case "read-only": store(scratch)
  case "no-access":
    mprotect(scratch, 4096, PROT_NONE)
    load(scratch)
  case "beyond-file": store(beyondFile())
  case "unused-terabyte": store(UnsafeMutableRawPointer(bitPattern: 0x1234_5678_9000))
  case "not-canonical": store(UnsafeMutableRawPointer(bitPattern: 0x1234_5678_9ABC_DEF0))
  case "swift-trap": fatalError("on purpose")
  case "illegal": execute([0x0F, 0x0B])  // ud2
  case "divide": execute([0x31, 0xC9, 0x31, 0xD2, 0xF7, 0xF1])  // divl of 0 by 0
  case "breakpoint": execute([0xCC])
  case "privileged": execute([0xF4])  // hlt
  case "stack": say("\(recurse(0))")
  case "abort": abort()
  case "thread": onThreads(2) { if $0 == 1 { store(UnsafeMutableRawPointer(bitPattern: 8)) } }
  case "pool":
    let pool = try Pool.create(arguments[1], byteCount: 64 << 20)
    try pool.section { _ in store(UnsafeMutableRawPointer(mutating: pool.base + (48 << 20))) }
  default: say("unknown fault")
  }
  say("still here")
}

/// guest-stray POOL HOW: memory is written between two sections by a store or by a system call; the
/// next one reports it and puts it back.
func guestStray(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.engine.persistencePath = .cacheLines
  options.engine.tracker = TrackerKind(rawValue: arguments[1])
  options.engine.retention = false
  let pool = try Pool.create(arguments[0], byteCount: 1 << 20, options: options)
  let word = try pool.section { _ in try pool.allocate(UInt64.self) }
  try pool.section { _ in word.pointee = 1 }
  if arguments[2] == "store" { word.pointee = 2 }
  if arguments[2] == "call" { fillRandomly(word, 8) }
  do throws(PoolError) {
    try pool.pstart()
    print("not noticed")
    try pool.pend()
  } catch {
    let isHere = error == .writeOutsideSection(offset: UInt64(UnsafeRawPointer(word) - pool.base))
    print("reported \(isHere) word \(word.pointee)")
  }
  try pool.section { _ in word.pointee += 10 }
  print("then \(word.pointee)")
  try pool.close()
}

// MARK: Calls that are refused

func guestRefused(_ arguments: [String]) throws {
  let parameters = room(120)
  print("io_uring_setup \(call("io_uring_setup", 4, parameters) == -Int(ENOSYS))")
  print("io_setup \(call("io_setup", 4, room(8)) == -Int(ENOSYS))")
}

/// name_to_handle_at is not in the table. Its pointers may lie anywhere but in a pool.
func guestUnknownCall(_ arguments: [String]) throws {
  let pool = try Pool.create(arguments[0], byteCount: 1 << 20)
  let memory = try pool.section { _ in try pool.allocate(byteCount: 256) }
  let number = 303
  say("outside \(call(number: number, -100, text("/"), room(256), room(8), 0) != -Int(ENOSYS))")
  say("address 0x\(String(UInt(bitPattern: memory), radix: 16))")
  _ = call(number: number, -100, text("/"), Int(bitPattern: memory), room(8), 0)
  say("still here")
}

// MARK: Threads and children

/// guest-threads COUNT: many short threads one after the other, then some at the same time.
func guestThreads(_ arguments: [String]) throws {
  let count = Int(arguments[0])!
  nonisolated(unsafe) let sums = UnsafeMutablePointer<Int>.allocate(capacity: 2)
  sums.initialize(repeating: 0, count: 2)
  for _ in 0..<count { onThreads(2) { sums[$0] += 1 } }
  let processors = VirtualMachine.facts.virtualProcessors
  nonisolated(unsafe) let inGuest = UnsafeMutablePointer<Bool>.allocate(capacity: 16)
  onThreads(16) { inGuest[$0] = VirtualMachine.isEntered }
  let all = (0..<16).allSatisfy { inGuest[$0] }
  print("threads \(sums[1]) processors \(processors) together \(all)")
}

/// Children of each kind: none of them is in the guest, and all of them end as they should.
func guestChildren(_ arguments: [String]) throws {
  func wait(_ name: String, _ child: Int32) {
    var status: Int32 = 0
    waitpid(child, &status, 0)
    say("\(name) exit \(status >> 8) signal \(status & 127)")
  }
  let echo = "/bin/echo"
  var spawned: pid_t = 0
  let words = [strdup("echo"), strdup("spawned"), nil]
  posix_spawn(&spawned, echo, nil, nil, words, environ)
  wait("spawned", spawned)
  let fork = function("fork", as: (@convention(c) () -> Int32).self)
  var child = fork()
  if child == 0 {
    execv(echo, [strdup("echo"), strdup("executed"), nil])
    _exit(1)
  }
  wait("executed", child)
  child = fork()
  if child == 0 {
    say("in the child: guest \(VirtualMachine.isEntered)")
    _exit(7)
  }
  wait("forked", child)
  child = fork()
  if child == 0 {
    UnsafeMutablePointer<Int>(bitPattern: 8)!.pointee = 1
    _exit(0)
  }
  wait("faulted", child)
  say("parent: guest \(VirtualMachine.isEntered)")
}
