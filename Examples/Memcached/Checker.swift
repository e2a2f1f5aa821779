// Numbered items: what was sent, what was acknowledged, and what is there after a kill.

import Glibc

/// Each key has versions that only rise; the value says key and version all over.
struct Checker {
  let keyCount: Int
  private var issued: [Int]
  private var acknowledged: [Int]
  /// When each acknowledgement arrived, microseconds.
  private var times: [Int]
  private(set) var lost = 0
  private(set) var wrong = 0
  private(set) var acknowledgedCount = 0
  /// Of the lost ones, between acknowledgement and kill; microseconds.
  private(set) var oldestLost = 0
  private(set) var complaints: [String] = []

  init(keyCount: Int) {
    self.keyCount = keyCount
    issued = .init(repeating: 0, count: keyCount)
    acknowledged = issued
    times = issued
  }

  static func key(_ index: Int) -> String { "item-\(index)" }

  /// 20 to 8,000 bytes, by the key: small classes of slabs and large ones.
  static func value(_ index: Int, version: Int) -> [UInt8] {
    let count = [20, 100, 300, 1000, 8000][index % 5]
    let word = Array("\(index):\(version);".utf8)
    return (0..<count).map { word[$0 % word.count] }
  }

  /// Writes random keys, `depth` requests ahead of their answers, until `end`; kills; then reads
  /// what was answered before.
  mutating func run(
    _ server: Server, _ client: Client, depth: Int, until end: Int,
    using generator: inout some RandomNumberGenerator
  ) throws {
    var waiting: [Int] = []
    while now() < end {
      while waiting.count < depth {
        let index = Int.random(in: 0..<keyCount, using: &generator)
        issued[index] += 1
        waiting.append(index)
        let value = Self.value(index, version: issued[index])
        guard client.send(Client.setRequest(Self.key(index), value)) else {
          throw Failure(description: "memcached is gone by itself; \(server.logText())")
        }
      }
      try takeAnswer(client, &waiting)
    }
    let killed = now()
    kill(server.process, SIGKILL)
    // What it had said by then counts; versions behind the first one of a key rise in order.
    while !waiting.isEmpty, (try? takeAnswer(client, &waiting)) != nil {}
    for index in 0..<keyCount { times[index] = killed - times[index] }
    try server.killNow()
  }

  /// Of a key's requests on their way the oldest is answered first.
  private mutating func takeAnswer(_ client: Client, _ waiting: inout [Int]) throws {
    guard let answer = client.line() else { throw Failure(description: "no answer") }
    guard answer == "STORED" else { throw Failure(description: "answer \(answer)") }
    let index = waiting.removeFirst()
    let later = waiting.count { $0 == index }
    acknowledged[index] = issued[index] - later
    times[index] = now()
    acknowledgedCount += 1
  }

  /// Compares every key with what it may be, 50 at a time.
  mutating func check(_ client: Client, afterKill number: Int) throws {
    for first in stride(from: 0, to: keyCount, by: 50) {
      let indexes = first..<min(first + 50, keyCount)
      let values = try client.get(indexes.map(Self.key))
      for (index, value) in zip(indexes, values) { judge(index, value, afterKill: number) }
    }
  }

  private mutating func judge(_ index: Int, _ value: [UInt8]?, afterKill number: Int) {
    let version = value.flatMap { Self.version(of: $0, index) }
    if value != nil, version == nil || version! > issued[index] {
      wrong += 1
      complaints.append("kill \(number): item \(index) is wrong")
      return
    }
    let found = version ?? 0
    if found < acknowledged[index] {
      lost += 1
      oldestLost = max(oldestLost, times[index])
      complaints.append(
        "kill \(number): item \(index) is \(found), acknowledged was \(acknowledged[index])")
    }
    acknowledged[index] = found
  }

  /// The version that a value says, if all of its bytes do.
  private static func version(of bytes: [UInt8], _ index: Int) -> Int? {
    let text = String(decoding: bytes.prefix { $0 != 59 }, as: UTF8.self)
    let words = text.split(separator: ":")
    guard words.count == 2, Int(words[0]) == index, let version = Int(words[1]),
      value(index, version: version) == bytes
    else { return nil }
    return version
  }
}
