#define _GNU_SOURCE
#include "CVolipWriteSet.h"

#include <pthread.h>
#include <unistd.h>

_Thread_local struct cvw_thread_section cvw_this_thread
    __attribute__((tls_model("initial-exec")));
static pthread_key_t exit_key;
static void (*abandon_section)(void *owner);

static void on_thread_exit(void *value) {
  struct cvw_thread_section *section = value;
  if (section->depth > 0)
    abandon_section(section->owner);
  section->thread = 0;  // a section that a later destructor opens is watched again
}

// The section stays with the parent.
static void in_child(void) {
  cvw_this_thread.owner = NULL;
  cvw_this_thread.depth = 0;
  cvw_this_thread.lane = NULL;
  cvw_this_thread.group = NULL;
  cvw_this_thread.announced = NULL;
  cvw_this_thread.thread = 0;
}

int cvw_thread_section_on_exit(void (*abandon)(void *owner)) {
  abandon_section = abandon;
  int result = pthread_atfork(NULL, NULL, in_child);
  return result != 0 ? result : pthread_key_create(&exit_key, on_thread_exit);
}

void cvw_thread_section_enroll(void) {
  if (cvw_this_thread.thread != 0)
    return;
  cvw_this_thread.thread = gettid();
  pthread_setspecific(exit_key, &cvw_this_thread);
}

int cvw_cancellation_defer(void) {
  int previous = PTHREAD_CANCEL_ENABLE;
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &previous);
  return previous;
}

void cvw_cancellation_restore(int previous) {
  pthread_setcancelstate(previous, NULL);
}
