import Glibc

// Cases of calls about processes, users and signals, and of what the machine is.

/// A child that has ended or is about to.
private func child() -> Int {
  var process: pid_t = 0
  var arguments: [UnsafeMutablePointer<CChar>?] = [strdup("true"), nil]
  posix_spawnp(&process, "true", nil, nil, &arguments, environ)
  return Int(process)
}

/// A call whose only argument of interest is one output, at a position.
private func simple(
  _ name: String, _ byteCount: Int, at position: Int, _ arguments: Int..., changed: Int? = nil
) -> CallCase {
  CallCase(name) { slot in
    var all = arguments + Array(repeating: 0, count: 6 - arguments.count)
    all[position] = slot.output(byteCount, changed: changed)
    return { [all] in call(name, all[0], all[1], all[2], all[3], all[4], all[5]) }
  }
}

private func threeIDs(_ name: String) -> CallCase {
  CallCase(name) { slot in
    let (a, b, c) = (slot.output(4), slot.output(4), slot.output(4))
    return { call(name, a, b, c) }
  }
}

private let users: [CallCase] = [
  threeIDs("getresuid"), threeIDs("getresgid"),
  CallCase("getgroups") { slot in
    let groups = bytes((1...6).flatMap { [UInt8($0), 0, 0, 0] })
    let allowed = call("setgroups", 6, groups)
    let out = slot.output(24)
    return { allowed < 0 ? allowed : call("getgroups", 6, out) }
  },
  CallCase("capget") { slot in  // of an unknown version the kernel says which it knows
    let head = slot.output(holding: 0, changed: 4)
    return { call("capget", head, 0) }
  },
  CallCase("capget") { slot in
    let (head, out) = (words(0x2008_0522), slot.output(24))
    return { call("capget", head, out) }
  },
]

private let children: [CallCase] = [
  CallCase("wait4") { slot in
    let (process, status, usage) = (child(), slot.output(4), slot.output(144))
    return { call("wait4", process, status, 0, usage) }
  },
  CallCase("waitid") { slot in
    let process = child()
    let (information, usage) = (slot.output(128, changed: 28), slot.output(144))
    return { call("waitid", 1, process, information, 4, usage) }
  },
]

private let userSignal = 12

private let signals: [CallCase] = [
  simple("rt_sigaction", 32, at: 2, 10, 0, 0, 8),
  simple("rt_sigaction", 32, at: 2, Int(SIGSEGV), 0, 0, 8),  // kept by CVolimem itself
  simple("rt_sigprocmask", 8, at: 2, 0, 0, 0, 8),
  CallCase("rt_sigprocmask") { slot in  // with a new mask: looked at by CVolimem
    let (mask, out) = (words(1 << 10), slot.output(8))
    return { call("rt_sigprocmask", 0, mask, out, 8) }
  },
  simple("rt_sigpending", 8, at: 0, 0, 8),
  CallCase("rt_sigtimedwait") { slot in
    let mask = words(1 << (userSignal - 1))
    _ = call("rt_sigprocmask", 0, mask, 0, 8)
    _ = call("tgkill", call("getpid"), call("gettid"), userSignal)
    let (out, timeout) = (slot.output(128), words(1, 0))
    return { call("rt_sigtimedwait", mask, out, timeout, 8) }
  },
  simple("sigaltstack", 24, at: 1),
]

private let system: [CallCase] = [
  simple("uname", 390, at: 0), simple("sysinfo", 112, at: 0),
  simple("getrusage", 144, at: 1), simple("getrlimit", 16, at: 1, 7),
  simple("prlimit64", 16, at: 3, 0, 7), simple("syslog", 4096, at: 1, 3, 0, 4096, changed: 1),
  simple("getrandom", 5000, at: 0, 0, 5000),
  CallCase("getcpu") { slot in
    let (processor, node) = (slot.output(4), slot.output(4))
    return { call("getcpu", processor, node, 0) }
  },
  CallCase("get_robust_list") { slot in
    let (head, length) = (slot.output(8), slot.output(8))
    return { call("get_robust_list", 0, head, length) }
  },
]

private let scheduling: [CallCase] = [
  simple("sched_getparam", 4, at: 1), simple("sched_rr_get_interval", 16, at: 1),
  simple("sched_getaffinity", 128, at: 2, 0, 128, changed: 8),
  simple("sched_getattr", 56, at: 1, 0, 0, 56),
  CallCase("sched_setattr") { slot in  // of one that is too large the kernel says how large it is
    let out = slot.output(holding: (8192, 0), changed: 4)
    return { expecting(E2BIG, call("sched_setattr", 0, out, 0)) }
  },
  CallCase("perf_event_open") { slot in
    let out = slot.output(holding: (8192 << 32, 0), changed: 8)
    return { expecting(E2BIG, call("perf_event_open", out, 0, -1, -1, 0)) }
  },
]

private let control: [CallCase] = [
  simple("prctl", 16, at: 1, 16),  // PR_GET_NAME
  CallCase("prctl") { slot in
    let auxiliaryVector = 0x4155_5856  // PR_GET_AUXV, Linux 6.4
    let byteCount = call("prctl", auxiliaryVector, room(4096), 4096)
    guard byteCount > 0 else { return { byteCount } }
    let out = slot.output(byteCount)
    return { call("prctl", auxiliaryVector, out, byteCount) }
  },
  CallCase("prctl") { slot in
    let out = slot.output(8)
    // PR_SCHED_CORE, PR_SCHED_CORE_GET; kernels without it say EINVAL
    let result = call("prctl", 62, 0, 0, 0, room(8))
    return { result < 0 ? -Int(ENOSYS) : call("prctl", 62, 0, 0, 0, out) }
  },
  simple("arch_prctl", 8, at: 1, 0x1003),  // ARCH_GET_FS, answered by CVolimem
  simple("arch_prctl", 8, at: 1, 0x1021),  // ARCH_GET_XCOMP_SUPP, by the kernel
  simple("seccomp", 6, at: 2, 3),  // SECCOMP_GET_NOTIF_SIZES
]

let processCases = users + children + signals + system + scheduling + control
