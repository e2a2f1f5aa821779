// The state of each thread: its section's pool and its last failure.
#include "face.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

_Thread_local volip_pool *cvf_pool __attribute__((tls_model("initial-exec")));

// Pointers only: the room for thread-local memory of a library that is opened late is small.
static _Thread_local volip_code last_code;
static _Thread_local const char *last_text;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t text_key;

static void make_key(void) {
  pthread_key_create(&text_key, free);
}

void cvf_keep_error(volip_code code, const char *text) {
  pthread_once(&once, make_key);
  char *copy = strdup(text);
  free(pthread_getspecific(text_key));
  pthread_setspecific(text_key, copy);
  last_text = copy != NULL ? copy : "No memory for what to say.";
  last_code = code;
}

volip_code volip_last_error(void) {
  return last_code;
}

const char *volip_error_text(void) {
  return last_text != NULL ? last_text : "";
}

volip_pool *volip_section_pool(void) {
  return cvf_pool;
}
