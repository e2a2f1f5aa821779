import TestSupport
import Testing
import VolipMem

struct Point: BitwiseCopyable, Equatable, Persistable {
  var x: Int
  var y: Double
}

@Suite struct ArrayTests {
  @Test(arguments: [true, false])
  func anArrayDoesWhatSwiftsDoes(audit: Bool) throws {
    var generator = SeededGenerator.forTest("array \(audit)")
    let test = try CollectionPool(audit: audit)
    var model: [Point] = []
    try test.pool.section { section in
      _ = try test.pool.root("points", in: &section) { section in
        try PersistentArray<Point>(in: &section)
      }
    }
    func points() throws -> Ref<PersistentArray<Point>> {
      try #require(try test.pool.root("points", of: PersistentArray<Point>.self))
    }
    var array = try points()
    for round in 0..<200 {
      var next = model
      func change(_ section: inout VolipMem.Section) throws {
        for _ in 0..<Int.random(in: 0...30, using: &generator) {
          let point = Point(x: Int.random(in: 0..<99, using: &generator), y: Double(round))
          let index = Int.random(in: 0...next.count, using: &generator)
          switch Int.random(in: 0..<9, using: &generator) {
          case 0:
            try array.value.insert(point, at: index, in: &section)
            next.insert(point, at: index)
          case 1 where index < next.count:
            #expect(array.value.remove(at: index, in: &section) == next.remove(at: index))
          case 2: #expect(array.value.popLast(in: &section) == next.popLast())
          case 3 where index < next.count:
            array.value.swapAt(index, 0, in: &section)
            next.swapAt(index, 0)
          case 4 where index < next.count:
            array.value.update(at: index, in: &section) { $0.y += 1 }
            next[index].y += 1
          case 5 where index < next.count:
            array.value.set(index, to: point, in: &section)
            next[index] = point
          default:
            try array.value.append(point, in: &section)
            next.append(point)
          }
        }
      }
      if Int.random(in: 0..<5, using: &generator) == 0 {
        try test.abortedSection(change)
      } else {
        try test.pool.section(.announced, change)
        model = next
      }
      #expect(Array(array.value) == model, "round \(round)")
      expectSpan(of: array.value, model)
      if round % 40 == 39 {
        try test.reopen()
        array = try points()
      }
    }
    try test.pool.section { section in
      try array.free(in: &section)
      try test.pool.removeRoot("points", in: &section)
    }
    test.expectNoLeaks(besideRoots: 0)
  }

  private func expectSpan(of array: borrowing PersistentArray<Point>, _ model: [Point]) {
    let span = array.span
    var differs = span.count != model.count
    for index in span.indices where span[index] != model[index] { differs = true }
    #expect(!differs)
  }

  @Test func arraysNestToAnyDepthAndAreFreedWhole() throws {
    let test = try CollectionPool()
    typealias Row = PersistentArray<Int>
    typealias Map = PersistentDictionary<Int, PersistentArray<Row>>
    try test.pool.section { section in
      let map = try test.pool.root("nested", in: &section) { section in
        try Map(in: &section)
      }
      for key in 0..<20 {
        let rows = try PersistentArray<Row>(in: &section)
        for row in 0..<key { try rows.append(Row(0..<row, in: &section), in: &section) }
        try map.value.insert(rows, forKey: key, in: &section)
      }
    }
    try test.reopen()
    let map = try #require(try test.pool.root("nested", of: Map.self))
    for key in 0..<20 {
      let sum = map.value.withValue(forKey: key) { rows in
        rows.indices.reduce(0) { $0 + Array(rows[$1]).reduce(0, +) }
      }
      #expect(sum == (0..<key).reduce(0) { $0 + (0..<$1).reduce(0, +) })
    }
    try test.pool.section { section in
      let other = try map.value.copy(in: &section)
      try other.withValue(forKey: 7) { rows in
        try rows[6].append(1000, in: &section)
      }
      let lengths = [
        map.value.withValue(forKey: 7) { $0[6].count }, other.withValue(forKey: 7) { $0[6].count },
      ]
      #expect(lengths == [6, 7])
      try other.destroy(in: &section)
      try map.value.remove(5, in: &section)
    }
    try test.pool.section { section in
      try map.free(in: &section)
      try test.pool.removeRoot("nested", in: &section)
    }
    test.expectNoLeaks(besideRoots: 0)
  }

  @Test func aReferenceNamesTheSameValueAfterOpeningAgain() throws {
    struct Node: BitwiseCopyable, Persistable {
      var value: Int
      var next: Ref<Node>?
    }
    let test = try CollectionPool()
    try test.pool.section { section in
      var list: Ref<Node>?
      for value in 0..<10 { list = try Ref(Node(value: value, next: list), in: &section) }
      _ = try test.pool.root("list", in: &section) { _ in list }
    }
    try test.reopen()
    let root = try #require(try test.pool.root("list", of: Ref<Node>?.self))
    var values: [Int] = []
    var node = root.value
    while let present = node {
      values.append(present.value.value)
      node = present.value.next
    }
    #expect(values == (0..<10).reversed())
    try test.pool.section(.announced) { section in
      root.value!.update(in: &section) { $0.value = 77 }
    }
    #expect(root.value!.value.value == 77)
  }
}
