// NewPool: a pool file that comes to be, at an address that is free here.

extension PoolEngine {
  /// Draws of a base address before giving up: with half of the range taken, one failure in 2^16.
  private static let baseAttemptsMax = 16

  /// Makes a pool file and opens it, at a base address that is drawn until it is free in this
  /// process, or the one that the test switch names. It has its name when `open` has returned.
  ///
  /// - Throws: ``PoolError``; nothing is left behind.
  package static func create<Opened>(
    path: String, geometry: PoolGeometry, open: (PoolFile) throws(PoolError) -> Opened
  ) throws(PoolError) -> Opened {
    var geometry = geometry
    for _ in 0..<baseAttemptsMax {
      var generator = SystemRandomNumberGenerator()
      geometry.baseAddress =
        if let forced = AddressMap.forcedBase {
          forced
        } else {
          try AddressMap.drawBase(imageBytes: geometry.imageBytes, using: &generator)
        }
      guard AddressMap.isPlausible(base: geometry.baseAddress, imageBytes: geometry.imageBytes)
      else { throw .invalidArgument("base address 0x\(String(geometry.baseAddress, radix: 16))") }
      do throws(PoolError) {
        return try withoutCancellation { () throws(PoolError) in
          let file = try PoolFile.create(path: path, geometry: geometry)
          let opened = try open(file)
          try file.publish()
          return opened
        }
      } catch {
        guard case .addressTaken = error, AddressMap.forcedBase == nil else { throw error }
      }
    }
    throw .addressSpaceExhausted(bytes: geometry.imageBytes)
  }
}
