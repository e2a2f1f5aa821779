import HostilePool

/// What libFuzzer calls for each input. It ends the process if the library does.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> CInt {
  HostileFile.shared.meet(UnsafeBufferPointer(start: bytes, count: count))
  return 0
}
