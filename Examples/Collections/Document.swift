// A document that can take its last edits back, also those from before a crash.

import VolipMem

struct Document: ~Copyable {
  static let undoMax = 50
  let text: PersistentString
  /// Texts before the last edits, the latest last.
  let undo: PersistentDeque<PersistentString>

  func append(_ words: String, in section: inout Section) throws(PoolError) {
    if undo.count == Self.undoMax, let oldest = undo.popFirst(in: &section) {
      try oldest.destroy(in: &section)
    }
    try undo.append(try text.copy(in: &section), in: &section)
    try text.append(words, in: &section)
  }

  /// Takes the last edit back; false where there is none any more.
  func takeBack(in section: inout Section) throws(PoolError) -> Bool {
    guard let before = undo.popLast(in: &section) else { return false }
    try text.set(to: String(before), in: &section)
    try before.destroy(in: &section)
    return true
  }
}

extension Document: Example {
  init(in section: inout Section) throws(PoolError) {
    let text = try PersistentString(in: &section)
    self.init(text, try PersistentDeque(in: &section))
  }

  private init(
    _ text: consuming PersistentString, _ undo: consuming PersistentDeque<PersistentString>
  ) {
    self.text = text
    self.undo = undo
  }

  func step(_ random: inout some RandomNumberGenerator, in section: inout Section) throws {
    if Int.random(in: 0..<5, using: &random) < 2 {
      _ = try takeBack(in: &section)
    } else if text.utf8Count > 4000 {
      try text.set(to: "", in: &section)
      while try takeBack(in: &section) {}
      try text.set(to: "", in: &section)
    } else {
      try append("word \(Int.random(in: 0..<1000, using: &random)) ", in: &section)
    }
  }

  var contradiction: String? {
    var later = String(text)
    for index in undo.indices.reversed() {
      let earlier = String(undo[index])
      guard later.hasPrefix(earlier + "word ") else { return "\(earlier) before \(later)" }
      later = earlier
    }
    return undo.count <= Self.undoMax ? nil : "\(undo.count) edits"
  }

  func destroy(in section: inout Section) throws(PoolError) {
    try text.destroy(in: &section)
    try undo.destroy(in: &section)
  }

  func copy(in section: inout Section) throws(PoolError) -> Document {
    let text = try text.copy(in: &section)
    return Document(text, try undo.copy(in: &section))
  }

  static var layout: String { "Document(\(PersistentDeque<PersistentString>.layout))" }
}
