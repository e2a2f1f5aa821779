// HostileFile: whatever an attacker makes of a pool file, opened, recovered, checked, walked and
// used, in this process and in memory.
//
// An input is not a file: it is a list of changes to one of a few small whole pools, each of which
// may make the checksums right again that it broke. So what a fuzzer finds is not that checksums
// work, and an input has tens of bytes instead of a million.
//
//   byte 0         which pool; its upper half lengthens or cuts the file
//   then changes   kind and flags (1), place (2), value kind (1), value (up to 8)

import CVolipPersistence
import Glibc
import VolipMem

public final class HostileFile {
  nonisolated(unsafe) public static let shared = HostileFile()

  private let descriptor: Int32
  let path: String
  let sources: [WholePool]
  private(set) var options = Pool.Options()

  /// What became of an input.
  public enum Outcome: Hashable, Sendable {
    case refused(String)
    case opened(isWell: Bool)
  }

  private init() {
    descriptor = memory("volip-hostile-pool")
    path = "/proc/self/fd/\(descriptor)"
    options.engine.tracker = .writeProtect
    options.engine.retention = false
    options.engine.persistencePath = .cacheLines
    // The same base whatever the run: an input means the same in each.
    setenv(AddressMap.switchName, "0x583400000000", 1)
    let options = options
    guard let made = try? Source.allCases.map({ try $0.make(options) }) else {
      fatalError("no pool to begin with")
    }
    sources = made.map(WholePool.init)
  }

  /// Makes a pool file of an input and does with it what programs do.
  @discardableResult
  public func meet(_ input: UnsafeBufferPointer<UInt8>) -> Outcome {
    var reader = InputReader(input)
    let first = reader.byte()
    let source = sources[Int(first & 0xF) % sources.count]
    var forger = Forger(source.bytes, image: source.image)
    while !reader.isAtEnd { forger.change(&reader) }
    write(source, forger.touched, length: length(first >> 4, of: source.bytes.count))
    source.restore(forger.touched)
    let seen = look(path)
    do throws(PoolError) {
      let pool = try Pool.open(path, options: options)
      let report = pool.checkHeap()
      precondition(
        seen == .opened(isWell: report.isConsistent), "\(seen), open: \(report.problems)")
      let isWell = use(pool, variety: input.count)
      try pool.close()
      return .opened(isWell: isWell)
    } catch {
      precondition(!error.description.isEmpty && error.exitCode != 0)
      requireSame(error, seen)
      return .refused(sentence(error))
    }
  }

  /// A look at a file says what an open says, but where the open needs more than the file.
  private func requireSame(_ error: PoolError, _ seen: Outcome) {
    switch error {
    case .damagedHeap: precondition(seen == .opened(isWell: false), "\(error), \(seen)")
    case .addressTaken, .addressSpaceExhausted, .system: return
    default: precondition(seen == .refused(sentence(error)), "\(error), \(seen)")
    }
  }

  /// Bytes of the file: most often as they are.
  private func length(_ choice: UInt8, of count: Int) -> Int {
    switch choice {
    case 1: count / 2
    case 2: count - 4096
    case 3: count + 5000
    case 4: count * 2
    case 5: 8192
    case 6: 300
    case 7: 0
    default: count
    }
  }

  /// A file with holes where the pool has zeros and no change touched it.
  func write(_ source: WholePool, _ touched: Set<Int>, length: Int) {
    precondition(ftruncate(descriptor, 0) == 0 && ftruncate(descriptor, off_t(length)) == 0)
    for page in touched.union(source.pages) where page * 4096 < length {
      let count = min(4096, length - page * 4096, source.bytes.count - page * 4096)
      let written = pwrite(
        descriptor, source.bytes.baseAddress! + page * 4096, count, off_t(page * 4096))
      precondition(written == count)
    }
  }
}

/// A whole pool, changed in place and put back after each input: a mebibyte is not copied for it.
final class WholePool {
  let bytes: UnsafeMutableRawBufferPointer
  private let original: [UInt8]
  /// Pages that are not zero.
  let pages: Set<Int>
  /// Where its image begins.
  let image: Int

  init(_ original: [UInt8]) {
    self.original = original
    bytes = .allocate(byteCount: original.count, alignment: 4096)
    bytes.copyBytes(from: original)
    image = Int(bytes.loadUnaligned(fromByteOffset: 80, as: UInt64.self))
    pages = Set(
      (0..<(original.count + 4095) / 4096).filter { page in
        original[page * 4096..<min(page * 4096 + 4096, original.count)].contains { $0 != 0 }
      })
  }

  func restore(_ touched: Set<Int>) {
    for page in touched {
      let count = min(4096, bytes.count - page * 4096)
      original.withUnsafeBytes {
        (bytes.baseAddress! + page * 4096).copyMemory(
          from: $0.baseAddress! + page * 4096, byteCount: count)
      }
    }
  }
}

private func sentence(_ error: PoolError) -> String {
  String(describing: error).prefix { $0 != "(" }.description
}

/// What the command's verbs read of a file that they do not open.
package func look(_ path: String) -> HostileFile.Outcome {
  do throws(PoolError) {
    let view = try PoolView(path)
    _ = try view.checkQuickly()
    let report = try view.check()
    _ = try? view.roots()
    for run in (try? view.runs()) ?? [] where !run.isFree { _ = view.unreadablePage(in: run.pages) }
    for block in report.blocks.prefix(20) {
      let bytes = block.offset.bytes..<block.offset.bytes + UInt64(block.byteCount)
      _ = try view.withBytes(bytes) { $0.reduce(0) { $0 ^ $1 } }
    }
    return .opened(isWell: report.isConsistent)
  } catch {
    return .refused(sentence(error))
  }
}

private func memory(_ name: String) -> Int32 {
  let create = unsafeBitCast(
    dlsym(nil, "memfd_create")!,
    to: (@convention(c) (UnsafePointer<CChar>, UInt32) -> Int32).self)
  let descriptor = create(name, 1)
  precondition(descriptor >= 0)
  return descriptor
}
