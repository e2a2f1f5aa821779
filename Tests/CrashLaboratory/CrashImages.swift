import TestBasics

/// What a crash may leave at one moment: for each unit on its way one of its versions, or none.
///
/// All of them where there are at most 2^14, or where at most 14 units are on their way all
/// subsets of the newest versions; else none, all, all but one, one alone, and all pairs of up to
/// 200 units, there alone and missing alone. Where that is not all, 1,000 seeded samples besides;
/// half of them torn. The length of the file counts as a unit.
struct CrashImages {
  static let subsetUnitsMax = 14
  static let pairUnitsMax = 200
  static let sampleCount = 1000

  private enum Pattern {
    case versions, subsets, structured
  }

  let model: PersistenceModel
  private let pattern: Pattern
  private let patternCount: Int
  private let tornCount: Int
  private let unitCount: Int
  private let hasLength: Bool
  private let seed: UInt64
  /// How many images there are, not all of them different.
  let count: Int

  /// One image: the version of each unit on its way, 0 for what is on media.
  struct Choice {
    var versions: [Int] = []
    /// Units whose last store is torn get their words by this; nothing is torn when 0.
    var tearing: UInt64 = 0
  }

  init(_ model: PersistenceModel, seed: UInt64) {
    self.model = model
    self.seed = seed
    hasLength = model.lengthInFlight != nil
    unitCount = model.flights.count + (hasLength ? 1 : 0)
    var product = 1
    for flight in model.flights where product <= 1 << Self.subsetUnitsMax {
      product *= flight.versions.count + 1
    }
    if hasLength { product *= 2 }
    if product <= 1 << Self.subsetUnitsMax {
      (pattern, patternCount) = (.versions, product)
      tornCount = min(model.flights.count * 16, Self.sampleCount)
    } else if unitCount <= Self.subsetUnitsMax {
      (pattern, patternCount) = (.subsets, 1 << unitCount)
      tornCount = Self.sampleCount
    } else {
      let pairs = unitCount <= Self.pairUnitsMax ? unitCount * (unitCount - 1) : 0
      (pattern, patternCount) = (.structured, 2 + 2 * unitCount + pairs)
      tornCount = Self.sampleCount
    }
    count = patternCount + tornCount
  }

  private func newest(_ unit: Int) -> Int {
    unit < model.flights.count ? model.flights[unit].versions.count : 1
  }

  /// The image of a number below `count`.
  func choose(_ index: Int, into choice: inout Choice) {
    choice.tearing = 0
    if choice.versions.count != unitCount {
      choice.versions = Array(repeating: 0, count: unitCount)
    }
    if index >= patternCount { return sample(index, into: &choice) }
    switch pattern {
    case .versions:
      var rest = index
      for unit in 0..<unitCount {
        let versions = newest(unit) + 1
        choice.versions[unit] = rest % versions
        rest /= versions
      }
    case .subsets:
      for unit in 0..<unitCount {
        choice.versions[unit] = index >> unit & 1 == 0 ? 0 : newest(unit)
      }
    case .structured: chooseStructured(index, into: &choice)
    }
  }

  private func chooseStructured(_ index: Int, into choice: inout Choice) {
    let isInverse = index & 1 != 0
    var (one, other) = (-1, -1)
    var rest = index / 2
    if rest > unitCount {
      // The pair of a number: row by row of the triangle below the diagonal.
      rest -= unitCount + 1
      one = 1
      while rest >= one {
        rest -= one
        one += 1
      }
      other = rest
    } else {
      one = rest - 1
    }
    for unit in 0..<unitCount {
      choice.versions[unit] = (unit == one || unit == other) != isInverse ? newest(unit) : 0
    }
  }

  private func sample(_ index: Int, into choice: inout Choice) {
    var generator = SeededGenerator(seed: seed &+ mix(UInt64(index)))
    // Tearing makes other images even of a few units.
    if pattern == .versions || index & 1 != 0 { choice.tearing = generator.next() | 1 }
    let share = generator.next() % 8 + 1
    let isOfAnyVersion = generator.next() % 2 == 0
    for unit in 0..<unitCount {
      let random = generator.next()
      let versions = newest(unit)
      choice.versions[unit] =
        random % 9 >= share
        ? 0 : isOfAnyVersion ? Int((random >> 8) % UInt64(versions)) + 1 : versions
    }
  }

  /// The length of the file in an image.
  func length(_ choice: Choice) -> Int {
    hasLength && choice.versions[unitCount - 1] > 0 ? model.lengthInFlight! : model.length
  }

  /// Puts the image's bytes over those on media at `target`, as far as the file reaches, and
  /// returns the hash of it all. `touched` is told each unit that differs.
  func apply(
    _ choice: Choice, to target: UnsafeMutableRawPointer, touched: (Range<Int>) -> Void
  ) -> UInt64 {
    let length = length(choice)
    var hash = model.hash
    if length != model.length {
      hash ^= PersistenceModel.hash(ofLength: model.length)
      hash ^= PersistenceModel.hash(ofLength: length)
    }
    model.blocks.withUnsafeBytes { blocks in
      let unitBytes = model.unitBytes
      for (index, flight) in model.flights.enumerated() where choice.versions[index] > 0 {
        let start = flight.unit * unitBytes
        guard start < length else { continue }
        let version = flight.versions[choice.versions[index] - 1]
        let bytes = blocks.baseAddress! + version.block * unitBytes
        touched(start..<start + unitBytes)
        let tearing = choice.tearing == 0 ? 0 : mix(choice.tearing &+ UInt64(flight.unit))
        if tearing & 3 == 1 {
          let older =
            choice.versions[index] == 1
            ? UnsafeRawPointer(model.media + start)
            : blocks.baseAddress! + flight.versions[choice.versions[index] - 2].block * unitBytes
          tear(tearing >> 2, older, bytes, target + start)
          hash ^= flight.mediaHash ^ hashOfUnit(flight.unit, target + start, unitBytes)
        } else {
          (target + start).copyMemory(from: bytes, byteCount: unitBytes)
          hash ^= flight.mediaHash ^ version.hash
        }
      }
    }
    return hash
  }

  /// Any of the words of the newer bytes.
  private func tear(
    _ mask: UInt64, _ older: UnsafeRawPointer, _ newer: UnsafeRawPointer,
    _ target: UnsafeMutableRawPointer
  ) {
    for word in 0..<model.unitBytes / 8 {
      let source = mask >> (word % 62) & 1 == 0 ? older : newer
      target.storeBytes(
        of: source.load(fromByteOffset: word * 8, as: UInt64.self), toByteOffset: word * 8,
        as: UInt64.self)
    }
  }
}
