// ForeignPointers: addresses in a pool of memory that ended with the program.
//
// Which addresses those are is in the program's /proc/PID/maps alone, as long as it runs: it is
// saved then, by `volip copy --maps` or by anybody, and given to `volip check --pointers`.

import Glibc
import VolipMem

enum ForeignPointers {
  struct Mapping {
    let range: Range<UInt64>
    let name: String
  }

  static func find(
    in view: PoolView, _ report: HeapReport, mapsFile: String
  ) throws -> [HeapProblem] {
    let geometry = view.superblock.geometry
    let pool = geometry.baseAddress..<geometry.baseAddress + geometry.imageBytes
    let mappings = try parse(try read(mapsFile), mapsFile).filter { !$0.range.overlaps(pool) }
    let found = try view.foreignPointers(report, into: mappings.map(\.range))
    return found.map { pointer in
      let name = mappings[pointer.range].name
      return HeapProblem(
        offset: PoolOffset(bytes: pointer.offset),
        reason: "\(hexadecimal(pointer.value)) points into \(name)")
    }
  }

  /// Saves the maps of the process that says it uses the pool.
  static func saveMaps(of path: String, to target: String) throws {
    guard let process = try LiveStatistics.read(path)?.process, try PoolView.isInUse(path) else {
      throw Refusal("\(path) is used by no program: there are no maps to save.")
    }
    let text = try read("/proc/\(process)/maps")
    let base = try PoolView(path).superblock.geometry.baseAddress
    // Process numbers are another namespace's, perhaps.
    guard try parse(text, "maps").contains(where: { $0.range.contains(base) }) else {
      throw Refusal("Process \(process) is not the one that uses \(path): save its maps there.")
    }
    let descriptor = open(target, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw Refusal("\(target): \(errorText(errno)).") }
    defer { close(descriptor) }
    guard write(descriptor, text, text.utf8.count) == text.utf8.count, fsync(descriptor) == 0 else {
      throw Refusal("\(target): \(errorText(errno)).")
    }
  }

  /// Lines as the kernel writes them; ascending, as there.
  private static func parse(_ text: String, _ path: String) throws -> [Mapping] {
    var mappings: [Mapping] = []
    for line in text.split(separator: "\n") {
      let words = line.split(separator: " ", maxSplits: 5)
      let ends = words.first?.split(separator: "-").compactMap { UInt64($0, radix: 16) } ?? []
      guard words.count >= 5, ends.count == 2, ends[0] < ends[1],
        ends[0] >= mappings.last?.range.upperBound ?? 0
      else { throw Refusal("\(path) is not what /proc/PID/maps says.") }
      let name = words.count > 5 ? words[5].drop { $0 == " " } : "memory without a name"
      mappings.append(Mapping(range: ends[0]..<ends[1], name: String(name)))
    }
    return mappings
  }

  private static func read(_ path: String) throws -> String {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw Refusal("\(path): \(errorText(errno)).") }
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65536)
    while true {
      // SAFETY: at most the array's own size is read into it.
      let count = buffer.withUnsafeMutableBytes { Glibc.read(descriptor, $0.baseAddress, $0.count) }
      guard count >= 0 else { throw Refusal("\(path): \(errorText(errno)).") }
      guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
      bytes += buffer[..<count]
      guard bytes.count <= 64 << 20 else { throw Refusal("\(path) is too long to be maps.") }
    }
  }
}
