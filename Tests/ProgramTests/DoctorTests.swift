import Foundation
import TestSupport
import Testing

/// `volip doctor`: its JSON is an interface.
@Suite struct DoctorTests {
  private func findings(_ environment: [String: String] = [:]) async throws
    -> (status: Int32, keys: [String: Any])
  {
    let outcome = try await Helper.run("volip", ["doctor", "--json"], environment: environment)
    let parsed = try JSONSerialization.jsonObject(with: Data(outcome.output.utf8))
    let keys = try #require(parsed as? [String: Any])
    guard case .exited(let status) = outcome.status else {
      Issue.record("\(outcome)")
      return (-1, keys)
    }
    return (status, keys)
  }

  @Test(.guest) func allKeysAreThereWhereGuestModeWorks() async throws {
    let (status, keys) = try await findings()
    #expect(status == 0)
    #expect(keys["format"] as? Int == 1 && keys["kvm"] as? Bool == true)
    let level = try #require(keys["syscallCpl"] as? Int)
    #expect(keys["virtualization"] as? String == (level == 3 ? "shadow-paging" : "hardware"))
    #expect(try #require(keys["physBits"] as? Int) >= 36)
    #expect(try #require(keys["exitNs"] as? Int) > 100)
    #expect(try #require(keys["forwardedCallNs"] as? Int) > 100)
    #expect(["companion", "exit"].contains(keys["forwardPath"] as? String))
    #expect(keys["tracker"] as? String == "adaptive")
    let writes = try #require(keys["firstWriteNs"] as? [String: Int])
    for tracker in ["dirty-bits", "detect-on-write", "dirty-log"] {
      #expect(try #require(writes[tracker]) > 0)
    }
  }

  @Test func withoutADeviceItSaysWhatToDo() async throws {
    let (status, keys) = try await findings(["VOLIP_KVM_DEVICE": "/nowhere"])
    #expect(status == 5)
    #expect(keys["kvm"] as? Bool == false && keys["virtualization"] as? String == "none")
    #expect(try #require(keys["problem"] as? String).contains("modprobe"))
    #expect(keys["exitNs"] is NSNull && keys["forwardPath"] as? String == "none")
    let table = try await Helper.run("volip", ["doctor"], environment: ["VOLIP_KVM_DEVICE": "/no"])
    #expect(table.output.hasPrefix("guest mode      /dev/kvm does not exist."))
    #expect(table.status == .exited(5))
  }
}
