// SizeClassShapes: the shapes of all size classes in memory that nobody counts and that is not made
// on first use: a heap looks into it three times for each block. Written once, then only read.

struct SizeClassShapes: @unchecked Sendable {
  private let base: UnsafePointer<SizeClass.Shape>

  /// A copy that lives as long as the process: a few hundred bytes, made once.
  static let shared: SizeClassShapes = {
    let copy = UnsafeMutablePointer<SizeClass.Shape>.allocate(capacity: SizeClass.count)
    // SAFETY: shapes has exactly count elements.
    copy.initialize(from: SizeClass.shapes, count: SizeClass.count)
    return SizeClassShapes(base: UnsafePointer(copy))
  }()

  @inline(__always)
  subscript(sizeClass: Int) -> SizeClass.Shape {
    precondition(UInt(bitPattern: sizeClass) < UInt(SizeClass.count))
    // SAFETY: checked above.
    return base[sizeClass]
  }
}
