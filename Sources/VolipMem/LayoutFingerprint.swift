// LayoutFingerprint: a hash of how a type lies in memory.
//
// Names and types of stored fields with their offsets, all the way down, besides size, stride and
// alignment. A type that is renamed or moved to another module keeps its fingerprint; one whose
// fields change does not.

@_spi(Reflection) import Swift

/// Levels of fields that are looked at: deeper ones are told apart by their sizes alone.
private let depthMax = 16

func layoutFingerprint<T>(_ type: T.Type) -> UInt64 {
  fingerprint(of: layoutDescription(type))
}

func layoutDescription<T>(_ type: T.Type) -> String {
  layoutDescription(type, depth: 0)
}

/// FNV-1a, 64 bits.
package func fingerprint(of text: String) -> UInt64 {
  text.utf8.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64($1)) &* 0x0000_0100_0000_01B3 }
}

private func layoutDescription(_ type: Any.Type, depth: Int) -> String {
  // A reference is one whatever it refers to, which may be its own kind.
  if let reference = type as? any PersistentReference.Type { return "{\(reference.layout)}" }
  var fields: [String] = []
  if depth < depthMax {
    _ = _forEachField(of: type) { name, offset, fieldType, _ in
      // What the compiler knows itself: the type around it is the leaf.
      if "\(fieldType)".hasPrefix("Builtin.") { return true }
      fields.append(
        "\(String(cString: name))@\(offset)=\(layoutDescription(fieldType, depth: depth + 1))")
      return true
    }
  }
  // A leaf has nothing but its name to tell an Int from a Double.
  let kind = fields.isEmpty ? "\(type)" : fields.joined(separator: ",")
  return "{\(sizes(type)) \(kind)}"
}

private func sizes(_ type: Any.Type) -> String {
  func sizes<T>(_ type: T.Type) -> String {
    "\(MemoryLayout<T>.size):\(MemoryLayout<T>.stride):\(MemoryLayout<T>.alignment)"
  }
  return _openExistential(type, do: sizes)
}
