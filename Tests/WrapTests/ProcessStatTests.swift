import Foundation
import TestSupport
import Testing

/// `volip stat PID`: the epochs of a wrapped program that runs.
@Suite struct ProcessStatTests {
  /// Runs a program until its counts are there, prints them as JSON and as text, and kills it.
  private static let script = """
    volip=$1 program=$2 file=$3; shift 3
    "$volip" run "$@" -- "$program" changes "$file" 60000000 > /dev/null & process=$!
    until "$volip" stat $process --interval 0.3 --json 2> /dev/null | grep '"epochs":[0-9][0-9]'
    do kill -0 $process || exit 1; done
    "$volip" stat $process --interval 0.1
    kill -KILL $process; wait $process
    "$volip" stat $process --interval 0.1; echo $?
    """

  @Test(arguments: Place.all)
  func countsAreThoseOfTheEpochs(_ place: Place) async throws {
    let wrapped = Wrapped(place: place)
    let answer = try await Helper.runPath(
      "/bin/sh",
      ["-c", Self.script, "sh", Helper.productDirectory + "/volip", Wrapped.program, wrapped.file]
        + place.options + wrapped.options, environment: ["VOLIP_PERSISTENCE": "cache-line"])
    let lines = answer.output.split(separator: "\n")
    try #require(lines.count == 4 && lines[3] == "1", "\(answer)")
    #expect(lines[1].contains(" epochs/s") && lines[2].hasPrefix("commits < "))
    let object = try #require(
      try JSONSerialization.jsonObject(with: Data(lines[0].utf8)) as? [String: Any])
    let count = { (name: String) in object[name] as? Int ?? 0 }
    // Both threads change two words in two pages.
    #expect(count("epochs") >= 10 && count("pages") >= count("epochs") - count("empty"))
    #expect(count("lines") > 0 && count("lines") <= 2 * count("pages"), "\(object)")
    #expect((count("exits") > 0) == (place == .guest))
    let times = object["times"] as? [[String: Int]] ?? []
    #expect(times.reduce(0) { $0 + ($1["epochs"] ?? 0) } == count("epochs"))
    #expect(object["epochsPerSecond"] as? Double ?? 0 > 0)
  }

  @Test func aProcessThatWrapsNothingIsNamed() async throws {
    let answer = try await Helper.run("volip", ["stat", "\(getpid())"])
    #expect(answer.status == .exited(1) && answer.errors.contains("no wrapped program"))
  }
}
