import Foundation

func useFiles() throws {
  let manager = FileManager.default
  let directory = manager.temporaryDirectory.appending(path: "volip-test-\(getpid())")
  try manager.createDirectory(at: directory, withIntermediateDirectories: true)
  defer { try? manager.removeItem(at: directory) }
  let file = directory.appending(path: "text")
  let text = (0..<5000).map { "line \($0)" }.joined(separator: "\n")
  try text.write(to: file, atomically: true, encoding: .utf8)
  let back = try String(contentsOf: file, encoding: .utf8)
  print(
    "file", back == text, back.utf8.count, try manager.contentsOfDirectory(atPath: directory.path))
  let attributes = try manager.attributesOfItem(atPath: file.path)
  print("attributes", attributes[.size] as? Int ?? -1, attributes[.type] as? String ?? "")
  try manager.copyItem(at: file, to: directory.appending(path: "copy"))
  let handle = try FileHandle(forUpdating: directory.appending(path: "copy"))
  try handle.seek(toOffset: 5)
  try handle.write(contentsOf: Data("changed".utf8))
  try handle.seek(toOffset: 0)
  print("handle", String(decoding: try handle.read(upToCount: 20) ?? Data(), as: UTF8.self))
  try handle.close()
  let mapped = try Data(contentsOf: file, options: .mappedIfSafe)
  print("mapped", mapped.reduce(0) { $0 &+ Int($1) })
  print("missing", manager.fileExists(atPath: directory.appending(path: "none").path))
}

struct Person: Codable, Equatable {
  var name: String
  var age: Int
  var scores: [String: Double]
  var friends: [Person]
}

func useJSON() throws {
  let people = (0..<20).map { index in
    Person(
      name: "Åsa \(index)", age: index, scores: ["a": Double(index) / 3, "b": 1e-7],
      friends: [Person(name: "F", age: 1, scores: [:], friends: [])])
  }
  let encoder = JSONEncoder()
  encoder.outputFormatting = [.sortedKeys]
  let data = try encoder.encode(people)
  print("json", data.count, try JSONDecoder().decode([Person].self, from: data) == people)
  print(String(decoding: try encoder.encode(people[1]), as: UTF8.self))
  do {
    _ = try JSONDecoder().decode([Person].self, from: Data("{".utf8))
  } catch { print("json error", error is DecodingError) }
}

func useDates() {
  let date = Date(timeIntervalSince1970: 1_234_567_890)
  print("date", date.formatted(.iso8601))
  let formatter = DateFormatter()
  formatter.locale = Locale(identifier: "en_US_POSIX")
  formatter.timeZone = TimeZone(identifier: "Europe/Berlin")
  formatter.dateFormat = "EEEE, d MMMM yyyy HH:mm:ss zzz"
  print(formatter.string(from: date))
  let start = Date()
  let later = Date()
  print("clock", later >= start, abs(start.timeIntervalSinceNow) < 60)
}

func useProcesses() throws {
  let process = Process()
  process.executableURL = URL(filePath: "/bin/echo")
  process.arguments = ["from", "a", "child"]
  let pipe = Pipe()
  process.standardOutput = pipe
  try process.run()
  let output = try pipe.fileHandleForReading.readToEnd() ?? Data()
  process.waitUntilExit()
  print(
    "process", process.terminationStatus, String(decoding: output, as: UTF8.self), terminator: "")
  let failing = Process()
  failing.executableURL = URL(filePath: "/bin/sh")
  failing.arguments = ["-c", "exit 3"]
  try failing.run()
  failing.waitUntilExit()
  print("process", failing.terminationStatus)
}

func useText() {
  var counts: [String: Int] = [:]
  for index in 0..<20_000 { counts["word \(index * index % 977)", default: 0] += 1 }
  print("dictionary", counts.count, counts.values.max() ?? 0, counts["word 1"] ?? 0)
  let sorted = counts.sorted { ($0.value, $0.key) > ($1.value, $1.key) }.prefix(3)
  print(sorted.map { "\($0.key): \($0.value)" }.joined(separator: ", "))
  let text = String(repeating: "Grüße, 世界! ", count: 500)
  print(
    "text", text.count, text.utf8.count, text.uppercased().hasPrefix("GRÜSSE"),
    text.split(separator: " ").count)
  print("replaced", text.replacingOccurrences(of: "世界", with: "world").utf8.count)
  print("matches", text.matches(of: /[üß]+/).count)
  print(String(format: "%08.3f %x %@", 3.14159, 255, "formatted"))
}

func useNumbers() {
  var sum = 0.0
  for index in 1...100_000 { sum += sin(Double(index)) * sqrt(Double(index)) }
  print("sum", sum)
  var vector = SIMD8<Float>(repeating: 1)
  for _ in 0..<1000 { vector = vector * 1.001 + 0.5 }
  print("vector", vector.sum())
  print("decimal", Decimal(string: "0.1")! + Decimal(string: "0.2")!)
}
