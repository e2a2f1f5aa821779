import Foundation
import Synchronization
import VolipMem

/// The program's own SIGSEGV handler: says which address, and ends the process.
private func installOwnHandler() {
  var action = sigaction()
  action.__sigaction_handler.sa_sigaction = { _, information, _ in
    var address = UInt(bitPattern: information!.pointee._sifields._sigfault.si_addr)
    var line: [UInt8] = Array("own handler 0x".utf8)
    var digits: [UInt8] = []
    repeat {
      digits.append(Array("0123456789abcdef".utf8)[Int(address % 16)])
      address /= 16
    } while address > 0
    line += digits.reversed() + [10]
    write(1, line, line.count)
    _exit(7)
  }
  action.sa_flags = SA_SIGINFO
  sigaction(SIGSEGV, &action, nil)
}

/// Sections with the write-protect tracker beside a SIGSEGV handler of the program, installed
/// before or after the pool was opened; then a fault that is the program's own.
func ownHandler(_ arguments: [String]) throws {
  if arguments[1] == "before" { installOwnHandler() }
  var options = Pool.Options()
  options.engine.tracker = .writeProtect
  let pool = try Pool.create(arguments[0], byteCount: 1 << 20, options: options)
  if arguments[1] == "after" { installOwnHandler() }
  let number = try pool.section { section in try pool.root("n", in: &section) { 1 } }
  for _ in 0..<10 { try pool.section { _ in number.pointee += 1 } }
  print("counted \(number.pointee)")
  fflush(nil)
  UnsafeMutablePointer<UInt8>(bitPattern: 0x123)!.pointee = 1
}

/// Writes to pool memory between two sections with the write-protect tracker.
func strayStore(_ arguments: [String]) throws {
  var options = Pool.Options()
  options.engine.tracker = .writeProtect
  let pool = try Pool.create(arguments[0], byteCount: 1 << 20, options: options)
  let number = try pool.section { section in try pool.root("n", in: &section) { 1 } }
  print("offset \(UnsafeRawPointer(number) - pool.base)")
  fflush(nil)
  number.pointee = 2
  print("not reached")
}

/// Whether the sender below has sent its last signal.
private let isSent = Atomic(false)

/// guest-ignored-signals: changes between a handler and SIG_IGN while signals arrive.
func guestIgnoredSignals(_ arguments: [String]) throws {
  signal(SIGUSR1, SIG_IGN)
  let main = pthread_self()
  let sender = Thread {
    for _ in 0..<2000 { pthread_kill(main, SIGUSR1) }
    isSent.store(true, ordering: .sequentiallyConsistent)
  }
  sender.start()
  while !isSent.load(ordering: .sequentiallyConsistent) {
    signal(SIGUSR1) { _ in }
    signal(SIGUSR1, SIG_IGN)
  }
  print("ignored")
}
