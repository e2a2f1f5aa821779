import Glibc

// Cases of calls about time, and about memory and messages between processes.

/// Makes a call that is interrupted by an alarm. It comes again until the call has met it.
private func interrupted(_ body: () -> Int) -> Int {
  var action = sigaction()
  action.__sigaction_handler.sa_handler = { _ in }
  sigaction(SIGALRM, &action, nil)
  _ = call("setitimer", 0, words(0, 10_000, 0, 10_000), 0)
  defer { _ = call("setitimer", 0, words(0, 0, 0, 0), 0) }
  return expecting(EINTR, body())
}

private func clockCase(_ name: String) -> CallCase {
  CallCase(name) { slot in
    let out = slot.output(16)
    return { call(name, 1, out) }
  }
}

private func timer() -> Int {
  let out = room(8)
  _ = call("timer_create", 1, words(0, 1 << 32, 0, 0, 0, 0, 0, 0), out)
  return Int(pointer(out).load(as: Int32.self))
}

/// Sets a timer to 100 s, or asks what it is set to.
private func timerCase(_ name: String, _ timer: @escaping @Sendable () -> Int) -> CallCase {
  CallCase(name) { slot in
    let (timer, out, new) = (timer(), slot.output(32), words(0, 0, 100, 0))
    switch name {
    case "setitimer": return { call(name, 2, words(0, 0, 0, 0), out) }
    case "getitimer", "timer_gettime", "timerfd_gettime": return { call(name, timer, out) }
    default: return { call(name, timer, 0, new, out) }
    }
  }
}

private let sleeping: [CallCase] = [
  CallCase("nanosleep") { slot in
    let (out, long) = (slot.output(16), words(100, 0))
    return { interrupted { call("nanosleep", long, out) } }
  },
  CallCase("clock_nanosleep") { slot in
    let (out, long) = (slot.output(16), words(100, 0))
    return { interrupted { call("clock_nanosleep", 1, 0, long, out) } }
  },
]

private let clocks: [CallCase] = [
  clockCase("clock_gettime"), clockCase("clock_getres"),
  CallCase("gettimeofday") { slot in
    let (time, zone) = (slot.output(16), slot.output(8))
    return { call("gettimeofday", time, zone) }
  },
  CallCase("time") { slot in
    let out = slot.output(8)
    return { call("time", out) }
  },
  CallCase("times") { slot in
    let out = slot.output(32)
    return { call("times", out) }
  },
  CallCase("adjtimex") { slot in
    let out = slot.output(208, changed: 200)
    pointer(out).storeBytes(of: 0, as: Int32.self)  // change nothing
    return { call("adjtimex", out) }
  },
  CallCase("clock_adjtime") { slot in
    let out = slot.output(208, changed: 200)
    pointer(out).storeBytes(of: 0, as: Int32.self)
    return { call("clock_adjtime", 0, out) }
  },
  CallCase("timer_create") { slot in
    let out = slot.output(4)
    return { call("timer_create", 1, words(0, 1 << 32, 0, 0, 0, 0, 0, 0), out) }
  },
]

let timeCases =
  sleeping + clocks + ["getitimer", "setitimer"].map { timerCase($0) { 0 } }
  + ["timer_gettime", "timer_settime"].map { timerCase($0) { timer() } }
  + ["timerfd_gettime", "timerfd_settime"].map { timerCase($0) { call("timerfd_create", 1, 0) } }

// MARK: Memory and messages

private func statusCase(_ name: String, _ byteCount: Int, _ make: @escaping @Sendable () -> Int)
  -> CallCase
{
  CallCase(name) { slot in
    let (identifier, out) = (make(), slot.output(byteCount))
    return {
      let result =
        name == "semctl"
        ? call(name, identifier, 0, Int(IPC_STAT), out) : call(name, identifier, Int(IPC_STAT), out)
      _ = call(name, identifier, name == "semctl" ? 0 : Int(IPC_RMID), Int(IPC_RMID))
      return result
    }
  }
}

private let identifiers: [CallCase] = [
  statusCase("shmctl", 112) { call("shmget", 0, 4096, 0o600) },
  statusCase("semctl", 104) { call("semget", 0, 1, 0o600) },
  statusCase("msgctl", 120) { call("msgget", 0, 0o600) },
  CallCase("semctl") { slot in
    let (identifier, out) = (call("semget", 0, 200, 0o600), slot.output(400))
    return {
      let result = call("semctl", identifier, 0, 13, out)  // GETALL: as many as there are
      _ = call("semctl", identifier, 0, Int(IPC_RMID))
      return result
    }
  },
  CallCase("msgrcv") { slot in
    let queue = call("msgget", 0, 0o600)
    _ = call("msgsnd", queue, bytes([1] + [UInt8](repeating: 0, count: 107)), 100, 0)
    let out = slot.output(108)
    return {
      let result = call("msgrcv", queue, out, 100, 0, 0)
      _ = call("msgctl", queue, Int(IPC_RMID), 0)
      return result
    }
  },
]

private func messageQueue() -> Int {
  let name = text("volip-test-\(getpid())")
  let queue = call("mq_open", name, Int(O_RDWR | O_CREAT), 0o600, words(0, 4, 100, 0, 0, 0, 0, 0))
  _ = call("mq_unlink", name)
  return queue
}

private let queues: [CallCase] = [
  CallCase("mq_timedreceive") { slot in
    let queue = messageQueue()
    _ = call("mq_timedsend", queue, bytes([UInt8](repeating: 5, count: 100)), 100, 7, 0)
    let (out, priority) = (slot.output(100), slot.output(4))
    return { call("mq_timedreceive", queue, out, 100, priority, 0) }
  },
  CallCase("mq_getsetattr") { slot in
    let (queue, out) = (messageQueue(), slot.output(64))
    return { call("mq_getsetattr", queue, 0, out) }
  },
]

private let memory: [CallCase] = [
  CallCase("mincore") { slot in
    let pages = call("mmap", 0, 64 * 4096, 3, 0x22, -1, 0)
    let out = slot.output(64)
    return { call("mincore", pages, 64 * 4096, out) }
  },
  CallCase("get_mempolicy") { slot in
    let (mode, nodes) = (slot.output(4), slot.output(128))
    return { call("get_mempolicy", mode, nodes, 1024, 0, 0) }
  },
  CallCase("process_vm_readv") { slot in
    let from = words(bytes([UInt8](repeating: 3, count: 5100)), 5100)
    let to = words(slot.output(100), 100, slot.output(5000), 5000)
    return { call("process_vm_readv", call("getpid"), to, 2, from, 1, 0) }
  },
  CallCase("process_vm_writev") { slot in  // into this process's own memory
    let from = words(bytes([UInt8](repeating: 3, count: 5100)), 5100)
    let to = words(slot.output(100), 100, slot.output(5000), 5000)
    return { call("process_vm_writev", call("getpid"), from, 1, to, 2, 0) }
  },
  CallCase("futex") { slot in
    let word = slot.output(holding: Int32(0))
    return { call("futex", word, 6 | 128, 0, 0, 0, 0) }  // FUTEX_LOCK_PI
  },
  CallCase("futex") { slot in
    let (first, second) = (words(0), slot.output(holding: Int32(0)))
    return { call("futex", first, 5 | 128, 1, 1, second, 7 << 12) }  // FUTEX_WAKE_OP: set to 7
  },
]

let memoryCases = identifiers + queues + memory
