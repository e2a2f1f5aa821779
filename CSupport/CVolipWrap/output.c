// Output that is held: what leaves the process goes out when the epoch that it answers for is
// durable (rule 17). So whoever gets an answer can rely on what it says, whatever happens then.
//
// A call on a socket or an inherited pipe copies its bytes into one queue, in the order of the
// calls, and says that they are written. When an epoch is durable everything goes out that was in
// the queue when it began. What the kernel does not take yet stays, and keeps what follows for the
// same descriptor; others pass it.
//
//   held ----- epoch durable -----> released ----- the kernel takes it -----> gone
//
// Bounds: 8 MiB a descriptor; then a call that does not wait says EAGAIN, and one that does waits,
// which is a safe point, for the next epoch. A failure is reported by the next call on the same
// descriptor. A closed descriptor's output goes out by a duplicate.
//
// Descriptors whose both ends are in the process (pipe, socketpair) are not held, nor files: they
// are read again by the program itself. Streams (printf) are the C library's own calls, and not
// seen; a message with descriptors is refused with ENOTSUP.
//
// `queue_lock` guards the queue; it is held over calls of the kernel that do not wait.
#define _GNU_SOURCE
#include "internal.h"

#include <string.h>

#define HELD_MAX (8ul << 20)     // bytes of one descriptor
#define LAST_TIME 5000000ul      // microseconds without a byte sent, at the process's end
#define DESCRIPTORS (1 << 20)
#define WAITING_FILES (1 << 20)
#define PIPE_BYTES 4096ul        // that a pipe which can be written to takes at once

enum action { SEND, SHUT, CLOSE };

struct item {
  struct item *next;
  uint64_t number;     // in the order of the calls
  uint64_t file;       // the open file: descriptors may share it
  int descriptor;
  enum action action;
  int how;             // of a shutdown
  bool is_socket;
  socklen_t name_bytes;
  struct sockaddr_storage name;
  size_t bytes, done;
  size_t mapped_bytes;  // of the item, if a handler made it
  char data[];
};

bool output_is_held;
static pthread_mutex_t queue_lock = PTHREAD_MUTEX_INITIALIZER;
static struct item *first, **last = &first;
static uint64_t issued;                   // number of the last item
static _Atomic uint64_t released;         // items up to this number may go out
static _Atomic uint64_t queued;           // items in the queue
static _Atomic uint64_t to_be_sent;       // bytes of them

static struct output {
  size_t bytes;    // in the queue
  uint32_t items;
  int failure;     // an errno that the next call reports
  int sets[2];     // of epoll that it was added to, plus 1
} outputs[DESCRIPTORS];

// Files that the kernel takes no more for, as of pass `pass` through the queue: open addressing.
static struct waiting {
  uint64_t file, pass;
} waiting[WAITING_FILES];
static uint64_t pass;

static bool is_number(int descriptor) { return descriptor >= 0 && descriptor < DESCRIPTORS; }

static struct output *output_of(int descriptor) {
  return &outputs[is_number(descriptor) ? descriptor : 0];
}

// The entry of a file that waits, or the one where it belongs. There are fewer files than entries.
static struct waiting *waiting_of(uint64_t file) {
  uint64_t place = file;
  while (waiting[place % WAITING_FILES].pass == pass && waiting[place % WAITING_FILES].file != file)
    place++;
  return &waiting[place % WAITING_FILES];
}

static void append(struct item *item) {
  item->number = ++issued;
  item->next = NULL;
  *last = item;
  last = &item->next;
  output_of(item->descriptor)->bytes += item->bytes;
  output_of(item->descriptor)->items++;
  atomic_fetch_add(&queued, 1);
  atomic_fetch_add(&to_be_sent, item->bytes);
  gate_hurry();
}

// Handlers have items of their own kind: malloc is not for them.
static struct item *make_item(size_t data_bytes) {
  size_t bytes = sizeof(struct item) + data_bytes;
  struct item *item;
  if (!signals_in_handler()) {
    if ((item = malloc(bytes)) != NULL)
      item->mapped_bytes = 0;
    return item;
  }
  item = REAL(mmap)(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (item == MAP_FAILED)
    return NULL;
  item->mapped_bytes = bytes;
  return item;
}

static void free_item(struct item *item) {
  if (item->mapped_bytes != 0)
    REAL(munmap)(item, item->mapped_bytes);
  else if (!signals_in_handler())  // there the process ends
    free(item);
}

// Tries to send; true if the item is over.
static bool go_out(struct item *item) {
  switch (item->action) {
  case SHUT:
    REAL(shutdown)(item->descriptor, item->how);
    return true;
  case CLOSE:
    descriptor_give_up(item->descriptor);
    REAL(close)(item->descriptor);
    return true;
  case SEND:
    break;
  }
  do {
    const char *data = item->data + item->done;
    size_t bytes = item->bytes - item->done;
    ssize_t sent;
    if (item->is_socket) {
      sent = REAL(sendto)(item->descriptor, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL,
                          item->name_bytes > 0 ? (struct sockaddr *)&item->name : NULL,
                          item->name_bytes);
    } else {
      struct pollfd one = {item->descriptor, POLLOUT, 0};
      if (REAL(poll)(&one, 1, 0) <= 0)
        return false;
      sent = REAL(write)(item->descriptor, data, bytes < PIPE_BYTES ? bytes : PIPE_BYTES);
    }
    if (sent < 0 && errno == EINTR)
      continue;
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
      return false;
    if (sent < 0) {
      output_of(item->descriptor)->failure = errno;
      atomic_fetch_sub(&to_be_sent, bytes);
      return true;
    }
    item->done += (size_t)sent;
    atomic_fetch_sub(&to_be_sent, (uint64_t)sent);
  } while (item->done < item->bytes);
  return true;
}

// Everything released, but what stands behind an item of the same file that has to wait.
static void send_released(void) {
  struct item **place = &first;
  pass++;
  while (*place != NULL && (*place)->number <= atomic_load(&released)) {
    struct item *item = *place;
    struct waiting *entry = waiting_of(item->file);
    if (entry->pass == pass || !go_out(item)) {
      *entry = (struct waiting){item->file, pass};
      place = &item->next;
      continue;
    }
    *place = item->next;
    if (item->next == NULL)
      last = place;
    output_of(item->descriptor)->bytes -= item->bytes;
    output_of(item->descriptor)->items--;
    atomic_fetch_sub(&queued, 1);
    free_item(item);
  }
}

uint64_t output_mark(void) {
  if (!output_is_held)
    return 0;
  REAL(pthread_mutex_lock)(&queue_lock);
  uint64_t mark = issued;
  REAL(pthread_mutex_unlock)(&queue_lock);
  return mark;
}

void output_release(uint64_t mark) {
  if (!output_is_held)
    return;
  REAL(pthread_mutex_lock)(&queue_lock);
  if (mark > atomic_load(&released))
    atomic_store(&released, mark);
  send_released();
  REAL(pthread_mutex_unlock)(&queue_lock);
}

bool output_waits(void) {
  if (!output_is_held || atomic_load(&queued) == 0)
    return false;
  wrap_enter();
  REAL(pthread_mutex_lock)(&queue_lock);
  bool waits = first != NULL && first->number <= atomic_load(&released);
  REAL(pthread_mutex_unlock)(&queue_lock);
  wrap_leave();
  return waits;
}

void output_drain(void) {
  if (!output_is_held || atomic_load(&queued) == 0)
    return;
  wrap_enter();
  REAL(pthread_mutex_lock)(&queue_lock);
  send_released();
  REAL(pthread_mutex_unlock)(&queue_lock);
  wrap_leave();
}

// The process ends: what is durable goes out, and whoever reads slowly is waited for, as long as
// anybody reads.
void output_finish(void) {
  uint64_t left = 0, since = 0;
  while (output_waits()) {
    output_drain();
    if (atomic_load(&to_be_sent) != left) {
      left = atomic_load(&to_be_sent);
      since = wrap_now();
    } else if (wrap_now() - since > LAST_TIME) {
      wrap_say("%lu bytes of output were not sent: for %lu s nobody has read any", left,
               LAST_TIME / 1000000);
      return;
    }
    REAL(usleep)(1000);
  }
}

static bool waits_for_room(int descriptor, int flags) {
  return (flags & MSG_DONTWAIT) == 0 && (REAL(fcntl)(descriptor, F_GETFL) & O_NONBLOCK) == 0;
}

// Room for more output of a descriptor: an errno, or 0. Who holds a lock is at no safe point, and
// would wait for ever: it passes the bound.
static int wait_for_room(int descriptor, int flags) {
  while (output_of(descriptor)->bytes >= HELD_MAX) {
    output_drain();
    if (output_of(descriptor)->bytes < HELD_MAX)
      break;
    if (!waits_for_room(descriptor, flags))
      return EAGAIN;
    if (wrap_is_busy(0))
      return 0;
    WAIT(0, REAL(usleep)(200));  // at a safe point the epoch can be committed
  }
  return 0;
}

static ssize_t hold(int descriptor, const struct iovec *parts, int count, int flags,
                    const struct sockaddr *name, socklen_t name_bytes) {
  size_t bytes = 0;
  for (int i = 0; i < count; i++)
    bytes += parts[i].iov_len;
  struct output *output = output_of(descriptor);
  if (output->failure != 0) {
    errno = output->failure;
    output->failure = 0;
    if (errno == EPIPE && (flags & MSG_NOSIGNAL) == 0)
      raise(SIGPIPE);
    return -1;
  }
  int error = wait_for_room(descriptor, flags);
  wrap_enter();  // a handler that interrupts must not hold output, too
  struct item *item = error == 0 ? make_item(bytes) : NULL;
  if (item == NULL) {
    wrap_leave();
    return errno = error != 0 ? error : ENOMEM, -1;
  }
  *item = (struct item){.descriptor = descriptor, .file = descriptor_file(descriptor),
                        .action = SEND, .bytes = bytes, .mapped_bytes = item->mapped_bytes,
                        .is_socket = descriptor_kind(descriptor) == KIND_SOCKET,
                        .name_bytes = name_bytes};
  if (name_bytes > 0)
    memcpy(&item->name, name, name_bytes);
  char *to = item->data;
  for (int i = 0; i < count; to += parts[i++].iov_len)
    memcpy(to, parts[i].iov_base, parts[i].iov_len);
  REAL(pthread_mutex_lock)(&queue_lock);
  append(item);
  REAL(pthread_mutex_unlock)(&queue_lock);
  wrap_leave();
  return (ssize_t)bytes;
}

ssize_t output_hold(int descriptor, const struct iovec *parts, int count) {
  return hold(descriptor, parts, count, 0, NULL, 0);
}

bool output_holds(int descriptor) {
  return output_is_held && wrap_self.inside == 0 && atomic_load(&gate_is_used) &&
         descriptor_kind(descriptor) >= KIND_OUTSIDE;
}

static bool append_action(int descriptor, uint64_t file, enum action action, int how) {
  struct item *item = make_item(0);
  if (item == NULL)
    return false;
  *item = (struct item){.descriptor = descriptor, .file = file, .action = action, .how = how,
                        .mapped_bytes = item->mapped_bytes};
  append(item);
  return true;
}

// What is held for a descriptor goes on by a duplicate. It must not keep the descriptor in the sets
// of epoll: the program has closed it.
static void move_to(int other, int descriptor) {
  for (int i = 0; i < 2; i++)
    if (output_of(descriptor)->sets[i] != 0)
      REAL(epoll_ctl)(output_of(descriptor)->sets[i] - 1, EPOLL_CTL_DEL, descriptor, NULL);
  for (struct item *item = first; item != NULL; item = item->next)
    if (item->descriptor == descriptor)
      item->descriptor = other;
  *output_of(other) = (struct output){.bytes = output_of(descriptor)->bytes,
                                      .items = output_of(descriptor)->items};
  *output_of(descriptor) = (struct output){.bytes = 0};
}

bool output_before_close(int descriptor) {
  if (!output_is_held || wrap_self.inside != 0 || !is_number(descriptor))
    return true;
  struct output *output = output_of(descriptor);
  if (output->items == 0) {
    if (output->failure != 0 || output->sets[0] != 0)
      *output = (struct output){.bytes = 0};
    return true;
  }
  wrap_enter();
  int other = -1;
  REAL(pthread_mutex_lock)(&queue_lock);
  if (output_of(descriptor)->items > 0)
    other = descriptor_keep(REAL(fcntl)(descriptor, F_DUPFD_CLOEXEC, 0));
  bool may_close = other >= 0 || output_of(descriptor)->items == 0;
  if (other >= 0)
    move_to(other, descriptor);
  else if (!may_close)
    descriptor_claim(descriptor);
  if (other >= 0 || !may_close)
    append_action(other >= 0 ? other : descriptor, descriptor_file(descriptor), CLOSE, 0);
  REAL(pthread_mutex_unlock)(&queue_lock);
  wrap_leave();
  return may_close;
}

// What the parent holds is its own to let out.
void output_forget(void) {
  for (struct item *item = first; item != NULL; item = item->next)
    *output_of(item->descriptor) = (struct output){.bytes = 0};
  first = NULL;
  last = &first;
  atomic_store(&queued, 0);
  atomic_store(&to_be_sent, 0);
  pthread_mutex_init(&queue_lock, NULL);
}

void output_start(void) {
  const char *text = getenv("VOLIP_ACKS");
  output_is_held = text != NULL && strcmp(text, "durable") == 0;
}

// The program's calls

EXPORTED ssize_t sendto(int descriptor, const void *buffer, size_t bytes, int flags,
                        const struct sockaddr *name, socklen_t name_bytes) {
  const struct iovec part = {(void *)buffer, bytes};
  if (!output_holds(descriptor))
    return REAL(sendto)(descriptor, buffer, bytes, flags, name, name_bytes);
  if ((flags & ~(MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE)) != 0 ||
      name_bytes > sizeof(struct sockaddr_storage))
    return errno = EOPNOTSUPP, -1;
  return hold(descriptor, &part, 1, flags, name, name != NULL ? name_bytes : 0);
}

EXPORTED int epoll_ctl(int set, int operation, int descriptor, struct epoll_event *event) {
  int result = REAL(epoll_ctl)(set, operation, descriptor, event);
  if (result != 0 || operation != EPOLL_CTL_ADD || !output_is_held || !is_number(descriptor))
    return result;
  int *sets = output_of(descriptor)->sets;
  if (sets[0] != set + 1)
    sets[1] = sets[0];
  sets[0] = set + 1;
  return result;
}

EXPORTED ssize_t send(int descriptor, const void *buffer, size_t bytes, int flags) {
  return sendto(descriptor, buffer, bytes, flags, NULL, 0);
}

EXPORTED ssize_t sendmsg(int descriptor, const struct msghdr *message, int flags) {
  if (!output_holds(descriptor))
    return REAL(sendmsg)(descriptor, message, flags);
  if (message->msg_controllen != 0) {
    wrap_say("a message with control data cannot be held until it is durable");
    return errno = ENOTSUP, -1;
  }
  if ((flags & ~(MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE)) != 0 ||
      message->msg_namelen > sizeof(struct sockaddr_storage))
    return errno = EOPNOTSUPP, -1;
  return hold(descriptor, message->msg_iov, (int)message->msg_iovlen, flags, message->msg_name,
              message->msg_name != NULL ? message->msg_namelen : 0);
}

EXPORTED int sendmmsg(int descriptor, struct mmsghdr *messages, unsigned count, int flags) {
  if (!output_holds(descriptor))
    return REAL(sendmmsg)(descriptor, messages, count, flags);
  unsigned done = 0;
  for (; done < count; done++) {
    ssize_t sent = sendmsg(descriptor, &messages[done].msg_hdr, flags);
    if (sent < 0)
      break;
    messages[done].msg_len = (unsigned)sent;
  }
  return done > 0 ? (int)done : -1;
}

EXPORTED int shutdown(int descriptor, int how) {
  if (!output_holds(descriptor) || how == SHUT_RD || atomic_load(&queued) == 0)
    return REAL(shutdown)(descriptor, how);
  wrap_enter();
  REAL(pthread_mutex_lock)(&queue_lock);
  bool is_held = append_action(descriptor, descriptor_file(descriptor), SHUT, how);
  REAL(pthread_mutex_unlock)(&queue_lock);
  wrap_leave();
  return is_held ? 0 : (errno = ENOMEM, -1);
}
