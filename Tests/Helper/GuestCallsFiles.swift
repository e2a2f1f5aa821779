import Glibc

// Cases of calls on files, directories and descriptors.

/// A file without a name that holds bytes no prefill looks like.
func filledFile() -> Int {
  let file = call("memfd_create", text("volip-test"))
  let content = [UInt8]((0..<16384).map { UInt8(truncatingIfNeeded: $0 % 97 + 1) })
  _ = call("pwrite64", file, bytes(content), content.count, 0)
  return file
}

/// The reading end of a pipe with some bytes in it, or none.
func pipeHolding(_ byteCount: Int) -> Int { pipeEnds(holding: byteCount).reading }

func pipeEnds(holding byteCount: Int) -> (reading: Int, writing: Int) {
  let ends = UnsafeMutablePointer<Int32>.allocate(capacity: 2)
  _ = call("pipe2", Int(bitPattern: ends))
  _ = call("write", Int(ends[1]), bytes([UInt8](repeating: 7, count: byteCount)), byteCount)
  return (Int(ends[0]), Int(ends[1]))
}

func openFile(_ name: String) -> Int {
  call("open", text("\(callDirectory)/\(name)"), Int(O_RDWR | O_CREAT), 0o600)
}

func path(_ name: String) -> Int { text("\(callDirectory)/\(name)") }

/// One call with the path of a directory and one output.
private func statCase(_ name: String, _ byteCount: Int) -> CallCase {
  CallCase(name) { slot in
    let out = slot.output(byteCount)
    return { call(name, text("/"), out) }
  }
}

private func onFile(_ name: String, _ byteCount: Int) -> CallCase {
  CallCase(name) { slot in
    let (file, out) = (filledFile(), slot.output(byteCount))
    return { call(name, file, out, byteCount, 0) }
  }
}

/// A call that fills the buffers of an iovec.
private func vectorCase(_ name: String) -> CallCase {
  CallCase(name) { slot in
    let file = name == "vmsplice" ? pipeHolding(6000) : filledFile()
    let vector = words(slot.output(100), 100, slot.output(5000), 5000)
    return { call(name, file, vector, 2, 0) }
  }
}

private func listDirectory(_ name: String) -> CallCase {
  CallCase(name) { slot in
    _ = openFile(String(repeating: "d", count: 200))
    let directory = call("open", text(callDirectory), Int(O_RDONLY | O_DIRECTORY))
    let out = slot.output(1024, changed: 24)
    return { call(name, directory, out, 1024) }
  }
}

private let attribute = "user.volip-test-attribute"

private func fileWithAttribute() -> Int {
  let file = openFile("file")
  _ = call("fsetxattr", file, text(attribute), bytes([UInt8](repeating: 3, count: 40)), 40)
  return file
}

private func attributeCases(_ prefix: String) -> [CallCase] {
  let byCall: @Sendable () -> Int = {
    let file = fileWithAttribute()
    return prefix == "f" ? file : path("file")
  }
  return [
    CallCase(prefix + "getxattr") { slot in
      let (file, out) = (byCall(), slot.output(40))
      return { call(prefix + "getxattr", file, text(attribute), out, 40) }
    },
    CallCase(prefix + "listxattr") { slot in
      let (file, out) = (byCall(), slot.output(attribute.utf8.count + 1))
      return { call(prefix + "listxattr", file, out, attribute.utf8.count + 1) }
    },
  ]
}

private let linkTarget = String(repeating: "t", count: 40)

private let readAndStat: [CallCase] = [
  onFile("read", 5000), onFile("pread64", 5000),
  vectorCase("readv"), vectorCase("preadv"), vectorCase("preadv2"), vectorCase("vmsplice"),
  statCase("stat", 144), statCase("lstat", 144), statCase("statfs", 120),
  onFile("fstat", 144), onFile("fstatfs", 120),
  CallCase("newfstatat") { slot in
    let out = slot.output(144)
    return { call("newfstatat", -100, text("/"), out, 0) }
  },
  CallCase("statx") { slot in
    let out = slot.output(256)
    return { call("statx", -100, text("/"), 0, 0xFFF, out) }
  },
  listDirectory("getdents"), listDirectory("getdents64"),
  CallCase("getcwd") { slot in
    _ = call("chdir", text(callDirectory))
    let out = slot.output(callDirectory.utf8.count + 1)
    return { call("getcwd", out, callDirectory.utf8.count + 1) }
  },
  CallCase("readlink") { slot in
    _ = call("symlink", text(linkTarget), path("link"))
    let out = slot.output(40)
    return { call("readlink", path("link"), out, 40) }
  },
  CallCase("readlinkat") { slot in
    _ = call("symlink", text(linkTarget), path("link"))
    let out = slot.output(40)
    return { call("readlinkat", -100, path("link"), out, 40) }
  },
]

private let descriptors: [CallCase] = [
  CallCase("pipe") { slot in
    let out = slot.output(8)
    return { call("pipe", out) }
  },
  CallCase("pipe2") { slot in
    let out = slot.output(8)
    return { call("pipe2", out, 0) }
  },
  CallCase("fcntl") { slot in
    // struct flock: of a lock that nobody has the kernel changes the type alone.
    let out = slot.output(holding: (1, 0, 0, 0), changed: 2)
    let file = filledFile()
    return { call("fcntl", file, Int(F_GETLK), out) }
  },
  CallCase("ioctl") { slot in
    let (pipe, out) = (pipeHolding(77), slot.output(4))
    return { call("ioctl", pipe, 0x541B, out) }  // FIONREAD: a number without a size in it
  },
  CallCase("ioctl") { slot in
    let file = call("userfaultfd", 1)  // of user mode alone
    let out = slot.output(holding: (0xAA, 0, 0))  // struct uffdio_api
    return { call("ioctl", file, 0xC018_AA3F, out) }
  },
  CallCase("sendfile") { slot in
    let (from, to, offset) = (filledFile(), filledFile(), slot.output(holding: 0))
    return { call("sendfile", to, from, offset, 100) }
  },
  CallCase("splice") { slot in
    let (from, pipe, offset) = (filledFile(), pipeEnds(holding: 0), slot.output(holding: 0))
    return { call("splice", from, offset, pipe.writing, 0, 100, 0) }
  },
  CallCase("splice") { slot in
    let (to, pipe, offset) = (filledFile(), pipeHolding(100), slot.output(holding: 0))
    return { call("splice", pipe, 0, to, offset, 100, 0) }
  },
  CallCase("copy_file_range") { slot in
    let (from, to) = (openFile("file"), openFile("other"))
    _ = call("write", from, bytes([UInt8](repeating: 1, count: 200)), 200)
    let offsets = (slot.output(holding: 0), slot.output(holding: 0))
    return { call("copy_file_range", from, offsets.0, to, offsets.1, 100, 0) }
  },
]

let fileCases: [CallCase] =
  readAndStat + descriptors + ["", "l", "f"].flatMap { attributeCases($0) }
