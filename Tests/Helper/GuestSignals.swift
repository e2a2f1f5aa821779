import Glibc
import VolipMem

// Signals and masks where the run loop could get between the program and the kernel.

private let fork = function("fork", as: (@convention(c) () -> Int32).self)
/// A word of memory: the language's checks of exclusive access know nothing of handlers.
nonisolated(unsafe) private let handled = {
  let count = UnsafeMutablePointer<Int>.allocate(capacity: 1)
  count.initialize(to: 0)
  return count
}()

private func handle(_ signal: Int32, flags: Int32 = 0) {
  handled.pointee = 0  // before the first signal comes
  var action = sigaction()
  action.__sigaction_handler.sa_handler = { _ in handled.pointee += 1 }
  action.sa_flags = flags
  sigaction(signal, &action, nil)
}

private func currentMask() -> Int {
  let mask = room(8)
  _ = call("rt_sigprocmask", 0, 0, mask, 8)
  return pointer(mask).load(as: Int.self)
}

/// guest-signals WHAT
func guestSignals(_ arguments: [String]) throws {
  switch arguments[0] {
  case "first-thread-ended": firstThreadEnds()
  case "children-under-fire": childrenUnderFire()
  case "children-killed-early": childrenKilledEarly()
  case "mask-over-stack-growth": maskOverStackGrowth()
  case "fault-in-its-handler": faultInItsHandler()
  case "wait-for-all": waitForAll()
  case "kick-in-a-wait": kickInAWait()
  case "segment-base-in-child": segmentBaseInChild()
  default: print("unknown")
  }
}

/// The process's own number means a task without memory then.
private func firstThreadEnds() {
  var thread = pthread_t()
  pthread_create(
    &thread, nil,
    { _ in
      usleep(100_000)
      handle(SIGUSR1)
      raise(SIGUSR1)
      onThreads(2) { if $0 == 1 { handled.pointee += 1 } }
      say("handled \(handled.pointee)")
      _exit(0)
    }, nil)
  pthread_exit(nil)
}

/// A timer fires all the time; no child may inherit a mask that the program has not set.
private func childrenUnderFire() {
  handle(SIGALRM, flags: SA_RESTART)
  let interval = timeval(tv_sec: 0, tv_usec: 3000)
  var times = itimerval(it_interval: interval, it_value: interval)
  setitimer(__itimer_which_t(ITIMER_REAL.rawValue), &times, nil)
  var wrong = 0
  for _ in 0..<200 {
    let child = fork()
    if child == 0 { _exit(currentMask() == 0 ? 0 : 1) }
    wrong += wait(child)
  }
  times = itimerval()
  setitimer(__itimer_which_t(ITIMER_REAL.rawValue), &times, nil)
  print("wrong \(wrong)")
}

private func childrenKilledEarly() {
  handle(SIGUSR1)
  var deaf = 0
  for _ in 0..<200 where deaf == 0 {
    let child = fork()
    if child == 0 {
      alarm(5)
      while handled.pointee == 0 { usleep(50) }
      _exit(0)
    }
    kill(child, SIGUSR1)
    deaf += wait(child)
  }
  print("deaf \(deaf)")
}

private func wait(_ child: Int32) -> Int {
  var status: Int32 = 0
  while waitpid(child, &status, 0) < 0 {}
  return status == 0 ? 0 : 1
}

/// The first access to new stack is made in a visit to the host.
private func maskOverStackGrowth() {
  _ = call("rt_sigprocmask", 2, words(-1), 0, 8)
  let before = currentMask()
  let depth = useStack(100)
  print("kept \(currentMask() == before) depth \(depth)")
}

@inline(never)
private func useStack(_ depth: Int) -> Int {
  withUnsafeTemporaryAllocation(byteCount: 40_000, alignment: 16) { room in
    room[0] = UInt8(depth)
    return depth == 0 ? Int(room[0]) : useStack(depth - 1) + 1
  }
}

/// The kernel ends a process whose handler faults while it blocks that fault.
private func faultInItsHandler() {
  var action = sigaction()
  action.__sigaction_handler.sa_handler = { _ in
    handled.pointee += 1
    say("handler \(handled.pointee)")
    UnsafeMutablePointer<Int>(bitPattern: 16)!.pointee = 1
  }
  sigaction(SIGSEGV, &action, nil)
  UnsafeMutablePointer<Int>(bitPattern: 8)!.pointee = 1
}

/// The signal that pulls threads out of the guest is nobody's to wait for.
private func waitForAll() {
  let kick = 64
  _ = call("rt_sigprocmask", 2, words(-1), 0, 8)
  _ = call("tgkill", call("getpid"), call("gettid"), kick)
  let all = words(-1)
  let result = call("rt_sigtimedwait", all, 0, words(0, 50_000_000), 8)
  print("came \(result == kick)")
}

private func segmentBaseInChild() {
  let setGS = 0x1001
  let getGS = 0x1004
  let base = room(8)
  _ = call("arch_prctl", setGS, base)
  let child = fork()
  if child == 0 {
    let out = room(8)
    _ = call("arch_prctl", getGS, out)
    _exit(pointer(out).load(as: Int.self) == base ? 0 : 1)
  }
  print("wrong \(wait(child))")
}

/// A kick that comes late finds its thread in a call that no SA_RESTART begins again.
private func kickInAWait() {
  let target = call("gettid")
  onThreads(2) { thread in
    guard thread == 1 else {
      if poll(nil, 0, 200) != 0 { handled.pointee += 1 }
      return
    }
    usleep(50_000)
    _ = call("tgkill", call("getpid"), target, 64)
  }
  print("interrupted \(handled.pointee)")
}
