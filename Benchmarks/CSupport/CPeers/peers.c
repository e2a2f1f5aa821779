#include "peers.h"

#include <stdio.h>

void peer_update(struct peer *peer, const uint64_t *keys, const uint64_t *values, size_t count) {
  peer->update(peer, keys, values, count);
}

uint64_t peer_get(struct peer *peer, uint64_t key) {
  return peer->get(peer, key);
}

_Noreturn void peer_fail(const char *message) {
  fprintf(stderr, "%s\n", message);
  exit(1);
}
