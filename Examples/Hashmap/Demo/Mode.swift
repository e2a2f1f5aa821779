// Mode: whether the worker is a virtual machine, and who decides that.

import ArgumentParser
import VolipMem

enum Mode: String, CaseIterable, ExpressibleByArgument {
  case host
  case guest

  /// Guest mode wherever /dev/kvm can be opened; elsewhere the host, and a word on how to get it.
  static func chosen(isHostAsked: Bool) -> Mode {
    if isHostAsked { return .host }
    do throws(MachineError) {
      try VirtualMachine.checkDevice()
      return .guest
    } catch {
      printError("hashmap-demo: on the host, without guest mode: \(error)")
      return .host
    }
  }

  /// That of the calling process.
  static var current: Mode { VirtualMachine.isEntered ? .guest : .host }

  var trackers: [TrackerKind] {
    switch self {
    case .host: TrackerKind.hostKinds
    case .guest: TrackerKind.guestKinds
    }
  }
}
