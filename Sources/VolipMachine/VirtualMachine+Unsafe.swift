// VirtualMachine: this process as a virtual machine. Policy; the mechanism is CVolimem's.

@_exported import VolipPool

import CVolimem
import Glibc

public enum VirtualMachine {
  /// Test switch: `VOLIP_PHYS_BITS=39` uses no more physical address bits than that.
  public static let physicalBitsSwitch = "VOLIP_PHYS_BITS"
  /// Test switch: `VOLIP_KVM_DEVICE=/nowhere` opens that file in place of /dev/kvm.
  public static let deviceSwitch = "VOLIP_KVM_DEVICE"
  /// `VOLIP_TRACE=syscalls,faults,exits` writes a line for each on standard error, and `counts` one
  /// at the end: strace and gdb do not see into the guest.
  public static let traceSwitch = "VOLIP_TRACE"

  /// `VOLIP_SYSCALLS=exit`: how system calls are made, a name of `CallPath`.
  public static let callPathSwitch = "VOLIP_SYSCALLS"

  /// How the guest's system calls are made.
  public enum CallPath: String, CaseIterable, Sendable {
    /// By a thread on the host beside the guest where that is right and a processor is to spare.
    case auto
    /// By that thread wherever it is right.
    case companion
    /// By the calling thread, which leaves the guest for each.
    case exit
  }

  public struct Facts: Equatable, Sendable {
    public let physicalBits: Int
    /// Whether guest-physical addresses are the virtual ones.
    public let isIdentityMapped: Bool
    /// Privilege level at which system calls arrive: 3 under shadow paging, 0 on processors.
    public let callLevel: Int
    public let memorySlots: Int
    /// Of which KVM logs what the guest writes, for the tracker `dirty-log`.
    public let loggedSlots: Int
    public let tablePages: Int
    public let virtualProcessors: Int
    /// System calls that needed no exit.
    public let companionCalls: Int
  }

  /// Continues this process in guest mode: from here on every thread is a virtual processor and the
  /// page table belongs to the process. To be called by the first thread before others exist, and
  /// before pools are opened.
  public static func enter() throws(MachineError) {
    guard !isEntered else { throw .alreadyEntered }
    let pools = PoolFile.openCount
    guard pools == 0 else { throw .poolsAreOpen(count: pools) }
    let others = otherThreads()
    guard others == 0 else { throw .otherThreads(count: others) }
    var failure = cvm_failure()
    var options = environmentOptions()
    guard !cvm_enter(&options, &failure) else { return }
    let operation = String(cString: failure.operation)
    switch failure.stage {
    case CVM_ENTERED: throw .alreadyEntered
    case CVM_OPEN: throw .noDevice(errorNumber: failure.error_number)
    case CVM_ADDRESSES: throw .addressesExhausted
    default: throw .unsupported(operation: operation, errorNumber: failure.error_number)
    }
  }

  /// Throws why /dev/kvm cannot be opened, if it cannot. Changes nothing: for programs that decide
  /// for others whether they enter.
  public static func checkDevice() throws(MachineError) {
    let device = open(environment(deviceSwitch) ?? "/dev/kvm", O_RDWR | O_CLOEXEC)
    guard device >= 0 else { throw .noDevice(errorNumber: errno) }
    close(device)
  }

  /// Whether the calling thread runs in the guest: all threads of a process that entered do, its
  /// children do not.
  public static var isEntered: Bool { cvm_is_guest() }

  /// Exits that the calling thread has made so far.
  public static var exits: UInt64 { cvm_exits() }

  /// Exits of all threads so far; 0 on the host.
  public static var allExits: UInt64 { cvm_all_exits() }

  /// Leaves the guest and comes back: for measurements.
  public static func exitOnce() { cvm_exit_once() }

  /// Makes the machine itself leave for a hypervisor below it, if there is one: for measurements.
  public static func machineExit() { cvm_machine_exit() }

  /// Flushes this thread's translations as if entries had lost rights: for measurements.
  public static func flush() {
    cvm_raise_flush_generation()
    cvm_flush_self()
  }

  public static var facts: Facts {
    let facts = cvm_facts()
    return Facts(
      physicalBits: Int(facts.phys_bits), isIdentityMapped: facts.identity,
      callLevel: Int(facts.call_cpl), memorySlots: Int(facts.slots),
      loggedSlots: Int(facts.logged_slots), tablePages: Int(facts.table_pages),
      virtualProcessors: Int(facts.vcpus),
      companionCalls: Int(facts.companion_calls))
  }

  private static func environmentOptions() -> cvm_options {
    let traced = Set(environment(traceSwitch)?.split(separator: ",").map(String.init) ?? [])
    return cvm_options(
      // SAFETY: the environment stays as it is until cvm_enter has returned.
      device: UnsafePointer(getenv(deviceSwitch)),
      calls: callPath,
      phys_bits_max: Int32(environment(physicalBitsSwitch) ?? "") ?? 0,
      trace_calls: traced.contains("syscalls"), trace_faults: traced.contains("faults"),
      trace_exits: traced.contains("exits"), trace_counts: traced.contains("counts"),
      tracked_base: AddressMap.poolRange.lowerBound,
      tracked_bytes: UInt64(AddressMap.poolRange.count))
  }

  private static var callPath: cvm_calls {
    switch environment(callPathSwitch).flatMap(CallPath.init) {
    case .exit: CVM_CALLS_EXIT
    case .companion: CVM_CALLS_COMPANION
    case .auto, nil: CVM_CALLS_AUTO
    }
  }

  private static func environment(_ name: String) -> String? {
    // SAFETY: the C string is copied at once.
    getenv(name).map { String(cString: $0) }
  }

  private static func otherThreads() -> Int {
    guard let directory = opendir("/proc/self/task") else { return 0 }
    defer { closedir(directory) }
    var count = 0
    // SAFETY: readdir's entry stays valid until the next call.
    while let entry = readdir(directory) {
      if entry.pointee.d_name.0 != CChar(UInt8(ascii: ".")) { count += 1 }
    }
    return max(count - 1, 0)
  }
}
