import Glibc
import VolipMem

/// What is on media, and what is on its way there.
///
/// The fault model:
///
/// 1. A crash happens at any store, flush or fence. What was stored and not made durable by then
///    may or may not have arrived, in any order, whatever part of it.
/// 2. On the cache-line path the unit is a line of 64 bytes. Stores to one line arrive in their
///    order: a line is on media as it was after any of its stores since it was last durable.
///    Ordinary stores arrive whenever the cache evicts the line; stores past the cache until the
///    next fence; a line that was flushed has arrived after the next fence, as it was when it was
///    flushed. A fence is for what its own thread stored past the cache and flushed.
/// 3. On the msync path the unit is a sector of 512 bytes, which the kernel writes whenever it
///    likes. After the msync of a page it has arrived. After an msync that failed pages count as
///    clean, whichever thread was to make them durable: only a new store to one lets a later msync
///    write it. One thread alone is told.
/// 4. What is on its way may be torn: of the last store to a unit any of the 8-byte words have
///    arrived. No 8-byte word is ever torn.
/// 5. The length of the file is on its way until fsync. Blocks that fallocate gave are there.
/// 6. A crash is a power cut, which leaves what is on media; or a kill, after which a recovery
///    reads everything that was stored, while the power may be cut in that recovery.
/// 7. Recoveries crash too, and the recoveries from those.
///
/// Not in the model: media that lose or change what was durable (see bad media), a processor that
/// stores what the program did not.
final class PersistenceModel {
  struct Version {
    let block: Int
    let hash: UInt64
    let sequence: Int
  }
  /// A unit of which something is on its way: its versions, oldest first.
  struct Flight {
    let unit: Int
    var mediaHash: UInt64
    var versions: [Version] = []
  }

  let unitBytes: Int
  let byteCount: Int
  private let path: PersistencePath
  /// What is durable, and what the program sees.
  let media: UnsafeMutableRawPointer
  let latest: UnsafeMutableRawPointer
  private(set) var flights: [Flight] = []
  private var flightOfUnit: [Int32]
  private(set) var blocks: [UInt8] = []
  private var freeBlocks: [Int] = []
  private var flushed: [(unit: Int, sequence: Int, thread: UInt)] = []
  private var lostPages: Set<Int> = []
  private var sequence = 0
  /// Exclusive or of the hashes of all units on media, and of the length.
  private(set) var hash: UInt64 = 0
  private(set) var length: Int
  private(set) var lengthInFlight: Int?
  /// What has arrived on media since this was emptied.
  var arrived: [Range<Int>] = []

  init(_ trace: Trace) {
    path = trace.path
    unitBytes = trace.path == .cacheLines ? 64 : 512
    byteCount = trace.lengthMax
    media = .allocate(byteCount: byteCount, alignment: 4096)
    latest = .allocate(byteCount: byteCount, alignment: 4096)
    flightOfUnit = Array(repeating: -1, count: byteCount / unitBytes)
    length = trace.base.count
    memset(media, 0, byteCount)
    trace.base.withUnsafeBytes { _ = memcpy(media, $0.baseAddress!, $0.count) }
    memcpy(latest, media, byteCount)
    for unit in 0..<flightOfUnit.count {
      hash ^= hashOfUnit(unit, media + unit * unitBytes, unitBytes)
    }
    hash ^= Self.hash(ofLength: length)
  }

  /// The same, to go another way from here.
  init(copying other: PersistenceModel) {
    (path, unitBytes, byteCount) = (other.path, other.unitBytes, other.byteCount)
    media = .allocate(byteCount: byteCount, alignment: 4096)
    latest = .allocate(byteCount: byteCount, alignment: 4096)
    memcpy(media, other.media, byteCount)
    memcpy(latest, other.latest, byteCount)
    (flights, flightOfUnit) = (other.flights, other.flightOfUnit)
    (blocks, freeBlocks, flushed) = (other.blocks, other.freeBlocks, [])
    (lostPages, sequence, hash) = (other.lostPages, other.sequence, other.hash)
    (length, lengthInFlight) = (other.length, other.lengthInFlight)
  }

  /// After a power cut that left `image`: nothing is on its way.
  init(after image: UnsafeRawPointer, hash: UInt64, length: Int, like other: PersistenceModel) {
    (path, unitBytes, byteCount) = (other.path, other.unitBytes, other.byteCount)
    media = .allocate(byteCount: byteCount, alignment: 4096)
    latest = .allocate(byteCount: byteCount, alignment: 4096)
    memcpy(media, image, byteCount)
    memcpy(latest, image, byteCount)
    flightOfUnit = Array(repeating: -1, count: byteCount / unitBytes)
    (self.hash, self.length) = (hash, length)
  }

  deinit {
    media.deallocate()
    latest.deallocate()
  }

  static func hash(ofLength length: Int) -> UInt64 { mix(UInt64(length) | 1 << 63) }

  // MARK: Events

  func apply(_ event: Trace.Event, content: [UInt8]) {
    switch event {
    case .store(let range, let start, let isCached, let thread):
      content.withUnsafeBytes {
        store(range, $0.baseAddress! + start)
      }
      if !isCached { flush(range, thread) }
    case .flush(let range, let thread): flush(range, thread)
    case .fence(let thread): fence(thread)
    case .failedFence(let thread): failFence(thread)
    case .length(let bytes): lengthInFlight = bytes
    case .lengthSynced:
      guard let bytes = lengthInFlight else { return }
      hash ^= Self.hash(ofLength: length) ^ Self.hash(ofLength: bytes)
      length = bytes
      lengthInFlight = nil
    case .begin, .acknowledged: break
    }
  }

  private func units(_ range: Range<Int>) -> Range<Int> {
    range.lowerBound / unitBytes..<(range.upperBound + unitBytes - 1) / unitBytes
  }

  private func store(_ range: Range<Int>, _ bytes: UnsafeRawPointer) {
    memcpy(latest + range.lowerBound, bytes, range.count)
    if !lostPages.isEmpty {
      for page in range.lowerBound / 4096...(range.upperBound - 1) / 4096 {
        lostPages.remove(page)
      }
    }
    sequence += 1
    for unit in units(range) { addVersion(unit) }
  }

  private func addVersion(_ unit: Int) {
    let start = latest + unit * unitBytes
    let onMedia = media + unit * unitBytes
    var index = Int(flightOfUnit[unit])
    if index < 0 {
      // The same bytes as on media: nothing to arrive.
      if memcmp(onMedia, start, unitBytes) == 0 { return }
      index = flights.count
      flightOfUnit[unit] = Int32(index)
      flights.append(Flight(unit: unit, mediaHash: hashOfUnit(unit, onMedia, unitBytes)))
    }
    let hash = hashOfUnit(unit, start, unitBytes)
    if flights[index].versions.last?.hash == hash { return }
    let block = freeBlocks.popLast() ?? makeBlock()
    blocks.withUnsafeMutableBytes {
      _ = memcpy($0.baseAddress! + block * unitBytes, start, unitBytes)
    }
    flights[index].versions.append(Version(block: block, hash: hash, sequence: sequence))
  }

  private func makeBlock() -> Int {
    blocks.append(contentsOf: repeatElement(0, count: unitBytes))
    return blocks.count / unitBytes - 1
  }

  private func flush(_ range: Range<Int>, _ thread: UInt) {
    guard path == .cacheLines else {
      // Whole pages, as they are when the msync comes.
      let pages = range.lowerBound / 4096..<(range.upperBound + 4095) / 4096
      for page in pages where !lostPages.contains(page) {
        for unit in units(page * 4096..<min((page + 1) * 4096, byteCount)) {
          flushed.append((unit, .max, thread))
        }
      }
      return
    }
    for unit in units(range) where flightOfUnit[unit] >= 0 {
      flushed.append((unit, sequence, thread))
    }
  }

  private func fence(_ thread: UInt) {
    var isAnyGone = false
    for (unit, sequence, owner) in flushed where owner == thread {
      let index = Int(flightOfUnit[unit])
      guard index >= 0 else { continue }
      let durable = flights[index].versions.prefix { $0.sequence <= sequence }
      guard let last = durable.last else { continue }
      arrived.append(unit * unitBytes..<(unit + 1) * unitBytes)
      blocks.withUnsafeBytes {
        _ = memcpy(media + unit * unitBytes, $0.baseAddress! + last.block * unitBytes, unitBytes)
      }
      hash ^= flights[index].mediaHash ^ last.hash
      flights[index].mediaHash = last.hash
      freeBlocks.append(contentsOf: durable.map(\.block))
      flights[index].versions.removeFirst(durable.count)
      if flights[index].versions.isEmpty {
        flightOfUnit[unit] = -1
        isAnyGone = true
      }
    }
    flushed.removeAll { $0.thread == thread }
    guard isAnyGone else { return }
    flights.removeAll { $0.versions.isEmpty }
    for (index, flight) in flights.enumerated() { flightOfUnit[flight.unit] = Int32(index) }
  }

  private func failFence(_ thread: UInt) {
    guard path == .msync else { return flushed.removeAll { $0.thread == thread } }
    // Whose page it was that could not be written nobody is told: those of other threads too.
    for (unit, _, _) in flushed { lostPages.insert(unit * unitBytes / 4096) }
    flushed.removeAll()
  }
}

@inline(__always)
func mix(_ value: UInt64) -> UInt64 {
  var word = value
  word = (word ^ word >> 30) &* 0xBF58_476D_1CE4_E5B9
  word = (word ^ word >> 27) &* 0x94D0_49BB_1331_11EB
  return word ^ word >> 31
}

/// 64 bits of a unit's place and bytes.
func hashOfUnit(_ unit: Int, _ bytes: UnsafeRawPointer, _ byteCount: Int) -> UInt64 {
  let words = bytes.assumingMemoryBound(to: UInt64.self)
  var (one, two) = (mix(UInt64(unit) &+ 0x9E37_79B9_7F4A_7C15), UInt64(unit))
  for index in 0..<byteCount / 16 {
    one = (one ^ words[index * 2]) &* 0x9FB2_1C65_1E98_DF25
    one ^= one >> 32
    two = (two ^ words[index * 2 + 1]) &* 0xD6E8_FEB8_6659_FD93
    two ^= two >> 29
  }
  return mix(one ^ mix(two))
}
