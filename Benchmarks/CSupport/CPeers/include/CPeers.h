// CPeers: what users would pick instead, as they would use it: libpmemobj's transactions on a
// chained hash table, and LMDB. For measurement only; a failure ends the process with a message.
#ifndef CPEERS_H
#define CPEERS_H

#include <stddef.h>
#include <stdint.h>

struct peer;

/// A chained table of `key_count` keys (each with its index as value) in a new libpmemobj pool,
/// with a bucket for two keys. A section is a transaction that adds each changed value to its undo
/// log.
struct peer *peer_pmdk_open(const char *path, const uint64_t *keys, size_t key_count);

/// The same keys in a new LMDB environment with MDB_WRITEMAP, its fastest durable mode.
struct peer *peer_lmdb_open(const char *path, const uint64_t *keys, size_t key_count);

/// Gives `count` keys that are there new values, failure-atomically.
void peer_update(struct peer *peer, const uint64_t *keys, const uint64_t *values, size_t count);

/// The value of a key that is there.
uint64_t peer_get(struct peer *peer, uint64_t key);

#endif
