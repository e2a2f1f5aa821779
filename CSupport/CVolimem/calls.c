// System calls of the program: forwarded, and where they write to pool memory marked (rule 16).
//
// The host's kernel writes behind the guest page table's back. So the table says for every call
// which memory it writes, and pool pages there are marked written in the page table before the
// call, for a commit of another thread while it runs, and again after it, for one that took place
// meanwhile: a call in flight at a collect stays marked for the next one. A mark too many costs a
// comparison. The kernel itself refuses pages that are not watched: the host maps them read-only.
//
// A call that is not in the table and has a pointer into a pool ends the process with its number.
//
// The table also says who may make a call: its own thread or, without an exit, the companion.
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <sys/uio.h>

enum output_kind {
  NONE,
  FIXED,    // `bytes` at the argument
  BYTES,    // as many as another argument says, divided by `bytes` if that is not 0
  HEADED,   // `bytes`, and behind them as many as another argument says
  BITS,     // another argument's count of bits, in words
  ARRAY,    // another argument's count of elements of `bytes`
  COUNTED,  // as many as the 32-bit word behind another argument says, and that word
  VECTOR,   // the buffers of an iovec array
  MESSAGE,  // a msghdr: its name, buffers, control data and the header itself
  MESSAGES, // an array of mmsghdr
  REQUEST,  // an ioctl's argument, as the request number says
};

struct output {
  uint8_t kind, argument, other;
  uint16_t bytes;
};

static const char *const way_names[] = {
    "own",  "apart",   "alone", "any",         "path", "path", "read",  "write",
    "receive", "send", "nonblocking", "poll", "wake", "fcntl", "ioctl", "clock",
    "random"};

struct call {
  const char *name;
  uint8_t argument_count;
  uint8_t way;
  struct output outputs[CVM_OUTPUTS_MAX];
};

#define READS(call, count, way) [SYS_##call] = {#call, count, way, {{NONE, 0, 0, 0}}}
#define WRITES(call, count, way, ...) [SYS_##call] = {#call, count, way, {__VA_ARGS__}}
#define FIX(argument, bytes) {FIXED, argument, 0, bytes}
#define BUF(argument, length) {BYTES, argument, length, 0}
#define SET(argument) {BITS, argument, 0, 0}
#define ARR(argument, count, bytes) {ARRAY, argument, count, bytes}
#define CNT(argument, length) {COUNTED, argument, length, 0}
#define VEC(argument, count) {VECTOR, argument, count, 0}

static const struct call calls[] = {
#include "calls_table.h"
};
#define CALL_COUNT (sizeof calls / sizeof calls[0])

const char *cvm_call_name(int number) {
  return number >= 0 && (size_t)number < CALL_COUNT ? calls[number].name : NULL;
}

const char *cvm_call_way(int number) {
  return cvm_call_name(number) != NULL ? way_names[calls[number].way] : NULL;
}

uint8_t call_may_be_requested[CALL_NUMBERS];

void calls_prepare(void) {
  for (size_t number = 0; number < CALL_COUNT; number++)
    call_may_be_requested[number] = calls[number].way > ALONE;
}

int cvm_call_output_count(int number) {
  if (cvm_call_name(number) == NULL)
    return 0;
  int count = 0;
  while (count < CVM_OUTPUTS_MAX && calls[number].outputs[count].kind != NONE)
    count++;
  return count;
}

// Marks

static void mark_page(struct cvm_region *region, uint64_t page) {
  uint64_t *marks = __atomic_load_n(&region->marks, __ATOMIC_ACQUIRE);
  if (marks != NULL) {
    uint64_t bit = region->first_mark + page;
    __atomic_fetch_or(&marks[bit / 64], 1ul << bit % 64, __ATOMIC_SEQ_CST);
    return;
  }
  uint64_t *entry = &region->entries[page];
  uint64_t bits = __atomic_load_n(entry, __ATOMIC_SEQ_CST);
  if (bits & CVM_GRANTABLE) {
    cvm_region_grant(region, (uint32_t)page);
  } else if (bits & CVM_WRITABLE) {
    cvm_entry_or(entry, CVM_DIRTY);
  }
}

static void mark(uint64_t address, uint64_t bytes) {
  if (bytes == 0 || address >= USER_END)
    return;
  if (bytes > USER_END - address)
    bytes = USER_END - address;
  uint64_t first = address >> PAGE_SHIFT;
  uint64_t end = ((address + bytes - 1) >> PAGE_SHIFT) + 1;
  for (struct cvm_region *region = cvm_regions; region < cvm_regions_end; region++) {
    uint64_t start = region->first_page;
    uint64_t stop = start + __atomic_load_n(&region->page_count, __ATOMIC_ACQUIRE);
    uint64_t last = end < stop ? end : stop;
    for (uint64_t page = first > start ? first : start; page < last; page++)
      mark_page(region, page - start);
  }
}

// The program's memory, read and written so that a bad address is an answer and not a fault.

static long copy(int call, const void *here, uint64_t there, size_t bytes) {
  struct iovec local = {(void *)here, bytes};
  struct iovec remote = {(void *)there, bytes};
  // By the thread's number: the process's has no memory any more when its first thread has ended.
  return RAW(call, RAW(SYS_gettid), &local, 1, &remote, 1, 0);
}

long copy_some(void *to, uint64_t from, size_t bytes) {
  return copy(SYS_process_vm_readv, to, from, bytes);
}

bool copy_in(void *to, uint64_t from, size_t bytes) {
  return copy_some(to, from, bytes) == (long)bytes;
}

bool copy_out(uint64_t to, const void *from, size_t bytes) {
  mark(to, bytes);
  bool is_done = copy(SYS_process_vm_writev, from, to, bytes) == (long)bytes;
  mark(to, bytes);
  return is_done;
}

// Outputs

#define VECTOR_MAX 1024  // UIO_MAXIOV: the kernel refuses longer ones

static void mark_vector(uint64_t address, uint64_t count) {
  struct iovec buffers[VECTOR_MAX];
  if (count > VECTOR_MAX || !copy_in(buffers, address, count * sizeof buffers[0]))
    return;
  for (uint64_t i = 0; i < count; i++)
    mark((uint64_t)buffers[i].iov_base, buffers[i].iov_len);
}

static void mark_message(uint64_t address) {
  struct msghdr head;
  if (!copy_in(&head, address, sizeof head))
    return;
  mark(address, sizeof head);
  mark((uint64_t)head.msg_name, head.msg_namelen);
  mark((uint64_t)head.msg_control, head.msg_controllen);
  mark_vector((uint64_t)head.msg_iov, head.msg_iovlen);
}

static void mark_messages(uint64_t address, uint64_t count) {
  struct mmsghdr {
    struct msghdr head;
    unsigned length;
  };
  for (uint64_t i = 0; i < count && i < VECTOR_MAX; i++) {
    mark(address + i * sizeof(struct mmsghdr), sizeof(struct mmsghdr));
    mark_message(address + i * sizeof(struct mmsghdr));
  }
}

// An ioctl's number says how much it writes, but for those from before that rule: the terminal's
// the sockets' and the disks', of which HDIO_GET_IDENTITY writes the most.
static uint64_t request_bytes(uint64_t request) {
  const uint64_t oldest_bytes = 512;
  uint64_t bytes = request >> 16 & 0x3fff;
  return bytes != 0 ? bytes : oldest_bytes;
}

static void mark_output(const struct output *output, const uint64_t *arguments) {
  uint64_t address = arguments[output->argument];
  uint64_t other = arguments[output->other];
  switch ((enum output_kind)output->kind) {
  case NONE:
    return;
  case FIXED:
    return mark(address, output->bytes);
  case BYTES:
    return mark(address, output->bytes != 0 ? other / output->bytes + 1 : other);
  case HEADED:
    return mark(address, other < USER_END ? output->bytes + other : 0);
  case BITS:
    return mark(address, ((uint32_t)other + 63ul) / 64 * 8);
  case ARRAY:  // counts are ints, and the kernel ignores what stands above
    return mark(address, (uint64_t)(uint32_t)other * output->bytes);
  case COUNTED: {
    uint32_t length;
    if (other == 0 || !copy_in(&length, other, sizeof length))
      return;
    mark(address, length);
    return mark(other, sizeof length);
  }
  case VECTOR:
    return mark_vector(address, other);
  case MESSAGE:
    return mark_message(address);
  case MESSAGES:
    return mark_messages(address, other);
  case REQUEST:
    return mark(address, request_bytes(other));
  }
}

static void mark_outputs(const struct call *call, const uint64_t *arguments) {
  for (int i = 0; i < CVM_OUTPUTS_MAX && call->outputs[i].kind != NONE; i++)
    mark_output(&call->outputs[i], arguments);
}

static bool is_tracked(uint64_t address) {
  return address - cvm_machine.options.tracked_base < cvm_machine.options.tracked_bytes;
}

static void refuse_unknown(long number, const uint64_t *arguments) {
  for (int i = 0; i < 6; i++) {
    if (!is_tracked(arguments[i]))
      continue;
    struct line line = {.length = 0};
    line_text(&line, "volip: system call ");
    line_number(&line, number);
    line_text(&line, " is not known, and its argument ");
    line_number(&line, i + 1);
    line_text(&line, " points into a pool: ");
    line_hex(&line, arguments[i]);
    line_write(&line);
    machine_stop("volip: what it writes could not be found; instruction after ", arguments[6]);
  }
}

// What the guest has not is refused as by a kernel or a processor without it; 0: it is not refused.
static long refusal(long number) {
  switch (number) {
  case SYS_io_uring_setup:  // rings through which the kernel writes to memory later on, unseen
  case SYS_io_setup:
  case SYS_rseq:
  case SYS_modify_ldt:
    return -ENOSYS;
  case SYS_pkey_alloc:
    return -ENOSPC;
  default:
    return 0;
  }
}

// A filter would judge this library's own calls, too.
static void refuse_filter(long number, const uint64_t *arguments) {
  bool is_wanted = number == SYS_prctl ? arguments[0] == PR_SET_SECCOMP
                                       : arguments[0] == SECCOMP_SET_MODE_STRICT ||
                                             (arguments[0] == SECCOMP_SET_MODE_FILTER &&
                                              arguments[2] != 0);  // NULL only asks
  if (is_wanted)
    machine_stop("volip: a program that installs a seccomp filter cannot run in guest mode, whose "
                 "own system calls it would judge; it was to be installed before the instruction "
                 "at ", arguments[6]);
}

// Closes what is the program's between this library's descriptors.
static long close_range_of_program(const uint64_t *arguments) {
  uint32_t first = (uint32_t)arguments[0];
  uint32_t last = (uint32_t)arguments[1];
  for (;;) {
    uint32_t own = UINT32_MAX;  // the lowest of this library's from `first` on
    for (const struct vcpu *vcpu = cvm_machine.first; vcpu != NULL; vcpu = vcpu->next)
      if ((uint32_t)vcpu->fd >= first && (uint32_t)vcpu->fd < own)
        own = (uint32_t)vcpu->fd;
    const uint32_t machine[] = {(uint32_t)cvm_machine.kvm, (uint32_t)cvm_machine.vm};
    for (int i = 0; i < 2; i++)
      if (machine[i] >= first && machine[i] < own)
        own = machine[i];
    if (own > last || first > last)
      return RAW(SYS_close_range, first, last, arguments[2]);
    if (own > first) {
      long result = RAW(SYS_close_range, first, own - 1, arguments[2]);
      if (result != 0)
        return result;
    }
    if (own == last)
      return 0;
    first = own + 1;
  }
}

static long make_once(struct vcpu *vcpu, long number, const uint64_t *arguments) {
  if (vcpu->late) {  // the call first, then the signal that is there; a kick comes soon
    signals_resume(vcpu);
    return cvm_interruptible_call(arguments, number, &vcpu->kicked);
  }
  vcpu->kicked = 0;
  return number == SYS_rt_sigtimedwait
             ? signals_wait(vcpu, arguments)
             : cvm_interruptible_call(arguments, number, &vcpu->pending);
}

// A kick that was sent while the thread was in the guest may come when it waits in a call: the call
// is made again, which a signal with SA_RESTART does not do for calls with a timeout.
static long make_whole(struct vcpu *vcpu, long number, const uint64_t *arguments) {
  long result;
  do
    result = make_once(vcpu, number, arguments);
  while (result == -EINTR && vcpu->kicked && vcpu->pending == 0);
  return result;
}

// Whether a descriptor is this library's, so that for the program there is none.
static bool is_hidden(long number, const uint64_t *arguments) {
  switch (number) {
  case SYS_close:
  case SYS_dup:
  case SYS_fcntl:
  case SYS_fstat:
  case SYS_newfstatat:
  case SYS_ioctl:
    return machine_owns((uint32_t)arguments[0]);
  case SYS_dup2:
  case SYS_dup3:
    return machine_owns((uint32_t)arguments[1]);
  default:
    return false;
  }
}

// Names, and what is the whole process's, make no thread different from another.
static enum way way_of(long number, const uint64_t *arguments) {
  if (cvm_call_name((int)number) == NULL)
    return APART;
  if (number == SYS_setitimer && arguments[0] == ITIMER_REAL)
    return OWN;
  if (number == SYS_close_range && (arguments[2] & CLOSE_RANGE_UNSHARE) != 0)
    return APART;
  if (number == SYS_timer_create && (arguments[0] == CLOCK_PROCESS_CPUTIME_ID))
    return ALONE;
  if (number != SYS_prctl)
    return calls[number].way;
  switch (arguments[0]) {
  case PR_SET_NAME:
  case PR_GET_NAME:
  case PR_SET_PDEATHSIG:
  case PR_SET_DUMPABLE:
  case PR_GET_DUMPABLE:
  case PR_SET_CHILD_SUBREAPER:
    return OWN;
  default:
    return APART;
  }
}

// A call in the thread that wants it; signals and their handlers are the guest's business.
static long make(struct vcpu *vcpu, long number, const uint64_t *arguments, void *pointer) {
  const struct kvm_regs *registers = pointer;
  if (refusal(number) != 0)
    return refusal(number);
  if (is_hidden(number, arguments))
    return -EBADF;
  if (rewrite_covers(number, arguments))
    rewrite_forget(vcpu, arguments);
  enum way way = way_of(number, arguments);
  if (way == APART || way == ALONE)
    companion_part(way == ALONE);
  switch (number) {
  case SYS_prctl:
  case SYS_seccomp:
    refuse_filter(number, arguments);
    break;
  case SYS_close_range:
    return close_range_of_program(arguments);
  case SYS_rt_sigaction:
    return signals_action(arguments);
  case SYS_rt_sigprocmask:
    return signals_mask(vcpu, arguments);
  case SYS_sigaltstack:
    return signals_alternate_stack(vcpu, registers->rsp, arguments);
  }
  return make_whole(vcpu, number, arguments);
}

static void trace_call(int tid, long number, const uint64_t *arguments, long result) {
  const char *name = cvm_call_name((int)number);
  struct line line = {.length = 0};
  line_text(&line, "volip[");
  line_number(&line, tid);
  line_text(&line, "] ");
  line_text(&line, name != NULL ? name : "call");
  if (name == NULL)
    line_number(&line, number);
  int count = name != NULL ? calls[number].argument_count : 6;
  for (int i = 0; i < count; i++) {
    line_text(&line, i == 0 ? "(" : ", ");
    line_hex(&line, arguments[i]);
  }
  line_text(&line, count == 0 ? "() = " : ") = ");
  line_number(&line, result);
  line_write(&line);
}

typedef long maker(struct vcpu *vcpu, long number, const uint64_t *arguments, void *more);

static long with_marks(struct vcpu *vcpu, long number, const uint64_t *arguments, maker *maker,
                       void *more) {
  bool has_pools = cvm_regions_end != cvm_regions;
  const struct call *call = cvm_call_name((int)number) != NULL ? &calls[number] : NULL;
  if (has_pools && call == NULL)
    refuse_unknown(number, arguments);
  if (has_pools && call != NULL)
    mark_outputs(call, arguments);
  long result = maker(vcpu, number, arguments, more);
  if (has_pools && call != NULL)
    mark_outputs(call, arguments);
  if (cvm_machine.options.trace_calls && result != CALL_NOT_BEGUN)
    trace_call(atomic_load(&vcpu->tid), number, arguments, result);
  return result;
}

long call_forward(struct vcpu *vcpu, const struct kvm_regs *registers) {
  const uint64_t arguments[] = {registers->rdi, registers->rsi, registers->rdx, registers->r10,
                                registers->r8,  registers->r9,  registers->rcx};
  return with_marks(vcpu, (int)registers->rax, arguments, make, (void *)registers);
}

struct attempt_state {
  volatile int *kicked;
  uint64_t progress;
};

static long attempt(struct vcpu *vcpu, long number, const uint64_t *arguments, void *pointer) {
  (void)vcpu;
  struct attempt_state *state = pointer;
  if (is_hidden(number, arguments))
    return -EBADF;
  if (rewrite_covers(number, arguments))
    return CALL_NOT_BEGUN;
  return attempt_call(calls[number].way, number, arguments, state->kicked, &state->progress);
}

bool call_for_another(struct vcpu *vcpu, struct request *request, volatile int *kicked) {
  struct attempt_state state = {kicked, 0};
  long result = with_marks(vcpu, request->number, request->arguments, attempt, &state);
  bool is_made = result != CALL_NOT_BEGUN;
  request->number = is_made ? result : (int64_t)state.progress;
  return is_made;
}
