import Glibc
import TestBasics
import VolipMem

/// A pool file on which one crash image after the other is recovered, in place, by the recovery of
/// the product.
final class RecoveryBench {
  private let directory: TemporaryDirectory
  let file: PoolFile
  let memory: DurableMemory
  private let touched = TouchedRanges()
  private var length: Int

  init(_ trace: Trace, _ directory: TemporaryDirectory, _ name: String) throws {
    self.directory = directory
    let path = directory.file(name)
    FileBytes.write(trace.base, to: path)
    length = trace.lengthMax
    file = try PoolFile.open(path: path)
    ftruncate(file.descriptor, off_t(length))
    memory = try DurableMemory.map(descriptor: file.descriptor, forced: trace.path)
  }

  /// Makes the file what is on media of a model, whatever it was before.
  func load(_ bytes: UnsafeRawPointer, length: Int) {
    setLength(length)
    memcpy(memory.base, bytes, length)
  }

  func isEqual(to bytes: UnsafeRawPointer) -> Bool {
    memcmp(memory.base, bytes, length) == 0
  }

  private func setLength(_ bytes: Int) {
    guard bytes != length else { return }
    ftruncate(file.descriptor, off_t(bytes))
    length = bytes
  }

  /// Takes over what has arrived on a model's media.
  func follow(_ model: PersistenceModel) {
    setLength(model.length, model)
    for range in model.arrived where range.upperBound <= length {
      memcpy(memory.base + range.lowerBound, model.media + range.lowerBound, range.count)
    }
    model.arrived.removeAll(keepingCapacity: true)
  }

  /// A longer file has zeros at its end, where media may have more.
  private func setLength(_ bytes: Int, _ model: PersistenceModel) {
    let before = length
    setLength(bytes)
    guard before < length else { return }
    memcpy(memory.base + before, model.media + before, length - before)
  }

  /// Puts a crash image of a model into the file, which holds what is on the model's media. Returns
  /// the hash of the image.
  func load(_ choice: CrashImages.Choice, of images: CrashImages) -> UInt64 {
    touched.ranges.removeAll(keepingCapacity: true)
    setLength(images.length(choice), images.model)
    return images.apply(choice, to: memory.base) { touched.ranges.append($0) }
  }

  /// Takes back what `load` and recoveries changed.
  func restore(_ model: PersistenceModel) {
    setLength(model.length, model)
    for range in touched.ranges where range.upperBound <= length {
      memcpy(memory.base + range.lowerBound, model.media + range.lowerBound, range.count)
    }
    touched.ranges.removeAll(keepingCapacity: true)
  }

  /// Opens the file as it is, which recovers it. Returns the number of records replayed.
  func recover(observer: (any PersistenceObserver)? = nil) throws(PoolError) -> Int {
    memory.observe(observer ?? touched)
    defer { memory.observe(nil) }
    try file.reopen()
    return try Recovery(file, memory).run().recordCount
  }

  /// Bytes of the pool's memory.
  var image: UnsafeRawBufferPointer {
    let geometry = file.superblock.geometry
    return UnsafeRawBufferPointer(
      start: memory.base + Int(geometry.imageOffset), count: Int(geometry.imageBytes))
  }

  var contents: [UInt8] {
    Array(UnsafeRawBufferPointer(start: memory.base, count: length))
  }
}

/// Which bytes a recovery stored to.
private final class TouchedRanges: PersistenceObserver, @unchecked Sendable {
  var ranges: [Range<Int>] = []
  func didMap(_ memory: DurableMemory) {}
  func didStore(_ range: Range<Int>, isCached: Bool) { ranges.append(range) }
  func didFlush(_ range: Range<Int>) {}
  func willFence() throws(PoolError) {}
  func didFence() {}
  func didSetLength(_ bytes: Int) {}
  func didSyncLength() {}
}
