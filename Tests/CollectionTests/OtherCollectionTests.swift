import TestSupport
import Testing
import VolipMem

@Suite struct StringTests {
  @Test func aStringHoldsTextOfAnyLengthAcrossOpens() throws {
    var generator = SeededGenerator.forTest()
    let test = try CollectionPool()
    let root = try test.pool.section { section in
      try test.pool.root("text", in: &section) { section in try PersistentString(in: &section) }
    }
    var model = ""
    let words = ["", "a", "ä", "日本", "🙂", "sixteen bytes ok", "a longer piece of text, indeed"]
    for _ in 0..<120 {
      var next = model
      func change(_ section: inout VolipMem.Section) throws {
        let word = words.randomElement(using: &generator)!
        if Int.random(in: 0..<6, using: &generator) == 0 {
          try root.value.set(to: word, in: &section)
          next = word
        } else {
          try root.value.append(word, in: &section)
          next += word
        }
      }
      if Int.random(in: 0..<4, using: &generator) == 0 {
        try test.abortedSection(change)
      } else {
        try test.pool.section(.announced, change)
        model = next
      }
      let isSame = root.value == model
      #expect(isSame && String(root.value) == model)
      #expect(root.value.utf8Count == model.utf8.count)
    }
    try test.reopen()
    let again = try #require(try test.pool.root("text", of: PersistentString.self))
    #expect(String(again.value) == model)
    try test.pool.section { section in
      try again.free(in: &section)
      try test.pool.removeRoot("text", in: &section)
    }
    test.expectNoLeaks(besideRoots: 0)
  }

  @Test func stringsAreKeysAndValues() throws {
    let test = try CollectionPool()
    typealias Map = PersistentDictionary<PersistentString, PersistentString>
    try test.pool.section { section in
      let map = try test.pool.root("map", in: &section) { section in try Map(in: &section) }
      for number in 0..<300 {
        let value = try PersistentString("value \(number)", in: &section)
        try map.value.insert(value, forKey: "key \(number)", in: &section)
      }
      for number in stride(from: 0, to: 300, by: 3) {
        let wasThere = try map.value.remove("key \(number)", in: &section)
        #expect(wasThere)
        let value = try PersistentString("again", in: &section)
        try map.value.insert(value, forKey: "key \(number + 1)", in: &section)
      }
    }
    try test.reopen()
    let map = try #require(try test.pool.root("map", of: Map.self))
    #expect(map.value.count == 200 && !map.value.contains("key 0"))
    #expect(map.value.withValue(forKey: "key 1") { String($0) } == "again")
    #expect(map.value.withValue(forKey: "key 299") { String($0) } == "value 299")
    try test.pool.section { section in
      try map.free(in: &section)
      try test.pool.removeRoot("map", in: &section)
    }
    test.expectNoLeaks(besideRoots: 0)
  }
}

@Suite struct SetAndDequeTests {
  @Test func aSetDoesWhatSwiftsDoes() throws {
    var generator = SeededGenerator.forTest()
    let test = try CollectionPool()
    let set = try test.pool.section { section in
      try test.pool.root("set", in: &section) { section in try PersistentSet<Int>(in: &section) }
    }
    var model: Set<Int> = []
    for _ in 0..<60 {
      try test.pool.section(.announced) { section in
        for _ in 0..<30 {
          let element = Int.random(in: 0..<300, using: &generator)
          if Bool.random(using: &generator) {
            let isNew = model.insert(element).inserted
            let inserted = try set.value.insert(element, in: &section)
            #expect(inserted == isNew)
          } else {
            let removed = try set.value.remove(element, in: &section)
            #expect(removed == (model.remove(element) != nil))
          }
        }
      }
      #expect(Set(set.value) == model)
    }
    try test.pool.section { section in
      try set.free(in: &section)
      try test.pool.removeRoot("set", in: &section)
    }
    test.expectNoLeaks(besideRoots: 0)
  }

  @Test func aDequeDoesWhatAnArrayDoesAtBothEnds() throws {
    var generator = SeededGenerator.forTest()
    let test = try CollectionPool()
    let deque = try test.pool.section { section in
      try test.pool.root("deque", in: &section) { section in
        try PersistentDeque<Int>(in: &section)
      }
    }
    var model: [Int] = []
    for round in 0..<150 {
      var next = model
      func change(_ section: inout VolipMem.Section) throws {
        for number in 0..<Int.random(in: 0...20, using: &generator) {
          switch Int.random(in: 0..<5, using: &generator) {
          case 0:
            let first = next.first
            #expect(deque.value.popFirst(in: &section) == first)
            next = Array(next.dropFirst())
          case 1: #expect(deque.value.popLast(in: &section) == next.popLast())
          case 2:
            try deque.value.prepend(number, in: &section)
            next.insert(number, at: 0)
          case 3 where !next.isEmpty:
            deque.value.update(at: next.count / 2, in: &section) { $0 += 100 }
            next[next.count / 2] += 100
          default:
            try deque.value.append(number, in: &section)
            next.append(number)
          }
        }
      }
      if round % 4 == 0 {
        try test.abortedSection(change)
      } else {
        try test.pool.section(.announced, change)
        model = next
      }
      #expect(Array(deque.value) == model)
    }
    try test.pool.section { section in
      try deque.free(in: &section)
      try test.pool.removeRoot("deque", in: &section)
    }
    test.expectNoLeaks(besideRoots: 0)
  }
}
