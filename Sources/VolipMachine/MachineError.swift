/// Why this process cannot become a virtual machine. It goes on as it was.
public enum MachineError: Error, Equatable, Sendable {
  /// /dev/kvm cannot be opened.
  case noDevice(errorNumber: Int32)
  /// The kernel or the processor lacks something, named by the operation that failed.
  case unsupported(operation: String, errorNumber: Int32)
  /// More address space is in use than there are guest-physical addresses for it.
  case addressesExhausted
  /// Threads exist already: all of a process is in the guest or nothing.
  case otherThreads(count: Int)
  /// Pools are open: they would go on with a tracker for the host.
  case poolsAreOpen(count: Int)
  case alreadyEntered
}

extension MachineError: CustomStringConvertible {
  public var description: String {
    switch self {
    case .noDevice(let errorNumber) where errorNumber == 2:
      """
      /dev/kvm does not exist. It needs a processor with virtualization, not switched off in the \
      firmware, and the kernel's kvm module (modprobe kvm_intel or kvm_amd); in a virtual machine, \
      nested virtualization; in a container, --device /dev/kvm.
      """
    case .noDevice(let errorNumber) where errorNumber == 13 || errorNumber == 1:
      """
      /dev/kvm may not be opened by this user: add the user to the group of the device, usually \
      kvm, and log in again.
      """
    case .noDevice(let errorNumber):
      "/dev/kvm could not be opened: errno \(errorNumber)."
    case .unsupported(let operation, let errorNumber):
      "Guest mode does not work on this machine: \(operation), errno \(errorNumber)."
    case .addressesExhausted:
      "This process uses more address space than the processor has guest-physical addresses."
    case .otherThreads(let count):
      "Guest mode is entered by the first thread, before others exist; there are \(count) others."
    case .poolsAreOpen(let count):
      "Guest mode is entered before pools are opened; \(count) are open."
    case .alreadyEntered:
      "This process is in guest mode already."
    }
  }
}
