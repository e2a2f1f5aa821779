import Glibc
import TestSupport
import Testing

/// Where wrapped programs run; the same tests for both.
enum Place: String, CaseIterable, CustomTestStringConvertible {
  case host
  case guest

  var options: [String] { self == .host ? ["--no-vm"] : [] }
  var testDescription: String { rawValue }

  /// Guest mode is skipped where there is no /dev/kvm.
  static var all: [Place] { access("/dev/kvm", R_OK | W_OK) == 0 ? allCases : [.host] }
}

/// A wrapped program of a test, in its own directory.
struct Wrapped {
  let directory = TemporaryDirectory()
  let place: Place
  var options = ["--pmap", "file"]
  var file: String { directory.file("file") }
  var pool: String { directory.file("file.pool") }
  static let program = Helper.productDirectory + "/volip-wrap-program"

  func run(_ arguments: [String]) async throws -> Helper.Outcome {
    let command = ["run"] + place.options + options + ["--", Self.program] + arguments
    return try await Helper.run(
      "volip", command, environment: ["VOLIP_PERSISTENCE": "cache-line"])
  }

  /// The words that the program finds in its file.
  func words(_ verb: String = "show", _ rest: [String] = []) async throws -> [Int] {
    let outcome = try await run([verb, file] + rest)
    #expect(outcome.status == .exited(0), "\(outcome.errors)")
    return outcome.output.split(separator: "\n").compactMap { Int($0) }
  }

  /// The file's bytes, as `volip extract` writes them.
  func bytes() async throws -> [UInt8] {
    let target = directory.file("extracted")
    let outcome = try await Helper.run("volip", ["extract", pool, target])
    #expect(outcome.status == .exited(0), "\(outcome.errors)")
    return FileBytes.read(target)
  }
}
