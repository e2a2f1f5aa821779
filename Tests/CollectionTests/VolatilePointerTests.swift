import Glibc
import TestSupport
import Testing
import VolipMem

/// An address in a number, which no layout shows.
@Suite struct VolatilePointerTests {
  struct Handle: BitwiseCopyable, Persistable {
    var address: UInt
  }

  private func expectFound(
    root: String, in test: CollectionPool, _ body: (inout VolipMem.Section) throws -> Void
  ) throws {
    #expect {
      try test.pool.section(.announced, body)
    } throws: {
      guard case PoolError.volatilePointer(_, let offset, root, let layout) = $0 else {
        return false
      }
      return offset > 0 && layout.contains("Persistent") != root.isEmpty
        && "\($0)".contains("address")
    }
  }

  @Test func anAddressOfVolatileMemoryIsFoundInAnAuditWithItsRootOffsetAndType() throws {
    let test = try CollectionPool()
    let (first, second) = try test.pool.section { section in
      (
        try test.pool.root("first", in: &section) { section in
          try PersistentArray<Handle>([Handle(address: 5)], in: &section)
        },
        try test.pool.root("second", in: &section) { section in
          try PersistentDictionary<Int, PersistentArray<Handle>>(in: &section)
        }
      )
    }
    let memory = malloc(16)!
    defer { free(memory) }
    let address = UInt(bitPattern: memory)
    try expectFound(root: "first", in: test) { section in
      try first.value.append(Handle(address: address), in: &section)
    }
    #expect(first.value.count == 1)
    try expectFound(root: "second", in: test) { section in
      let array = try PersistentArray<Handle>([Handle(address: 7)], in: &section)
      try array.append(Handle(address: address + 8), in: &section)
      try second.value.insert(array, forKey: 1, in: &section)
    }
    let isEmpty = second.value.isEmpty
    #expect(isEmpty)
    try expectFound(root: "", in: test) { section in
      _ = try Ref(Handle(address: address), in: &section)
    }
    var local = 0
    try withUnsafePointer(to: &local) { local in
      try expectFound(root: "first", in: test) { section in
        first.value.set(0, to: Handle(address: UInt(bitPattern: local)), in: &section)
      }
    }
    #expect(first.value[0].address == 5)
  }

  @Test func numbersAndAddressesOfThePoolAreNoVolatilePointers() throws {
    let test = try CollectionPool()
    let base = UInt(bitPattern: test.pool.base)
    try test.pool.section { section in
      let words: [UInt] = [0, 1, 1 << 20, 1 << 40, base, base + 4096, .max]
      _ = try test.pool.root("array", in: &section) { section in
        try PersistentArray<Handle>(words.map { Handle(address: $0) }, in: &section)
      }
    }
    try test.pool.section { section in
      let words = try test.pool.allocate(UnsafePointer<Int>?.self)
      // Page-tracked memory may have pointers: they are the program's to renew.
      words.initialize(to: UnsafePointer(bitPattern: UInt(bitPattern: malloc(8)!)))
    }
  }
}
