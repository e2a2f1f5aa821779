import Glibc
import TestSupport
import Testing

/// Faults in guest mode: one clear message, and the end that the process would have had natively.
@Suite(.guest) struct GuestFaultTests {
  struct Fault: Sendable, CustomTestStringConvertible {
    let kind: String
    /// What the message begins with; nil where the signal is not one of a fault.
    let message: String?
    /// Whether it names the address that the helper printed.
    var namesAddress = true

    var testDescription: String { kind }
  }

  static let faults: [Fault] = [
    Fault(kind: "null", message: "SIGSEGV, write to address 0x8 by"),
    Fault(kind: "null-read", message: "SIGSEGV, read of address 0x10 by"),
    Fault(kind: "null-call", message: "SIGSEGV, fetch from address 0x0 by", namesAddress: false),
    Fault(kind: "read-only", message: "SIGSEGV, write to address"),
    Fault(kind: "no-access", message: "SIGSEGV, read of address"),
    Fault(kind: "beyond-file", message: "SIGBUS, write to address"),
    Fault(kind: "unused-terabyte", message: "SIGSEGV, write to address 0x123456789000 by"),
    // The processor does not say which address.
    Fault(kind: "not-canonical", message: "SIGSEGV", namesAddress: false),
    Fault(kind: "swift-trap", message: "SIGILL at the instruction at", namesAddress: false),
    Fault(kind: "illegal", message: "SIGILL at the instruction at"),
    Fault(kind: "divide", message: "SIGFPE at the instruction at", namesAddress: false),
    Fault(kind: "breakpoint", message: "SIGTRAP at the instruction at"),
    Fault(kind: "privileged", message: "SIGSEGV"),
    Fault(kind: "stack", message: "SIGSEGV, write to address", namesAddress: false),
    Fault(kind: "abort", message: nil, namesAddress: false),
    Fault(kind: "thread", message: "SIGSEGV, write to address 0x8 by"),
    Fault(kind: "pool", message: "SIGSEGV, write to address"),
  ]

  let directory = TemporaryDirectory()

  private func run(_ fault: Fault, _ environment: [String: String]) async throws -> Helper.Outcome {
    try await Helper.run(
      "volip-test-helper",
      [
        "guest-fault", fault.kind,
        directory.file("\(environment.count)-\(environment["VOLIP_PHYS_BITS"] ?? "")"),
      ],
      environment: environment)
  }

  @Test(arguments: faults, Guest.physicalBits)
  func aFaultEndsTheProcessAsItWouldNatively(_ fault: Fault, bits: Int) async throws {
    let native = try await run(fault, ["SWIFT_BACKTRACE": "enable=no"])
    let guest = try await run(fault, Guest.environment(bits))
    #expect(guest.status == native.status)
    #expect(!guest.output.contains("still here") && !native.output.contains("still here"))
    let lines = guest.errors.split(separator: "\n").filter { $0.hasPrefix("volip: ") }
    guard let message = fault.message else {
      #expect(lines.isEmpty, "\(guest.errors)")
      return
    }
    #expect(lines.count == (fault.kind == "pool" ? 2 : 1), "\(guest.errors)")
    let line = try #require(lines.first, "\(guest.errors)")
    #expect(line.hasPrefix("volip: \(message)"), "\(line)")
    #expect(line.contains("the instruction at 0x"), "\(line)")
    // "address A thread T", as the helper printed it before the fault.
    let words = guest.output.split(whereSeparator: \.isWhitespace)
    guard words.count == 4 else {
      #expect(["swift-trap", "stack"].contains(fault.kind), "\(guest.output)")
      return
    }
    #expect(line.hasSuffix(", thread \(words[3])"), "\(line)")
    if fault.namesAddress { #expect(line.contains(" \(words[1])"), "\(line)") }
  }

  @Test func aFaultInAPoolSaysWhereInThePool() async throws {
    let fault = try #require(Self.faults.last)
    let guest = try await run(fault, Guest.environment(0))
    #expect(
      guest.errors.hasSuffix(
        "that is in a pool, at offset 0x3000000, beyond the memory that was allocated\n"))
  }
}
