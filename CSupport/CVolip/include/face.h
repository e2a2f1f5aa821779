// What the C face keeps for each thread, beside what volip.h promises. Not installed.
#ifndef VOLIP_FACE_H
#define VOLIP_FACE_H

#include "volip.h"

/// The pool of the calling thread's section; NULL exactly while it has none, or has come out of a
/// fork. One load of the thread's base register: asked for by every allocation.
extern _Thread_local volip_pool *cvf_pool __attribute__((tls_model("initial-exec")));

static inline volip_pool *cvf_section_pool(void) {
  return cvf_pool;
}

static inline void cvf_set_section_pool(volip_pool *pool) {
  cvf_pool = pool;
}

/// Keeps a failure of the calling thread; the text is copied.
void cvf_keep_error(volip_code code, const char *text);

#endif
