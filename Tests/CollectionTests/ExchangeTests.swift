import Foundation
import TestSupport
import Testing
import VolipMem

/// A value of several kinds, as JSON has them: an enum with persistent values in it.
enum Json: ~Copyable, Exchangeable {
  case null
  case number(Double)
  case text(PersistentString)
  case list(PersistentArray<Json>)
  case object(PersistentDictionary<PersistentString, Json>)

  func destroy(in section: inout VolipMem.Section) throws(PoolError) {
    switch self {
    case .null: break
    case .number: break
    case .text(let text): try text.destroy(in: &section)
    case .list(let list): try list.destroy(in: &section)
    case .object(let object): try object.destroy(in: &section)
    }
  }

  func copy(in section: inout VolipMem.Section) throws(PoolError) -> Json {
    switch self {
    case .null: .null
    case .number(let number): .number(number)
    case .text(let text): .text(try text.copy(in: &section))
    case .list(let list): .list(try list.copy(in: &section))
    case .object(let object): .object(try object.copy(in: &section))
    }
  }

  /// Its own name inside: the type contains itself.
  static var layout: String { "Json{null,number,text,list,object}" }

  /// The same outside of a pool.
  indirect enum Plain: Hashable, Codable {
    case null
    case number(Double)
    case text(String)
    case list([Plain])
    case object([String: Plain])
  }

  var exported: Plain {
    switch self {
    case .null: .null
    case .number(let number): .number(number)
    case .text(let text): .text(text.exported)
    case .list(let list): .list(list.exported)
    case .object(let object): .object(object.exported)
    }
  }

  init(importing plain: Plain, in section: inout VolipMem.Section) throws(PoolError) {
    self =
      switch plain {
      case .null: .null
      case .number(let number): .number(number)
      case .text(let text): .text(try PersistentString(text, in: &section))
      case .list(let list): .list(try PersistentArray(importing: list, in: &section))
      case .object(let object): .object(try PersistentDictionary(importing: object, in: &section))
      }
  }
}

@Suite struct ExchangeTests {
  /// A decoder that JSONDecoder made: what it decodes goes into a pool.
  private struct Import<Value: Exchangeable & ~Copyable>: Decodable
  where Value.Exported: Decodable {
    let decoder: any Decoder
    init(from decoder: any Decoder) throws { self.decoder = decoder }
  }

  /// Imports, exports, encodes and decodes a value, and frees it all.
  private func expectRoundTrip<T: Exchangeable & ~Copyable>(
    _ type: T.Type, _ plain: T.Exported, sourceLocation: SourceLocation = #_sourceLocation
  ) throws where T.Exported: Codable & Equatable {
    let test = try CollectionPool()
    try test.pool.section { section in
      let value = try Ref(T(importing: plain, in: &section), in: &section)
      #expect(value.value.exported == plain, sourceLocation: sourceLocation)
      let bytes = try JSONEncoder().encode(value)
      // Sets and dictionaries have no order.
      let again = try JSONDecoder().decode(T.Exported.self, from: bytes)
      #expect(again == plain, sourceLocation: sourceLocation)
      let source = try JSONDecoder().decode(Import<T>.self, from: bytes)
      let second = try T(from: source.decoder, in: &section)
      #expect(second.exported == plain, sourceLocation: sourceLocation)
      let third = try second.copy(in: &section)
      try second.destroy(in: &section)
      #expect(third.exported == plain, sourceLocation: sourceLocation)
      try value.free(in: &section)
      try third.destroy(in: &section)
    }
    test.expectNoLeaks(besideRoots: 0)
  }

  @Test func everyCollectionIsExportedAndImportedAsTheOrdinaryTypes() throws {
    try expectRoundTrip(PersistentString.self, "text, über 16 Bytes")
    try expectRoundTrip(PersistentArray<Int>.self, [3, 1, 2])
    try expectRoundTrip(PersistentDeque<Double>.self, [3.5, 1, 2])
    try expectRoundTrip(PersistentSet<UInt8>.self, [3, 1, 2])
    try expectRoundTrip(PersistentDictionary<Int, Bool>.self, [5: true, 6: false])
    try expectRoundTrip(PersistentSortedDictionary<Int, Int>.self, [5: 1, 6: 2])
    try expectRoundTrip(Int?.self, 5)
  }

  @Test func nestedCollectionsAreExportedAndImportedToAnyDepth() throws {
    try expectRoundTrip(
      PersistentArray<PersistentString>.self, ["", "a", "b and more than inside"])
    try expectRoundTrip(
      PersistentDictionary<PersistentString, PersistentArray<PersistentDeque<Int>>>.self,
      ["one": [[1], []], "two": []])
    try expectRoundTrip(PersistentSet<PersistentString>.self, ["x", "y"])
    try expectRoundTrip(
      PersistentSortedDictionary<PersistentString, PersistentString?>.self, ["x": "y", "z": nil])
    try expectRoundTrip(PersistentArray<PersistentString?>.self, ["some", nil])
  }

  @Test func anEnumOfPersistentValuesIsAnElementAndIsFreedWhole() throws {
    try expectRoundTrip(
      Json.self,
      .object([
        "name": .text("a text that is longer than the header has room for"),
        "list": .list([.null, .number(1), .object(["deep": .list([.text("down")])])]),
      ]))
    try expectRoundTrip(PersistentArray<Json>.self, [.null, .text("x"), .list([.number(2)])])
  }

  @Test func anEnumOfPersistentValuesIsThereAfterOpeningAgain() throws {
    let test = try CollectionPool()
    let plain = Json.Plain.object(["a": .list([.number(1), .text("two")])])
    try test.pool.section { section in
      _ = try test.pool.root("json", in: &section) { try Json(importing: plain, in: &$0) }
    }
    try test.reopen()
    let root = try #require(try test.pool.root("json", of: Json.self))
    #expect(root.value.exported == plain)
    try test.pool.section(.announced) { section in
      switch root.value {
      case .object(let object):
        try object.remove("a", in: &section)
        try object.insert(.null, forKey: "b", in: &section)
      default: Issue.record("no object")
      }
    }
    #expect(root.value.exported == .object(["b": .null]))
    try test.pool.section { section in
      try root.free(in: &section)
      try test.pool.removeRoot("json", in: &section)
    }
    test.expectNoLeaks(besideRoots: 0)
  }

  @Test func everyCollectionHasTheDescriptionOfItsCounterpart() throws {
    let test = try CollectionPool()
    try test.pool.section { section in
      let text = try PersistentString("text", in: &section)
      let array = try PersistentArray<PersistentString>(importing: ["a", "b"], in: &section)
      let deque = try PersistentDeque([1, 2], in: &section)
      let set = try PersistentSet([7], in: &section)
      let map = try PersistentDictionary([(key: 5, value: 6)], in: &section)
      #expect("\(text) \(array) \(deque)" == #"text ["a", "b"] [1, 2]"#)
      #expect("\(set) \(map)" == "[7] [5: 6]")
      let sorted = try PersistentSortedDictionary<PersistentString, Int>(
        importing: ["b": 2, "a": 1], in: &section)
      #expect("\(sorted)" == #"["a": 1, "b": 2]"#)
      try sorted.destroy(in: &section)
      let reference = try Ref(set, in: &section)
      #expect(reference.description == "[7]")
      #expect("\(1) \([2]) \("x")" == "1 [2] x")
      try text.destroy(in: &section)
      try array.destroy(in: &section)
      try deque.destroy(in: &section)
      try reference.free(in: &section)
      try map.destroy(in: &section)
    }
    test.expectNoLeaks(besideRoots: 0)
  }
}
