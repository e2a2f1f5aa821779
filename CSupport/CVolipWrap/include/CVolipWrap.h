// CVolipWrap: the library that `volip run` preloads when files of the program are to be pools. It
// interposes functions of the C library, in guest mode and on the host alike; there is nothing to
// call.
//
//   start.c     options, exit, exec, fork
//   real.c      the C library's own functions
//   gate.c      safe points: when an epoch may be committed, and who waits for whom
//   statistics.c epochs and what they cost
//   threads.c   threads begin and end
//   locks.c     locks that threads hold
//   waits.c     calls in which threads wait
//   signals.c   handlers run between waits, not in them
//   files.c     which descriptors are wrapped files; their life
//   access.c    read, write and their kin on them
//   names.c     unlink and rename
//   mappings.c  mmap, msync and their kin
//   output.c    output that is held until its epoch is durable
//
// What it reads from the environment, set by `volip run`:
//   VOLIP_PMAP           files that become pools, a line each: a pattern, perhaps `=` and a pool
//   VOLIP_ATOMIC_MSYNC   the same, committed by msync and its kin instead of epochs
//   VOLIP_COMMIT_EVERY   microseconds, `N calls`, or `at-wait`
//   VOLIP_ACKS           `durable` or `immediate`
//   VOLIP_NO_VM          the program stays on the host
#ifndef CVOLIPWRAP_H
#define CVOLIPWRAP_H
#endif
