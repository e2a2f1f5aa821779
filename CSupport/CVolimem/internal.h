// What the files of CVolimem share. Nothing here is seen by Swift.
//
// Rules of this code: it runs on the program's threads with the program's thread-local storage, so
// after cvm_enter raw system calls only, no errno, no allocation, no C library beyond memory and
// string functions. Before it, inside cvm_enter's preparation, everything is allowed.
#ifndef CVOLIMEM_INTERNAL_H
#define CVOLIMEM_INTERNAL_H

#include "CVolimem.h"

#include <asm/kvm.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <ucontext.h>

#pragma GCC visibility push(hidden)

#define PAGE_SHIFT 12
#define PAGE_BYTES 4096ul
#define LARGE_SHIFT 21
#define CHUNK_SHIFT 30
#define CHUNK_BYTES (1ul << CHUNK_SHIFT)
#define CHUNK_COUNT (1ul << 17)        // user addresses have 47 bits
#define USER_END ((1ul << 47) - PAGE_BYTES)
#define ADDRESS_MASK 0x000ffffffffff000ul

// Selectors as SYSCALL and SYSRET derive them from MSR_STAR; those of user mode are Linux's own.
#define KERNEL_CODE 0x10
#define KERNEL_DATA 0x18
#define USER_DATA 0x2b
#define USER_CODE 0x33
#define TASK_SELECTOR 0x40

// System calls that no kernel has, for this library's own use from inside the guest.
#define OWN_CALL_EXIT 0x7ffe0001l
#define OWN_CALL_MAP 0x7ffe0002l
#define OWN_CALL_FLUSH_OTHERS 0x7ffe0003l
#define OWN_CALL_LOG 0x7ffe0004l

static inline long raw_call6(long number, long a, long b, long c, long d, long e, long f) {
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}
#define RAW_PICK(number, a, b, c, d, e, f, ...) \
  raw_call6(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define RAW(...) RAW_PICK(__VA_ARGS__, 0, 0, 0, 0, 0, 0)

/// A lock that is only ever taken on the host side and held over no wait for another thread. Lock
/// order: `vcpus` before `slots`.
typedef _Atomic int cvm_lock;
static inline void lock(cvm_lock *it) {
  while (atomic_exchange(it, 1) != 0)
    RAW(SYS_sched_yield);
}
static inline void unlock(cvm_lock *it) { atomic_store(it, 0); }

/// In rax at an int3: not a breakpoint of the program but a wish to flush.
#define CVM_FLUSH_MAGIC 0x766f6c69

struct task_state {
  uint32_t reserved0;
  uint64_t rsp[3];
  uint64_t reserved1;
  uint64_t ist[7];
  uint64_t reserved2;
  uint16_t reserved3, io_map;
} __attribute__((packed));

#define HOST_STACK_BYTES (256ul << 10)
#define EXCEPTION_STACK_BYTES 8192ul

/// Of a call that the companion is to make (companion.c). The first line travels between the two
/// processors; entry.S knows the offsets.
enum request_state {
  REQUEST_IDLE,
  REQUEST_MADE,
  REQUEST_SERVED,   // by the companion
  REQUEST_AWAITED,  // the same, and the run loop sleeps
  REQUEST_DONE,     // the result is in `number`
  REQUEST_DECLINED,
};
struct request {
  _Atomic uint32_t state;
  uint32_t padding;
  int64_t number;
  uint64_t arguments[6];
  uint64_t rcx, r11, rsp;  // the program's
  uint64_t open;           // address of a word: whether requests are taken
  uint64_t may;            // address of a table of bytes: which calls may be requested
  uint64_t leave;          // where the stub goes to leave the guest
  uint32_t spins;
  uint32_t budget;         // calls by SYSCALL until one leaves for the run loop to see
  uint64_t direct;         // where trampolines go (rewrite.c)
};
_Static_assert(offsetof(struct request, rcx) == 64, "entry.S");
_Static_assert(offsetof(struct request, direct) == 120, "entry.S");

/// One vCPU. Created once, used by one thread at a time, reused when the thread ends; never freed.
/// Fields are the running thread's own, but for the atomic ones.
struct vcpu {
  uint64_t gdt[16];
  struct task_state task;
  int fd;
  int index;
  struct kvm_run *run;
  struct vcpu *next;             // all vCPUs, under machine.vcpus
  char *host_stack;              // the run loop's
  char *exception_stack;         // CPL0's inside the guest
  char *call_stub;               // a page of code, and behind it:
  struct request *request;
  uint64_t last_call;            // time stamp of the last return from a call
  int frequent_calls;            // in a row
  uint64_t last_look;            // time stamp of the last look at who has its processor
  uint64_t look_time;            // microseconds until the next one
  long processor_lost;           // how often, until then
  uint64_t program_gs;           // the base that the program has set
  _Atomic int taken;             // 0: no thread uses it
  _Atomic int tid;
  _Atomic int in_guest;          // 1 from before the look at the generation to after the run
  _Atomic uint64_t generation;   // of the last flush
  _Atomic uint64_t exits;
  _Atomic uint64_t entered;      // machine.leaves when it last went into the guest
  void *visit;                   // while it visits the host: struct visit
  volatile int pending;          // a signal to deliver before the guest runs again, or 0
  bool delivering;               // the visit under way is for that signal
  uint64_t pending_mask;         // the program's mask at its arrival
  uint64_t visit_mask;           // the program's mask during the visit under way
  int in_a_row;                  // signals that were waiting when the one before was over
  bool late;                     // signals were waiting when a handler returned (signals.c)
  uint64_t late_mask;            // the program's mask meanwhile
  uint64_t first_mask;           // the program's when this thread began
  volatile int kicked;           // a kick came
  siginfo_t pending_information;
  int delivery_timer;            // a timer's number plus 1, or 0
  stack_t alternate_stack;       // the program's; the kernel knows it during visits only
  uint64_t host_bases[2];        // FS and GS as the host's side of this thread has them
  bool has_own_storage;          // the thread does not share another one's
  struct vcpu **own_place;       // its cvm_this_vcpu, if so
};

#define REGION_COUNT 64

/// Memory that KVM knows: whole chunks, one behind the other. Only ever added.
struct slot {
  uint64_t first_page, page_count;  // virtual addresses >> 12
  uint64_t window;
  uint32_t log_users;               // the dirty log is on while there are any
};

struct machine {
  int kvm, vm;
  size_t run_bytes;
  struct kvm_cpuid2 *features;
  uint64_t xcr0;                 // what the guest has enabled
  uint64_t xcr0_listed;          // what KVM's CPUID says that it may
  uint32_t xstate_bytes;         // of the state that xcr0 enables, as XSAVE lays it out
  int phys_bits;
  bool identity;
  int call_cpl;
  uint64_t call_target;          // a page that nobody may fetch: system calls at CPL3 leave there
  uint64_t call_leave;           // where system calls leave
  uint64_t *top[2];              // two equal top-level tables: changing CR3 between them flushes
  char *table_next, *table_end;
  uint64_t table_count;
  uint64_t *idt;
  cvm_lock slots;                // guards the next five and the tables' upper levels
  struct slot *slot_table;       // by KVM's number of the slot
  uint32_t *window_of_chunk;     // guest-physical address >> 30, plus 1; 0: none yet
  uint64_t window_next;
  uint32_t slot_count;
  cvm_lock kicks;                // held while one is sent, and by a thread that executes a program
  cvm_lock vcpus;                // guards `first` and vCPUs that are made or taken
  struct vcpu *first;
  _Atomic uint64_t vcpu_count;
  _Atomic int thread_count;      // the program's
  _Atomic uint64_t generation;   // raised when entries lost rights
  _Atomic uint64_t leaves;       // raised when all vCPUs are to leave the guest once
  struct cvm_options options;
};

extern struct machine cvm_machine;
extern struct cvm_region cvm_regions[REGION_COUNT];
/// After the last slot in use; the page-fault handler looks no further.
extern struct cvm_region *cvm_regions_end;
/// For code in the guest. The run loop and handlers use vcpu_of_thread: FS may be anything.
extern _Thread_local struct vcpu *cvm_this_vcpu __attribute__((tls_model("initial-exec")));

// machine.c
int machine_prepare(const struct cvm_options *options, struct cvm_failure *failure);
void machine_discard(void);
/// In a child that has its own memory: nothing of its parent's machine is left.
void machine_forget(void);
/// As cvm_map, on the host. Idempotent.
int64_t machine_map(uint64_t address, uint64_t byte_count);
/// Tells KVM of a slot, or of other flags for it; returns a positive errno. Under `slots`.
int machine_set_slot(const struct slot *slot, uint32_t flags);
/// Shows the page at `target` at `address` in the guest; before anything has run there.
int machine_alias(uint64_t address, uint64_t target);
/// Gives a range 4 KiB entries; before anything has run there.
int machine_split(uint64_t address, uint64_t byte_count);
/// The 4 KiB entry of an address, or NULL if it has none or one of a pool's.
uint64_t *machine_entry(uint64_t address);
/// Moves a new descriptor of this library's to where programs have none; errors stay as they are.
int machine_own(int descriptor);
/// Whether a descriptor is this library's: for the program it is not open, and stays ours.
bool machine_owns(uint32_t descriptor);
/// Whether the chunk of an address has a guest-physical one.
bool machine_has(uint64_t address);

// vcpu.c
/// A vCPU that no thread uses, or a new one; NULL with *error set to a positive errno.
struct vcpu *vcpu_take(int *error);
long vcpu_ioctl(const struct vcpu *vcpu, unsigned long request, void *argument);
/// Registers, flags and segment bases for a thread that begins.
int vcpu_start(struct vcpu *vcpu, const struct kvm_regs *registers, uint64_t fs_base,
               uint64_t gs_base);
/// Extended state (x87, vector registers) of `from`, or of a fresh process if NULL.
int vcpu_copy_extended_state(struct vcpu *to, struct vcpu *from);
/// The vCPU of the calling thread, or NULL in a child that goes on outside the guest.
struct vcpu *vcpu_of_thread(void);
/// The base of GS as the program has it.
uint64_t vcpu_program_gs(const struct vcpu *vcpu, const struct kvm_sregs *s);
/// Lets the host's side of this thread have the program's FS and GS, before it runs there.
void vcpu_share_bases(struct vcpu *vcpu);
/// In a child that has its own memory: closes what it has inherited.
void vcpus_forget(void);
void vcpu_flush_if_stale(struct vcpu *vcpu);
void vcpus_flush_others(struct vcpu *self);
/// Makes every other vCPU that is inside the guest leave it once, and waits for that.
void vcpus_leave(struct vcpu *self);
/// The signal that pulls a vCPU out of the guest; programs cannot block or handle it.
#define KICK_SIGNAL 64

// run.c
/// Runs the guest's first instructions: at which level system calls arrive, and whether its time
/// stamps are the host's. Returns a positive errno if the guest does not behave.
int run_probe(struct vcpu *vcpu, bool *shares_time_stamps);
void run_forever(struct vcpu *vcpu) __attribute__((noreturn));

/// Stores to an entry of the page table as the guest, so that KVM sees it.
void run_store(struct vcpu *vcpu, uint64_t *entry, uint64_t value);
/// False if an exception is about to be delivered: then its stub has to have the registers first.
bool vcpu_is_between_instructions(const struct vcpu *vcpu);
/// From the exception stub's level back to the program's.
void vcpu_set_user_mode(struct vcpu *vcpu);

// dirtylog.c
/// What a cvm_log_... function asked for; on the host.
long log_call(struct vcpu *vcpu, const struct kvm_regs *registers);
uint64_t log_slot_count(void);

// regions.c
/// In a child that has its own memory: pools are not in it.
void regions_forget(void);

// process.c
long process_arch_prctl(struct vcpu *vcpu, const struct kvm_regs *registers);
long process_execute(struct vcpu *vcpu, const struct kvm_regs *registers);
/// What this process has from its start and cannot keep in the guest.
void process_prepare(void);
long process_clone(struct vcpu *vcpu, struct kvm_regs *registers, long number);
void process_exit_thread(struct vcpu *vcpu, long status) __attribute__((noreturn));
void process_thread_begins(struct vcpu *vcpu) __attribute__((noreturn));

// calls.c
/// Makes a call of the program, with the marks that rule 16 wants.
long call_forward(struct vcpu *vcpu, const struct kvm_regs *registers);
/// Makes a requested call: false if the thread that wants it has to make it itself, all of it or
/// behind the first `number` bytes.
bool call_for_another(struct vcpu *vcpu, struct request *request, volatile int *kicked);
/// Numbers of calls that may be requested, a byte each.
#define CALL_NUMBERS 512
extern uint8_t call_may_be_requested[CALL_NUMBERS];
void calls_prepare(void);

/// Copies from and to the program's memory, with marks; false where it is not there.
bool copy_in(void *to, uint64_t from, size_t bytes);
/// How many bytes could be read, or an error.
long copy_some(void *to, uint64_t from, size_t bytes);
bool copy_out(uint64_t to, const void *from, size_t bytes);

/// Who makes a call. Where it may wait, the companion tries it in a form that does not.
enum way {
  OWN,          // the thread itself: it depends on the thread, waits, or is rare
  APART,        // the thread itself, which may be different from others after it
  ALONE,        // the thread itself, and after it there can be no companion any more
  ANY,          // any thread
  PATH_0,       // any thread, but if the path in an argument is /proc/thread-self
  PATH_1,
  READ,         // any thread, if there is something to read
  WRITE,        // any thread, if there is room
  RECEIVE,      // the same with flags
  SEND,
  NONBLOCKING,  // any thread, if the descriptor is a non-blocking one
  POLL,         // any thread, if something is ready or the time-out is 0
  WAKE,         // any thread, for the operations of futex that only wake
  FCNTL,        // any thread, but for those that wait
  IOCTL,        // any thread, for those that are not a terminal's
  CLOCK,        // any thread, but for clocks of threads and processes
  RANDOM,       // any thread, for few bytes
};

// attempt.c
/// Makes a call that another thread wants, if that is right and does not wait; CALL_NOT_BEGUN if
/// not, perhaps with *progress bytes written.
long attempt_call(enum way way, long number, const uint64_t *arguments, volatile int *kicked,
                  uint64_t *progress);

// companion.c
/// When the guest is entered: a child has its parent's state, and no companion.
void companion_begin(void);
/// Before a thread begins on a vCPU.
void companion_prepare(struct vcpu *vcpu);
/// Calls of the vCPU leave by exits, or not any more.
void companion_avoid(struct vcpu *vcpu, bool avoids);
uint64_t companion_served(void);
/// A line of counts on standard error, before the process ends.
void companion_report(void);
/// Ends what the vCPU has requested: REQUEST_DONE with the result in `number`, REQUEST_DECLINED, or
/// REQUEST_IDLE if it was not even begun. Of a declined one, `number` bytes have been written.
enum request_state companion_settle(struct vcpu *vcpu);
/// A call has left by an exit: decides whether the companion is worth waking.
void companion_call_left(struct vcpu *vcpu, long number);
void companion_call_returns(struct vcpu *vcpu);
/// Whether this thread is the companion, which then leaves the call that it is in.
bool companion_kicked(void);
/// Before a call that makes a thread differ from others: the companion begins anew as a copy of it,
/// or there is none any more, at once with `for_good`.
void companion_part(bool for_good);

// rewrite.c
void rewrite_prepare(void);
/// A call has left the guest from the SYSCALL instruction before `back`.
void rewrite_call_left(struct vcpu *vcpu, uint64_t back, long number);
/// Whether a call changes pages of which the guest sees a changed copy; and before it is made.
bool rewrite_covers(long number, const uint64_t *arguments);
void rewrite_forget(struct vcpu *vcpu, const uint64_t *arguments);
/// For an address on the way from a replaced instruction to the call stub: that instruction's,
/// where the call begins again; else 0.
uint64_t rewrite_site(uint64_t rip);
/// Whether gs finds a vCPU's request; and that the program wants it for itself.
bool rewrite_uses_gs(void);
void rewrite_give_back_gs(void);

// visit.c
/// Goes on outside the guest with `registers` for one instruction, or until a signal's handler is
/// entered; comes back with the registers to go on with in the guest. `mask` is the kernel's
/// meanwhile; the program's is as it was.
void visit_host(struct vcpu *vcpu, struct kvm_regs *registers, uint64_t mask);
/// From a signal handler during a visit: back to the run loop.
void visit_end(struct vcpu *vcpu, const struct kvm_regs *registers, uint64_t mask)
    __attribute__((noreturn));
void registers_from_context(struct kvm_regs *to, const ucontext_t *context);
void extended_state_from_context(struct vcpu *vcpu, const char *saved);

// signals.c
struct kernel_action;
int signals_prepare(struct vcpu *vcpu);
void signals_give_back(void);
void signals_deliver(struct vcpu *vcpu, struct kvm_regs *registers);
/// The program's rt_sigreturn. False if a signal came before it.
bool signals_return(struct vcpu *vcpu, struct kvm_regs *registers);
/// Signals that had to wait until the guest has run may come now. To be called before anything that
/// depends on the mask.
void signals_resume(struct vcpu *vcpu);
long signals_set_action(int number, const struct kernel_action *wanted);
/// Whether the program leaves all faults to us, which end it.
bool signals_end_faults(void);
void signals_set_mask(uint64_t mask);
/// Blocks all signals, the kick too, and returns the mask before.
uint64_t signals_block_all(void);
/// The vCPU is to leave the guest soon, not at once.
void signals_deliver_soon(struct vcpu *vcpu);
long signals_action(const uint64_t *arguments);
long signals_mask(struct vcpu *vcpu, const uint64_t *arguments);
/// rt_sigtimedwait, but not for the kick.
long signals_wait(struct vcpu *vcpu, const uint64_t *arguments);
long signals_alternate_stack(struct vcpu *vcpu, uint64_t rsp, const uint64_t *arguments);
/// What cvm_interruptible_call says when a signal came before the call, or when the kernel would
/// begin the call again after the signal's handler.
#define CALL_NOT_BEGUN (-512l)

// vdso.c
/// Replaces what the guest cannot run: getcpu, and with `replace_clocks` the clocks.
int vdso_prepare(bool replace_clocks);

// text.c
struct line {
  char bytes[256];
  size_t length;
};
void line_text(struct line *line, const char *text);
void line_hex(struct line *line, uint64_t value);
void line_number(struct line *line, long value);
void line_write(struct line *line);
/// Ends the process with a message, for states that must not be.
void machine_stop(const char *what, uint64_t value) __attribute__((noreturn));

// entry.S
extern char cvm_exception_stubs[], cvm_exception_halted[];
extern char cvm_call_leave[], cvm_call_halted[];
extern char cvm_call_stub[], cvm_call_stub_saved[], cvm_call_stub_made[], cvm_call_stub_taken[];
extern char cvm_call_stub_direct[], cvm_call_stub_store[], cvm_call_stub_end[];
/// In the guest: asks cvm_flush_stub to flush, until it has. cvm_flush_asked is where it asked.
void cvm_flush_translations(void);
extern char cvm_flush_asked[];
extern char cvm_page_fault_stub[], cvm_flush_stub[], cvm_probe_stub[], cvm_stubs_end[];
bool cvm_switch(struct vcpu *vcpu, struct kvm_regs *room);
long cvm_raw_companion(uint64_t flags, char *stack, _Atomic int *tid, void *tls,
                       void (*function)(void));
long cvm_raw_thread(uint64_t flags, uint64_t stack, uint64_t parent_tid, uint64_t child_tid,
                    uint64_t tls, struct vcpu *vcpu);
/// What a child process continues with.
struct child_state {
  struct kvm_regs registers;
  uint64_t mask;
  uint64_t is_read;  // set by a child that shares memory
  struct vcpu *parent;
  bool keeps_handlers;
  uint64_t padding[2];
  char extended[sizeof(struct kvm_xsave)];
} __attribute__((aligned(64)));
_Static_assert(offsetof(struct child_state, mask) == 144, "entry.S");
_Static_assert(offsetof(struct child_state, is_read) == 152, "entry.S");
_Static_assert(offsetof(struct child_state, extended) == 192, "entry.S");
/// Makes a clone, clone3, fork or vfork that begins a process.
long cvm_raw_child(const uint64_t *arguments, long number, bool shares_memory,
                   struct child_state *state);
struct visit;
void cvm_visit_leave(struct visit *visit, void *context);
void cvm_visit_return(void *host_stack) __attribute__((noreturn));
/// Makes a system call unless *pending is set; a signal in between is seen (signals.c).
long cvm_interruptible_call(const uint64_t *arguments, long number, volatile int *pending);
extern char cvm_call_window[], cvm_call_window_end[], cvm_call_interrupted[];
void cvm_exit_thread_without_stack(_Atomic int *taken, long status) __attribute__((noreturn));

#pragma GCC visibility pop

#endif
