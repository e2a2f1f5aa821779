import Foundation
import TestSupport
import Testing
import VolipMem

/// `volip stat`: what a program publishes.
@Suite struct StatTests {
  let directory = TemporaryDirectory()

  @Test func countsAreThoseOfTheProgram() async throws {
    let path = directory.file("counts.pool")
    let pool = try Pool.create(path, byteCount: 4 << 20, options: .test())
    for number in 0..<10 {
      try pool.section { section in
        try pool.root("n", in: &section) { 0 }.pointee = number + 1
      }
    }
    let object = try await Tool.run("stat", path, "--json", "--interval", "0.01").json()
    let statistics = try pool.statistics()
    #expect(object["sections"] as? Int == statistics.committed && statistics.committed > 10)
    #expect(object["process"] as? Int == Int(getpid()))
    #expect(object["tracker"] as? String == pool.tracker.rawValue)
    #expect(object["sectionsPerSecond"] as? Double == 0)
    #expect(object["logBytes"] as? Int == 128 << 10)
    #expect(try #require(object["logUsedBytes"] as? Int) > 64 * 10)
    try pool.close()
    #expect(try await Tool.run("stat", path).status == 1)
  }

  @Test func ratesAreThoseOfTheMoment() async throws {
    let path = directory.file("bank.pool")
    #expect(try await Helper.run("volip-test-helper", ["make-bank", path]).status == .exited(0))
    try await Tool.whileWriting(["transfer", path, TrackerKind.pageMapScan.rawValue]) {
      try await Tool.wait(for: path, sections: 50)
      let answer = try await Tool.run("stat", path, "--interval", "0.2", "--samples", "3", "--json")
      let lines = answer.output.split(separator: "\n")
      #expect(lines.count == 3)
      let first = try JSONSerialization.jsonObject(with: Data(lines[0].utf8)) as? [String: Any]
      #expect(try #require(first?["sectionsPerSecond"] as? Double) > 1)
      #expect(try #require(first?["linesPerSecond"] as? Double) > 1)
      let text = try await Tool.run("stat", path, "--interval", "0.1")
      #expect(text.output.contains("sections/s") && text.output.contains("page-map-scan"))
    }
    #expect(try await Tool.run("stat", path).status == 1)
  }

  /// Another process's counts, or what anybody wrote there, stop nothing.
  @Test func anyNumbersAreShown() async throws {
    let path = directory.file("numbers.pool")
    let pool = try Pool.create(path, byteCount: 1 << 20, options: .test())
    let generation = FileBytes.read(path)[104..<112]
    FileBytes.write(Array(repeating: 0xFF, count: 120), to: path, at: 2056)
    FileBytes.write(Array(generation), to: path, at: 2064)
    for option in [[], ["--json"]] {
      let answer = try await Tool.run(["stat", path, "--interval", "0.01"] + option)
      #expect(answer.status == 0, "\(answer)")
    }
    FileBytes.write([0xEE], to: path, at: 2064)
    #expect(try await Tool.run("stat", path).status == 1)
    try pool.close()
  }

  @Test func aSignalThatEndsItIsSeen() async throws {
    let path = directory.file("signal.pool")
    let pool = try Pool.create(path, byteCount: 1 << 20, options: .test())
    let command = Helper.productDirectory + "/volip"
    let script = "\"$0\" stat \"$1\" --interval 60 & kill -TERM $!; wait $!; echo $?"
    let answer = try await Helper.runPath("/bin/sh", ["-c", script, command, path])
    #expect(answer.output == "143\n", "\(answer)")
    try pool.close()
  }
}
