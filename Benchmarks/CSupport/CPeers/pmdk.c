#include "peers.h"

#include <libpmemobj.h>

struct node {
  uint64_t key;
  uint64_t value;
  PMEMoid next;
};

struct table {
  struct peer peer;
  PMEMobjpool *pool;
  PMEMoid *buckets;
  uint64_t mask;
};

static struct node *find(struct table *table, uint64_t key) {
  PMEMoid next = table->buckets[key & table->mask];
  for (;;) {
    struct node *node = pmemobj_direct(next);
    if (!node)
      peer_fail("libpmemobj: a key is missing");
    if (node->key == key)
      return node;
    next = node->next;
  }
}

static void update(struct peer *peer, const uint64_t *keys, const uint64_t *values, size_t count) {
  struct table *table = (struct table *)peer;
  TX_BEGIN(table->pool) {
    for (size_t index = 0; index < count; index++) {
      struct node *node = find(table, keys[index]);
      pmemobj_tx_add_range_direct(&node->value, sizeof node->value);
      node->value = values[index];
    }
  }
  TX_ONABORT {
    peer_fail("libpmemobj: a transaction was aborted");
  }
  TX_END
}

static uint64_t get(struct peer *peer, uint64_t key) {
  return find((struct table *)peer, key)->value;
}

static void fill(struct table *table, const uint64_t *keys, size_t key_count) {
  const size_t keys_in_section = 100;
  for (size_t first = 0; first < key_count; first += keys_in_section) {
    TX_BEGIN(table->pool) {
      for (size_t index = first; index < first + keys_in_section && index < key_count; index++) {
        PMEMoid *bucket = &table->buckets[keys[index] & table->mask];
        PMEMoid made = pmemobj_tx_alloc(sizeof(struct node), 1);
        struct node *node = pmemobj_direct(made);
        *node = (struct node){.key = keys[index], .value = index, .next = *bucket};
        pmemobj_tx_add_range_direct(bucket, sizeof *bucket);
        *bucket = made;
      }
    }
    TX_ONABORT {
      peer_fail("libpmemobj: a transaction was aborted");
    }
    TX_END
  }
}

struct peer *peer_pmdk_open(const char *path, const uint64_t *keys, size_t key_count) {
  struct table *table = calloc(1, sizeof *table);
  table->peer = (struct peer){.update = update, .get = get};
  size_t bucket_count = 1;
  while (bucket_count * 2 < key_count)
    bucket_count *= 2;
  table->mask = bucket_count - 1;
  table->pool = pmemobj_create(path, "bench", (size_t)1 << 30, 0600);
  if (!table->pool)
    peer_fail(pmemobj_errormsg());
  PMEMoid root = pmemobj_root(table->pool, sizeof(PMEMoid));
  PMEMoid *buckets = pmemobj_direct(root);
  if (pmemobj_zalloc(table->pool, buckets, bucket_count * sizeof(PMEMoid), 2) != 0)
    peer_fail(pmemobj_errormsg());
  table->buckets = pmemobj_direct(*buckets);
  fill(table, keys, key_count);
  return &table->peer;
}
