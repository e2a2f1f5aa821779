import Glibc
import VolipMem

/// What needs a process that may be harmed: full disks and forked children.

// MARK: Disk

/// Mounts a small tmpfs over a directory, for this process alone; says so where it may not.
func mountSmallFileSystem(_ directory: String, byteCount: Int) -> Bool {
  let unshare = function("unshare", as: (@convention(c) (Int32) -> Int32).self)
  typealias Mount =
    @convention(c) (
      UnsafePointer<CChar>, UnsafePointer<CChar>, UnsafePointer<CChar>, UInt, UnsafeRawPointer?
    ) -> Int32
  let mount = function("mount", as: Mount.self)
  let newMounts: Int32 = 0x20000  // CLONE_NEWNS
  let privateBelow: UInt = 0x4000 | 0x40000  // MS_REC | MS_PRIVATE
  guard unshare(newMounts) == 0, mount("none", "/", "none", privateBelow, nil) == 0 else {
    say("skipped: no mounts of its own, errno \(errno)")
    return false
  }
  let isMounted = "size=\(byteCount)".withCString { mount("tmpfs", directory, "tmpfs", 0, $0) == 0 }
  if !isMounted { say("skipped: no mount, errno \(errno)") }
  return isMounted
}

/// Fills a file system of 8 MiB with a pool, and tries to create another.
func diskFull(_ arguments: [String]) throws {
  let directory = arguments[0]
  guard mountSmallFileSystem(directory, byteCount: 8 << 20) else { return }
  let path = "\(directory)/a.pool"
  let pool = try Pool.create(path, byteCount: 64 << 20)
  let kept = try pool.section { _ in
    let kept = try pool.allocate(UInt64.self)
    kept.pointee = 1
    return kept
  }
  let blocks = fillDisk(pool)
  say("left \(pool.checkHeap().blocks.count == blocks + 1)")
  try pool.section { _ in kept.pointee = 2 }
  try pool.section { _ in try pool.deallocate(try pool.allocate(byteCount: 100)) }
  say("usable \(pool.checkHeap().isConsistent)")
  try pool.close()

  fillRest("\(directory)/rest")
  do throws(PoolError) {
    _ = try Pool.create("\(directory)/b.pool", byteCount: 1 << 20)
    say("create nothing")
  } catch {
    say("create \(caseName(error)) exists \(access("\(directory)/b.pool", F_OK) == 0)")
  }
}

/// Sections of half a mebibyte until one fails. Returns how many did not.
private func fillDisk(_ pool: Pool) -> Int {
  for count in 0... {
    do {
      try pool.section { _ in
        let block = try pool.allocate(byteCount: 512 << 10)
        memset(block, 1, 512 << 10)
      }
    } catch {
      if case PoolError.diskFull(_, let needed) = error { say("section diskFull \(needed)") }
      return count
    }
  }
  return 0
}

func fillRest(_ path: String) {
  let descriptor = open(path, O_WRONLY | O_CREAT, 0o600)
  let page = [UInt8](repeating: 1, count: 4096)
  while write(descriptor, page, page.count) > 0 {}
  close(descriptor)
}

// MARK: Children

// Swift marks it unavailable, with good reason: these children do little and end by _exit.
private let fork = function("fork", as: (@convention(c) () -> Int32).self)

private func waitForChild(_ child: Int32) {
  var status: Int32 = 0
  waitpid(child, &status, 0)
  say("signal \(status & 127)")
}

/// A child that tries a section, then looks at pool memory.
func forkChild(_ arguments: [String]) throws {
  let pool = try Pool.open(arguments[0])
  let child = fork()
  if child == 0 {
    sayError("pstart") { () throws(PoolError) in try pool.pstart() }
    sayError("checkpoint") { () throws(PoolError) in try pool.checkpoint() }
    sayError("close") { () throws(PoolError) in try pool.close() }
    say("read \(pool.base.load(as: UInt8.self))")
    _exit(0)
  }
  waitForChild(child)
  try pool.section { section in
    try pool.root("number", in: &section) { UInt64(0) }.pointee = 77
  }
}

/// A child of a process whose section is open.
func forkInSection(_ arguments: [String]) throws {
  let pool = try Pool.open(arguments[0])
  try pool.section { section in
    let number = try pool.root("number", in: &section) { UInt64(0) }
    number.pointee = 88
    let child = fork()
    if child == 0 {
      sayError("pstart") { () throws(PoolError) in try pool.pstart() }
      sayError("pcommit") { () throws(PoolError) in try pool.pcommit() }
      sayError("pabort") { () throws(PoolError) in try pool.pabort() }
      sayError("pend") { () throws(PoolError) in try pool.pend() }
      sayError("pend again") { () throws(PoolError) in try pool.pend() }
      _exit(0)
    }
    waitForChild(child)
  }
}

/// Ends at once, without closing the pool, and leaves a child that lives until someone opens the
/// FIFO for writing, at most a minute.
func forkAndLeave(_ arguments: [String]) throws {
  let pool = try Pool.open(arguments[0])
  let child = fork()
  if child == 0 {
    for descriptor in 0..<3 as Range<Int32> { close(descriptor) }
    alarm(60)
    var byte: UInt8 = 0
    _ = read(open(arguments[1], O_RDONLY), &byte, 1)
    _exit(0)
  }
  say("\(child)")
  withExtendedLifetime(pool) { _exit(0) }
}

/// A child of a process whose section is open makes a pool of its own.
func forkInSectionForAnother(_ arguments: [String]) throws {
  let pool = try Pool.create(arguments[0], byteCount: 1 << 20)
  try pool.pstart()
  let child = fork()
  if child == 0 {
    let path = arguments[0] + ".child"
    sayError("child") { () throws(PoolError) in
      let own = try Pool.create(path, byteCount: 1 << 20)
      try own.pstart()
      _ = try own.allocate(byteCount: 100)
      try own.pend()
      try own.close()
    }
    unlink(path)
    _exit(0)
  }
  waitForChild(child)
  sayError("parent") { () throws(PoolError) in try pool.pend() }
}
