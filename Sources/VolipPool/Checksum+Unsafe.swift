import CVolipPersistence

/// The 64-bit checksum of whole lines given as words (a multiple of 8 of them).
public func checksumOfLines(_ words: [UInt64], seed: UInt64) -> UInt64 {
  precondition(words.count % 8 == 0)
  let byteCount = words.count * 8
  let lines = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: 64)
  defer { lines.deallocate() }
  // SAFETY: the copy is as long as the array and aligned to lines, as cvp_seal_lines wants it.
  words.withUnsafeBytes { lines.copyMemory(from: $0.baseAddress!, byteCount: byteCount) }
  var seal = cvp_seal()
  cvp_seal_begin(&seal, seed)
  cvp_seal_lines(&seal, lines, words.count / 8)
  return cvp_seal_value(&seal)
}

/// The same of lines that stand at an address that is aligned to them.
package func checksumOfLines(_ lines: UnsafeRawBufferPointer, seed: UInt64) -> UInt64 {
  precondition(lines.count % 64 == 0 && UInt(bitPattern: lines.baseAddress) % 64 == 0)
  var seal = cvp_seal()
  cvp_seal_begin(&seal, seed)
  if let start = lines.baseAddress { cvp_seal_lines(&seal, start, lines.count / 64) }
  return cvp_seal_value(&seal)
}
