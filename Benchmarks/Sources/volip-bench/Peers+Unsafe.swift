// The systems beside ours in the hash map benchmark: PersistentDictionary, libpmemobj, LMDB.

import CPeers
import Glibc
import VolipMem

/// Sections of announced writes.
struct DictionaryMap: MeasuredMap {
  let pool: Pool
  let dictionary: Ref<PersistentDictionary<UInt64, UInt64>>

  @inline(__always)
  mutating func update(_ count: Int, _ draw: inout Draw) throws -> Int {
    try pool.section(.announced) { section in
      var missed = 0
      for _ in 0..<count {
        let old = try dictionary.value.updateValue(
          draw.nextValue(), forKey: draw.nextKey(), in: &section)
        if old == nil { missed += 1 }
      }
      return missed
    }
  }

  @inline(__always)
  func value(of key: UInt64) -> UInt64? { dictionary.value[key] }
}

func dictionaryContender(_ keyCount: Int, checkpointThread: Bool) throws -> Contender {
  var configuration = PoolConfiguration.plain
  configuration.checkpointThread = checkpointThread
  let pool = try ScratchPool(byteCount: 1 << 30).open(configuration)
  let dictionary = try pool.section { section in
    try pool.root("map", in: &section) { section in
      try PersistentDictionary<UInt64, UInt64>(minimumCapacity: keyCount, in: &section)
    }
  }
  try pool.section { section in
    for index in 0..<UInt64(keyCount) {
      try dictionary.value.updateValue(index, forKey: key(index), in: &section)
    }
  }
  let name = checkpointThread ? "dictionary, checkpoint thread" : "dictionary"
  return contender(name, DictionaryMap(pool: pool, dictionary: dictionary), keyCount)
}

/// A peer in C: draws go through arrays, which costs it 2 ns an update.
struct PeerMap: MeasuredMap {
  let peer: OpaquePointer
  let keys = UnsafeMutablePointer<UInt64>.allocate(capacity: 1_000_000)
  let values = UnsafeMutablePointer<UInt64>.allocate(capacity: 1_000_000)

  mutating func update(_ count: Int, _ draw: inout Draw) -> Int {
    // SAFETY: a batch is at most 1,000,000 updates.
    for index in 0..<count {
      keys[index] = draw.nextKey()
      values[index] = draw.nextValue()
    }
    peer_update(peer, keys, values, count)
    return 0
  }

  func value(of key: UInt64) -> UInt64? { peer_get(peer, key) }
}

func peerContenders(_ keyCount: Int) throws -> [Contender] {
  // tmpfs stands for persistent memory, for libpmemobj too.
  setenv("PMEM_IS_PMEM_FORCE", "1", 1)
  let keys = (0..<UInt64(keyCount)).map(key)
  return try [("pmdk", peer_pmdk_open), ("lmdb", peer_lmdb_open)].map { name, open in
    let path = "\(ScratchPool.directory)/volip-bench-\(getpid())-\(name)"
    unlink(path)
    defer { unlink(path) }
    guard let peer = open(path, keys, keyCount) else { throw BenchError("no \(name)") }
    return contender(name, PeerMap(peer: peer), keyCount)
  }
}
