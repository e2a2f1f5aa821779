// Calls as the companion makes them for another thread: only what any thread may do, and nothing
// that waits. Whatever is not known to be so is declined, and the thread makes the call itself.
//
// A call that may wait is tried in a form that does not. Where that finds nothing to do, the
// answer is the program's if it asked not to wait. A call that would send a signal to the thread
// that makes it (SIGPIPE, SIGXFSZ) has failed without a trace and is declined; terminals, which
// stop processes in the background, are declined at once.
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

struct attempt {
  long number;
  const uint64_t *arguments;
  volatile int *kicked;
};

// The call, with one argument changed if `index` is not negative.
static long make(const struct attempt *it, long number, int index, uint64_t value) {
  uint64_t arguments[6];
  memcpy(arguments, it->arguments, sizeof arguments);
  if (index >= 0)
    arguments[index] = value;
  long result = cvm_interruptible_call(arguments, number, it->kicked);
  bool is_over = number == SYS_close;  // whatever it says
  if ((result == -EINTR && !is_over) || result == -EPIPE || result == -EFBIG)
    return CALL_NOT_BEGUN;
  return result;
}

static long make_as_is(const struct attempt *it) { return make(it, it->number, -1, 0); }

static bool is_non_blocking(uint64_t descriptor) {
  long flags = RAW(SYS_fcntl, descriptor, F_GETFL);
  return flags >= 0 && (flags & O_NONBLOCK) != 0;
}

// Nothing to do now.
static long nothing(const struct attempt *it, bool asked_not_to_wait) {
  return asked_not_to_wait || is_non_blocking(it->arguments[0]) ? -EAGAIN : CALL_NOT_BEGUN;
}

enum kind {
  KIND_PLAIN,   // never waits
  KIND_KERNEL,  // the same, but what is written may be about the thread that writes it
  KIND_PIPE,
  KIND_SOCKET,
  KIND_OTHER,
  KIND_TERMINAL,
  KIND_NONE,
};

// /proc/self/attr, cgroup.threads, and their kin.
static bool is_of_kernel(uint64_t descriptor) {
  struct statfs system;
  if (RAW(SYS_fstatfs, descriptor, &system) != 0)
    return true;
  switch (system.f_type) {
  case PROC_SUPER_MAGIC:
  case CGROUP_SUPER_MAGIC:
  case CGROUP2_SUPER_MAGIC:
    return true;
  default:
    return false;
  }
}

static enum kind kind_of(uint64_t descriptor) {
  const unsigned memory_devices = 1;  // the major number of /dev/null and others
  struct stat status;
  if (RAW(SYS_fstat, descriptor, &status) != 0)
    return KIND_NONE;
  switch (status.st_mode & S_IFMT) {
  case S_IFREG:  // file systems of the kernel's have no device
    return major(status.st_dev) == 0 && is_of_kernel(descriptor) ? KIND_KERNEL : KIND_PLAIN;
  case S_IFDIR:
  case S_IFBLK:
    return KIND_PLAIN;
  case S_IFIFO:
    return KIND_PIPE;
  case S_IFSOCK:
    return KIND_SOCKET;
  case S_IFCHR:
    return major(status.st_rdev) == memory_devices ? KIND_PLAIN : KIND_TERMINAL;
  default:
    return KIND_OTHER;
  }
}

// What was written is in *progress if the rest has to wait.
static long judge_written(const struct attempt *it, long result, bool asked_not_to_wait,
                          uint64_t *progress) {
  uint64_t wanted = it->arguments[2];
  if (result == -EINPROGRESS && !asked_not_to_wait)  // a connection that is opened by it
    return CALL_NOT_BEGUN;
  if (result == -EAGAIN)
    return nothing(it, asked_not_to_wait);
  if (result < 0 || (uint64_t)result == wanted || asked_not_to_wait ||
      is_non_blocking(it->arguments[0]))
    return result;
  *progress = (uint64_t)result;
  return CALL_NOT_BEGUN;
}

static long try_vector(const struct attempt *it, long number) {
  const struct iovec buffer = {(void *)it->arguments[1], it->arguments[2]};
  const uint64_t arguments[6] = {it->arguments[0], (uint64_t)&buffer, 1, ~0ul, 0, RWF_NOWAIT};
  const struct attempt other = {number, arguments, it->kicked};
  return make_as_is(&other);
}

static long try_message(const struct attempt *it, long number) {
  const uint64_t arguments[6] = {it->arguments[0], it->arguments[1], it->arguments[2],
                                 MSG_DONTWAIT};
  const struct attempt other = {number, arguments, it->kicked};
  return make_as_is(&other);
}

static int socket_option(uint64_t descriptor, int option) {
  int value = 0;
  socklen_t bytes = sizeof value;
  RAW(SYS_getsockopt, descriptor, SOL_SOCKET, option, &value, &bytes);
  return value;
}

// SO_RCVLOWAT: a call that does not wait does not heed it.
static bool wants_more_than_some(uint64_t descriptor) {
  return socket_option(descriptor, SO_RCVLOWAT) > 1 && !is_non_blocking(descriptor);
}

// write ends a record of such a socket, which send does only if it is told to.
static bool has_records(uint64_t descriptor) {
  return socket_option(descriptor, SO_TYPE) == SOCK_SEQPACKET;
}

// What read and write have in common: a form that does not wait, by the kind of the descriptor.
static long try_transfer(const struct attempt *it, long vector, long message) {
  const uint64_t most_bytes = 1ul << 20;  // a kick would cut what takes long
  uint64_t descriptor = it->arguments[0];
  if (it->arguments[2] == 0 || it->arguments[2] > most_bytes)
    return CALL_NOT_BEGUN;
  bool writes = message == SYS_sendto;
  long result = -EOPNOTSUPP;
  switch (kind_of(descriptor)) {
  case KIND_PLAIN:
    return make_as_is(it);
  case KIND_KERNEL:
    return writes ? CALL_NOT_BEGUN : make_as_is(it);
  case KIND_OTHER:
    return is_non_blocking(descriptor) ? make_as_is(it) : CALL_NOT_BEGUN;
  case KIND_PIPE:
    result = try_vector(it, vector);
    break;
  case KIND_SOCKET:
    if (!(writes ? has_records(descriptor) : wants_more_than_some(descriptor)))
      result = try_message(it, message);
    break;
  case KIND_TERMINAL:
  case KIND_NONE:
    break;
  }
  return result == -EOPNOTSUPP ? CALL_NOT_BEGUN : result;
}

static long try_read(const struct attempt *it) {
  long result = try_transfer(it, SYS_preadv2, SYS_recvfrom);
  return result == -EAGAIN ? nothing(it, false) : result;
}

static long try_write(const struct attempt *it, uint64_t *progress) {
  long result = try_transfer(it, SYS_pwritev2, SYS_sendto);
  return result == CALL_NOT_BEGUN ? result : judge_written(it, result, false, progress);
}

static long try_receive(const struct attempt *it) {
  int index = it->number == SYS_recvfrom ? 3 : 2;
  uint64_t flags = it->arguments[index];
  if ((flags & MSG_WAITALL) || wants_more_than_some(it->arguments[0]))
    return CALL_NOT_BEGUN;
  long result = make(it, it->number, index, flags | MSG_DONTWAIT);
  return result == -EAGAIN ? nothing(it, (flags & MSG_DONTWAIT) != 0) : result;
}

static long try_send(const struct attempt *it, uint64_t *progress) {
  bool is_message = it->number == SYS_sendmsg;
  int index = is_message ? 2 : 3;
  uint64_t flags = it->arguments[index];
  bool asked_not_to_wait = (flags & MSG_DONTWAIT) != 0;
  // How much a message has is not known here.
  if (is_message && !asked_not_to_wait && !is_non_blocking(it->arguments[0]))
    return CALL_NOT_BEGUN;
  long result = make(it, it->number, index, flags | MSG_DONTWAIT);
  if (is_message)
    return result;
  return judge_written(it, result, asked_not_to_wait, progress);
}

static long try_non_blocking(const struct attempt *it) {
  enum kind kind = kind_of(it->arguments[0]);
  bool may_wait = kind == KIND_PIPE || kind == KIND_SOCKET || kind == KIND_OTHER;
  bool is_safe = kind == KIND_PLAIN || (may_wait && is_non_blocking(it->arguments[0]));
  return is_safe ? make_as_is(it) : CALL_NOT_BEGUN;
}

static long try_poll(const struct attempt *it) {
  if (it->number == SYS_epoll_pwait && it->arguments[4] != 0)
    return CALL_NOT_BEGUN;  // a mask of signals is the thread's
  int index = it->number == SYS_poll ? 2 : 3;
  long result = make(it, it->number, index, 0);
  return result == 0 && (int)it->arguments[index] != 0 ? CALL_NOT_BEGUN : result;
}

static bool only_wakes(const struct attempt *it) {
  switch (it->arguments[1] & (uint64_t)FUTEX_CMD_MASK) {
  case FUTEX_WAKE:
  case FUTEX_REQUEUE:
  case FUTEX_CMP_REQUEUE:
  case FUTEX_WAKE_OP:
  case FUTEX_WAKE_BITSET:
    return true;
  default:
    return false;
  }
}

static bool is_harmless_request(const struct attempt *it) {
  switch (it->arguments[1]) {
  case FIONREAD:
  case FIONBIO:
  case FIOCLEX:
  case FIONCLEX:
    return true;
  default:
    return false;
  }
}

// Neither waits nor makes the thread an owner whom signals go to.
static bool is_plain_control(const struct attempt *it) {
  switch (it->arguments[1]) {
  case F_DUPFD:
  case F_DUPFD_CLOEXEC:
  case F_GETFD:
  case F_SETFD:
  case F_GETFL:
  case F_GETLK:
  case F_SETLK:
  case F_OFD_GETLK:
  case F_OFD_SETLK:
    return true;
  case F_SETFL:
    return (it->arguments[2] & O_ASYNC) == 0;
  default:
    return false;
  }
}

static bool is_common_clock(const struct attempt *it) {
  const uint64_t process_time = 2, thread_time = 3, most = 11;
  uint64_t clock = it->arguments[0];
  return clock <= most && clock != process_time && clock != thread_time;
}

// Bytes that the kernel takes long to make are cut by a kick.
static bool is_short(const struct attempt *it) { return it->arguments[1] <= 4 * PAGE_BYTES; }

// Whether a path may name the thread that looks it up: /proc/thread-self.
static bool may_name_thread(uint64_t path) {
  char text[256];
  long count = copy_some(text, path, sizeof text);
  if (count <= 0 || memchr(text, 0, (size_t)count) == NULL)
    return true;
  return strstr(text, "thread-self") != NULL;
}

long attempt_call(enum way way, long number, const uint64_t *arguments, volatile int *kicked,
                  uint64_t *progress) {
  const struct attempt it = {number, arguments, kicked};
  switch (way) {
  case ANY:
    return make_as_is(&it);
  case PATH_0:
    return may_name_thread(arguments[0]) ? CALL_NOT_BEGUN : make_as_is(&it);
  case PATH_1:
    return may_name_thread(arguments[1]) ? CALL_NOT_BEGUN : make_as_is(&it);
  case READ:
    return try_read(&it);
  case WRITE:
    return try_write(&it, progress);
  case RECEIVE:
    return try_receive(&it);
  case SEND:
    return try_send(&it, progress);
  case NONBLOCKING:
    return try_non_blocking(&it);
  case POLL:
    return try_poll(&it);
  case WAKE:
    return only_wakes(&it) ? make_as_is(&it) : CALL_NOT_BEGUN;
  case FCNTL:
    return is_plain_control(&it) ? make_as_is(&it) : CALL_NOT_BEGUN;
  case IOCTL:
    return is_harmless_request(&it) ? make_as_is(&it) : CALL_NOT_BEGUN;
  case CLOCK:
    return is_common_clock(&it) ? make_as_is(&it) : CALL_NOT_BEGUN;
  case RANDOM:
    return is_short(&it) ? make_as_is(&it) : CALL_NOT_BEGUN;
  case OWN:
  case APART:
  case ALONE:
    break;
  }
  return CALL_NOT_BEGUN;
}
