#ifndef PEERS_H
#define PEERS_H

#include "CPeers.h"

#include <stdlib.h>

struct peer {
  void (*update)(struct peer *, const uint64_t *keys, const uint64_t *values, size_t count);
  uint64_t (*get)(struct peer *, uint64_t key);
};

_Noreturn void peer_fail(const char *message);

#endif
