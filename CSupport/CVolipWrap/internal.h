// What the files of CVolipWrap share.
//
// All of it runs on the program's threads, in functions that the program called, or on a thread of
// its own (gate.c). While `wrap_self.inside` is not 0 the thread is in this library: the functions
// that it interposes do then what the C library's do.
#ifndef CVOLIPWRAP_INTERNAL_H
#define CVOLIPWRAP_INTERNAL_H

#include "CVolipWrap.h"
#include "real.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES 4096ul
/// The program may call it.
#define EXPORTED __attribute__((visibility("default")))
#define ALIAS(name) __attribute__((visibility("default"), alias(#name)))

// Threads

enum wrap_state { RUNNING, WAITING };

struct wrap_thread {
  int inside;              // how deep the thread is in this library
  int cancel_state;        // outside of it; inside it is not cancelled
  int locks;               // of the program, held
  // Of a handler that interrupted running code, which may be in the middle of anything: its frame.
  const char *volatile handler_frame;
  volatile enum wrap_state state;
  bool is_counted;         // by the gate
  volatile uint64_t late;  // signals that came while inside, to be sent again
  siginfo_t late_information[4];
  volatile int late_count;
};
extern _Thread_local struct wrap_thread wrap_self __attribute__((tls_model("initial-exec")));

/// Around everything that this library does for itself.
void wrap_enter(void);
void wrap_leave(void);

void threads_start(void);
void threads_forget(void);
void signals_start(void);
/// Sends signals again that came while the thread was inside.
void signals_send_late(void);
/// Whether this is the process that the library was started in, and not a child of it.
bool wrap_is_ours(void);

/// Whether the thread runs a handler that interrupted running code.
bool signals_in_handler(void);
/// Whether the thread may be in the middle of a change: with a lock, or in such a handler.
bool wrap_is_busy(int released);

// The gate

/// Whether there are pools, and epochs to commit.
extern _Atomic bool gate_is_used;
void gate_use(void);
/// The calling thread begins to wait, if it holds no lock but `released` that the wait releases.
/// Returns whether it is at a safe point; then `gate_end_wait` is to follow.
bool gate_begin_wait(int released);
void gate_end_wait(void);
/// The same, or false if the gate is closed.
bool gate_try_end_wait(void);
void gate_thread_never_began(void);
void gate_thread_begins(void);
void gate_thread_ends(void);
/// In a forked child, which has one thread and no pools.
void gate_forget(void);
/// An epoch for the end of the process, or before a program takes its place: waits for a safe point
/// for a bounded time. Returns false if there was none.
bool gate_commit_last(void);
/// Output is held: an epoch is due as soon as all threads wait.
void gate_hurry(void);

static inline void gate_wait_is_over(const bool *is_waiting) {
  if (*is_waiting)
    gate_end_wait();
}

// A thread that is cancelled in the call runs on, too, in what cleans up behind it.
#define WAIT(released, call)                                                                   \
  ({                                                                                           \
    __attribute__((cleanup(gate_wait_is_over))) bool is_waiting_ = gate_begin_wait(released);  \
    __typeof__(call) result_ = (call);                                                         \
    result_;                                                                                   \
  })

// Statistics

/// From now on others can read them.
void statistics_share(void);
void statistics_forget(void);
void statistics_note_pages(uint64_t pages, uint64_t lines);
/// All files of an epoch, or one by a call.
void statistics_note_commit(uint64_t microseconds, bool is_empty);
void statistics_note_skip(void);
void statistics_print(int target);

// Files

enum wrap_commit { COMMIT_BY_EPOCH, COMMIT_BY_CALL };

/// What Swift says of an open pool.
struct wrap_pool {
  void *handle;
  char *base;        // the file's first byte
  uint64_t *length;
  uint64_t capacity;
};

struct wrap_file {
  _Atomic bool is_open;
  enum wrap_commit commit;
  char path[4096];
  uint64_t device, inode;
  struct wrap_pool pool;
  int carrier;                // a descriptor of our own of the plain file, which has the length
  _Atomic int descriptors;    // of the program
  _Atomic int mappings;
};
#define WRAP_FILES_MAX 64
extern struct wrap_file wrap_files[WRAP_FILES_MAX];

/// Commits all files under epochs. Ends the process if it fails.
void files_commit(void);
void file_commit(struct wrap_file *file);
/// The wrapped file behind a descriptor, or NULL.
struct wrap_file *file_of(int descriptor);
/// The same, or a file that becomes a pool now because it is to be mapped.
struct wrap_file *file_to_map(int descriptor);
/// The wrapped file with a mapped address, or NULL.
struct wrap_file *file_at(const void *address);
void file_release_mapping(struct wrap_file *file);
/// Makes the file longer or shorter; an errno, or 0.
int file_set_length(struct wrap_file *file, uint64_t length);
/// Lets bytes up to `end` be written; an errno, or 0.
int file_watch(struct wrap_file *file, uint64_t end);
/// Makes bytes zero that may be written; an errno, or 0.
int file_zero(struct wrap_file *file, uint64_t start, uint64_t end);
void files_start(void);
/// When a program has ended or is about to be replaced.
void files_close_all(void);
void files_forget(void);

/// What kind of thing a descriptor is, for output: learned when first asked for.
enum wrap_kind { KIND_UNKNOWN, KIND_PLAIN, KIND_INSIDE, KIND_OUTSIDE, KIND_SOCKET };
enum wrap_kind descriptor_kind(int descriptor);
void descriptor_is_inside(int descriptor);
/// A child has the other ends, too: output to them leaves the process from now on.
void descriptors_are_shared(void);
void descriptor_forget(int descriptor);
bool descriptor_is_ours(int descriptor);
/// A number for the open file behind a descriptor that output goes to.
uint64_t descriptor_file(int descriptor);
/// A descriptor of the program's is this library's from now on.
void descriptor_claim(int descriptor);
/// Moves a descriptor of this library's to where programs have none.
int descriptor_keep(int descriptor);
/// Before it is closed.
void descriptor_give_up(int descriptor);

void mappings_forget(void);
/// Whether there are patterns, and the pool of a path that one of them fits; it need not exist.
bool files_are_wanted(void);
bool files_pool_path(const char *path, char *pool);
/// Commits a file whose program asks for it; 0, or -1 and errno.
int file_sync(struct wrap_file *file);
bool wrap_might_wait(int descriptor);

// Output

void output_start(void);
/// The descriptor is about to be closed: what is held for it goes out by another one. Returns false
/// if there is none: then this one is the library's now, and closed behind its output.
bool output_before_close(int descriptor);
/// Holds bytes for a descriptor, or nothing of them: errno EAGAIN.
bool output_holds(int descriptor);
ssize_t output_hold(int descriptor, const struct iovec *parts, int count);
extern bool output_is_held;
/// All that was held goes out: its epoch is durable.
void output_release(uint64_t mark);
uint64_t output_mark(void);
/// Tries again what the kernel did not take.
void output_drain(void);
/// Whether there is some.
bool output_waits(void);
/// Waits until all that is durable has gone out.
void output_finish(void);
void output_forget(void);

// Swift's side (Sources/VolipWrap)

int volip_wrapped_open(const char *path, int descriptor, uint64_t length, bool is_new,
                       struct wrap_pool *pool);
int volip_wrapped_commit(void *handle, uint64_t *pages, uint64_t *lines);
int volip_wrapped_watch(void *handle, uint64_t bytes);
int volip_wrapped_zero(void *handle, uint64_t start, uint64_t end);
void volip_wrapped_close(void *handle);
/// How often the virtual machine was left.
uint64_t volip_wrapped_exits(void);

// Text

/// A line on standard error: "volip: ", and what a format says.
void wrap_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/// The same, and the end of the process: what is durable must not be made wrong.
void wrap_stop(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

static inline uint64_t wrap_now(void) {  // microseconds
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_nsec / 1000;
}

#endif
