#include "peers.h"

#include <lmdb.h>
#include <string.h>

struct environment {
  struct peer peer;
  MDB_env *environment;
  MDB_dbi database;
  MDB_txn *reader;
};

static void check(int result) {
  if (result != 0)
    peer_fail(mdb_strerror(result));
}

static void put(MDB_txn *section, MDB_dbi database, uint64_t key, uint64_t value) {
  MDB_val key_bytes = {sizeof key, &key};
  MDB_val value_bytes = {sizeof value, &value};
  check(mdb_put(section, database, &key_bytes, &value_bytes, 0));
}

static void update(struct peer *peer, const uint64_t *keys, const uint64_t *values, size_t count) {
  struct environment *self = (struct environment *)peer;
  MDB_txn *section;
  check(mdb_txn_begin(self->environment, NULL, 0, &section));
  for (size_t index = 0; index < count; index++)
    put(section, self->database, keys[index], values[index]);
  check(mdb_txn_commit(section));
}

static uint64_t get(struct peer *peer, uint64_t key) {
  struct environment *self = (struct environment *)peer;
  check(self->reader ? mdb_txn_renew(self->reader)
                     : mdb_txn_begin(self->environment, NULL, MDB_RDONLY, &self->reader));
  MDB_val key_bytes = {sizeof key, &key};
  MDB_val found;
  check(mdb_get(self->reader, self->database, &key_bytes, &found));
  uint64_t value;
  memcpy(&value, found.mv_data, sizeof value);
  mdb_txn_reset(self->reader);
  return value;
}

struct peer *peer_lmdb_open(const char *path, const uint64_t *keys, size_t key_count) {
  struct environment *self = calloc(1, sizeof *self);
  self->peer = (struct peer){.update = update, .get = get};
  check(mdb_env_create(&self->environment));
  check(mdb_env_set_mapsize(self->environment, (size_t)1 << 30));
  unsigned flags = MDB_NOSUBDIR | MDB_NOTLS | MDB_NOLOCK | MDB_WRITEMAP;
  check(mdb_env_open(self->environment, path, flags, 0600));
  MDB_txn *section;
  check(mdb_txn_begin(self->environment, NULL, 0, &section));
  check(mdb_dbi_open(section, NULL, MDB_INTEGERKEY, &self->database));
  for (size_t index = 0; index < key_count; index++)
    put(section, self->database, keys[index], index);
  check(mdb_txn_commit(section));
  return &self->peer;
}
