import Foundation
import VolipMem

// A child of a process in the guest, and what it does then.

private let fork = function("fork", as: (@convention(c) () -> Int32).self)

/// Descriptors and mappings of virtual machines that this process has.
private func machineCount() throws -> Int {
  let manager = FileManager.default
  let directory = "/proc/self/fd/"
  let descriptors = try manager.contentsOfDirectory(atPath: directory).count {
    (try? manager.destinationOfSymbolicLink(atPath: directory + $0))?.contains("kvm") ?? false
  }
  let maps = try String(contentsOfFile: "/proc/self/maps", encoding: .utf8)
  return descriptors + maps.split(separator: "\n").count { $0.contains("kvm") }
}

/// A pool with sections on threads; then a child that has nothing of this one's machine, enters one
/// of its own and does the same.
private func live(_ generation: Int, _ directory: String) throws {
  let pool = try Pool.create("\(directory)/\(generation).pool", byteCount: 1 << 20)
  nonisolated(unsafe) let number = try pool.section { try pool.root("n", in: &$0) { 0 } }
  let count = {
    onThreads(4) { _ in for _ in 0..<25 { try? pool.section { _ in number.pointee += 1 } } }
  }
  count()
  if generation < 2 {
    let child = fork()
    if child == 0 {
      say("generation \(generation + 1) guest \(VirtualMachine.isEntered) of \(try machineCount())")
      try VirtualMachine.enter()
      try live(generation + 1, directory)
      _exit(0)
    }
    var status: Int32 = 0
    waitpid(child, &status, 0)
    say("ended \(status >> 8) by \(status & 127)")
  }
  count()
  say("generation \(generation) counted \(number.pointee) guest \(VirtualMachine.isEntered)")
  try pool.close()
}

/// guest-child-enters DIRECTORY
func guestChildEnters(_ arguments: [String]) throws { try live(0, arguments[0]) }
