// A cache that forgets what was used longest ago, and that is warm after a crash.

import VolipMem

/// A value in the list of uses; references name values in the pool, whoever holds them.
struct CacheEntry: BitwiseCopyable, Persistable {
  let key: Int
  var value: Int
  var newer: Ref<CacheEntry>?
  var older: Ref<CacheEntry>?
}

struct CacheEnds: BitwiseCopyable, Persistable {
  var newest: Ref<CacheEntry>?
  var oldest: Ref<CacheEntry>?
}

struct Cache: ~Copyable {
  static let capacity = 200
  let entries: PersistentDictionary<Int, Ref<CacheEntry>>
  let ends: Ref<CacheEnds>

  /// The value of a key, which counts as a use of it.
  func value(forKey key: Int, in section: inout Section) -> Int? {
    guard let entry = entries[key] else { return nil }
    unlink(entry, in: &section)
    link(entry, in: &section)
    return entry.value.value
  }

  func set(_ value: Int, forKey key: Int, in section: inout Section) throws(PoolError) {
    if let entry = entries[key] {
      entry.update(in: &section) { $0.value = value }
      unlink(entry, in: &section)
      return link(entry, in: &section)
    }
    if entries.count == Self.capacity, let oldest = ends.value.oldest {
      unlink(oldest, in: &section)
      entries.removeValue(forKey: oldest.value.key, in: &section)
      try oldest.free(in: &section)
    }
    let entry = try Ref(CacheEntry(key: key, value: value), in: &section)
    try entries.updateValue(entry, forKey: key, in: &section)
    link(entry, in: &section)
  }

  private func link(_ entry: Ref<CacheEntry>, in section: inout Section) {
    let newest = ends.value.newest
    entry.update(in: &section) { ($0.newer, $0.older) = (nil, newest) }
    newest?.update(in: &section) { $0.newer = entry }
    ends.update(in: &section) {
      $0.newest = entry
      if newest == nil { $0.oldest = entry }
    }
  }

  private func unlink(_ entry: Ref<CacheEntry>, in section: inout Section) {
    let (newer, older) = (entry.value.newer, entry.value.older)
    newer?.update(in: &section) { $0.older = older }
    older?.update(in: &section) { $0.newer = newer }
    ends.update(in: &section) {
      if newer == nil { $0.newest = older }
      if older == nil { $0.oldest = newer }
    }
  }
}

extension Cache: Example {
  init(in section: inout Section) throws(PoolError) {
    let entries = try PersistentDictionary<Int, Ref<CacheEntry>>(in: &section)
    self.init(entries: entries, ends: try Ref(CacheEnds(), in: &section))
  }

  func step(_ random: inout some RandomNumberGenerator, in section: inout Section) throws {
    let key = Int.random(in: 0..<500, using: &random)
    if value(forKey: key, in: &section) == nil {
      try set(key * 7, forKey: key, in: &section)
    }
  }

  var contradiction: String? {
    var (count, entry) = (0, ends.value.newest)
    while let present = entry {
      let (key, value) = (present.value.key, present.value.value)
      guard entries[key] == present, value == key * 7 else { return "key \(key)" }
      guard count < Self.capacity else { return "the list goes on" }
      count += 1
      entry = present.value.older
    }
    return count == entries.count ? nil : "\(count) listed, \(entries.count) entered"
  }

  func destroy(in section: inout Section) throws(PoolError) {
    while let oldest = ends.value.oldest {
      unlink(oldest, in: &section)
      try oldest.free(in: &section)
    }
    try entries.destroy(in: &section)
    try ends.free(in: &section)
  }

  func copy(in section: inout Section) throws(PoolError) -> Cache { try Cache(in: &section) }

  static var layout: String { "Cache(Int,Int,2)" }
}
