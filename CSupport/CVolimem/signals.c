// Signals: the program's handlers run in the guest, the kernel's signals arrive on the host.
//
//   nothing, or default      the kernel does it, but for the signals of faults: a message first
//   a handler                on_signal is the kernel's; the program's is kept in program_actions
//
// Where the signal finds the thread:
//
//   in a visit       the kernel has built its frame over the program's registers, on the program's
//                    stack: the guest goes on in the program's handler with that very frame
//   in the run loop  or in a system call that it makes for the program: the signal is kept, with
//                    all others blocked, and delivered by a visit before the guest runs again. A
//                    call that had not begun, or that SA_RESTART begins again, is made after it.
//
// A handler returns by rt_sigreturn, which is a system call like others: its frame is read here.
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#define SIGNAL_COUNT 64
#define TRAP_FLAG 0x100
#define DIRECTION_FLAG 0x400ul
#define RESTORER_FLAG 0x04000000ul
#define IN_A_ROW_MAX 16  // signals; more than most programs queue
#define BIT(number) (1ul << ((number)-1))
#define AUTO_DISARM (1 << 31)  // SS_AUTODISARM

/// As the kernel's own call has it.
struct kernel_action {
  void *handler;
  unsigned long flags;
  void *restorer;
  uint64_t mask;
};

/// Written by rt_sigaction calls under `actions_lock`, read by handlers without it: a signal that
/// races with the call that changes its action sees either.
static struct kernel_action program_actions[SIGNAL_COUNT + 1];
static cvm_lock actions_lock;
static void *restorer;

static bool is_fault(int number) {
  return number == SIGSEGV || number == SIGBUS || number == SIGILL || number == SIGFPE ||
         number == SIGTRAP;
}

static bool has_handler(const struct kernel_action *action) {
  return action->handler != SIG_DFL && action->handler != SIG_IGN;
}

static bool dumps_core(int number) {
  return number == SIGQUIT || number == SIGABRT || number == SIGSYS || number == SIGXCPU ||
         number == SIGXFSZ || is_fault(number);
}

/// Whether the kernel's action is on_signal: a core is to show the program's registers, not ours.
static bool is_ours(int number, const struct kernel_action *action) {
  return has_handler(action) || is_fault(number) ||
         (dumps_core(number) && action->handler == SIG_DFL);
}

// Ends without us

static const char *fault_name(int number) {
  return number == SIGSEGV  ? "SIGSEGV"
         : number == SIGBUS ? "SIGBUS"
         : number == SIGILL ? "SIGILL"
         : number == SIGFPE ? "SIGFPE"
                            : "SIGTRAP";
}

static void report_pool(uint64_t address) {
  for (struct cvm_region *r = cvm_regions; r < cvm_regions_end; r++) {
    if ((address >> PAGE_SHIFT) - r->first_page >= r->page_count)
      continue;
    struct line line = {.length = 0};
    line_text(&line, "volip: that is in a pool, at offset ");
    line_hex(&line, address - (r->first_page << PAGE_SHIFT));
    line_text(&line, ", beyond the memory that was allocated");
    line_write(&line);
  }
}

static void report(int number, const siginfo_t *information, const greg_t *registers) {
  struct line line = {.length = 0};
  line_text(&line, "volip: ");
  line_text(&line, fault_name(number));
  bool is_memory = (number == SIGSEGV || number == SIGBUS) && information->si_code != SI_KERNEL;
  uint64_t address = (uint64_t)information->si_addr;
  if (is_memory) {
    line_text(&line, (registers[REG_ERR] & 16)  ? ", fetch from address "
                     : (registers[REG_ERR] & 2) ? ", write to address "
                                                : ", read of address ");
    line_hex(&line, address);
  }
  line_text(&line, is_memory ? " by the instruction at " : " at the instruction at ");
  // A breakpoint's signal comes behind it.
  line_hex(&line, (uint64_t)registers[REG_RIP] - (number == SIGTRAP));
  line_text(&line, ", thread ");
  line_number(&line, RAW(SYS_gettid));
  line_write(&line);
  if (is_memory)
    report_pool(address);
}

// With the default action back in place the same instruction faults again and ends the process. A
// signal that somebody sent has no such instruction, and a breakpoint is over: they are sent again.
static void end_by_default(int number, const siginfo_t *information) {
  struct kernel_action standard = {0};
  RAW(SYS_rt_sigaction, number, &standard, 0, 8);
  if (information->si_code <= 0 || number == SIGTRAP || !is_fault(number))
    RAW(SYS_tgkill, RAW(SYS_getpid), RAW(SYS_gettid), number);
}

// Arrival

static void forget_handler(int number) {
  const struct kernel_action standard = {0};
  signals_set_action(number, &standard);
}

// The guest goes on in the program's handler. The frame is the kernel's, from the return address
// below `context` on.
static void enter_handler(struct vcpu *vcpu, struct kernel_action action, int number,
                          siginfo_t *information, ucontext_t *context) {
  if (vcpu->alternate_stack.ss_flags & AUTO_DISARM)  // the kernel has done it, for this frame
    RAW(SYS_sigaltstack, 0, &vcpu->alternate_stack);
  // Not the visit's mask but the program's is to come back.
  memcpy(&context->uc_sigmask, &vcpu->visit_mask, sizeof vcpu->visit_mask);
  context->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
  struct kvm_regs registers;
  registers_from_context(&registers, context);
  registers.rip = (uint64_t)action.handler;
  registers.rsp = (uint64_t)context - sizeof(uint64_t);
  registers.rdi = (uint64_t)number;
  registers.rsi = (uint64_t)information;
  registers.rdx = (uint64_t)context;
  registers.rax = 0;
  registers.rflags &= ~DIRECTION_FLAG;
  uint64_t mask = vcpu->visit_mask | action.mask | (action.flags & SA_NODEFER ? 0 : BIT(number));
  if (action.flags & SA_RESETHAND)
    forget_handler(number);
  visit_end(vcpu, &registers, mask);
}

// A call that has not begun, or that the kernel is about to begin again.
static void interrupt_call(ucontext_t *context) {
  greg_t *rip = &context->uc_mcontext.gregs[REG_RIP];
  if (*rip >= (greg_t)cvm_call_window && *rip < (greg_t)cvm_call_window_end)
    *rip = (greg_t)cvm_call_interrupted;
}

static void keep(struct vcpu *vcpu, int number, const siginfo_t *information,
                 ucontext_t *context) {
  vcpu->pending_information = *information;
  memcpy(&vcpu->pending_mask, &context->uc_sigmask, sizeof vcpu->pending_mask);
  vcpu->pending = number;
  vcpu->run->immediate_exit = 1;
  const uint64_t others = ~BIT(KICK_SIGNAL);  // wait in the kernel until this one is delivered
  memcpy(&context->uc_sigmask, &others, sizeof others);
  interrupt_call(context);
}

static void on_signal(int number, siginfo_t *information, void *pointer) {
  ucontext_t *context = pointer;
  struct vcpu *vcpu = vcpu_of_thread();
  bool is_visit = vcpu != NULL && vcpu->visit != NULL;
  if (is_visit && number == SIGTRAP && information->si_code == TRAP_TRACE) {
    struct kvm_regs registers;
    registers_from_context(&registers, context);
    extended_state_from_context(vcpu, (const char *)context->uc_mcontext.fpregs);
    visit_end(vcpu, &registers, vcpu->visit_mask);
  }
  // Outside of a visit KVM says so of a page that the guest touched; it tries again afterwards.
  bool is_failed_memory = number == SIGBUS && (information->si_code == BUS_MCEERR_AR ||
                                               information->si_code == BUS_MCEERR_AO);
  bool is_synchronous =
      is_fault(number) && information->si_code > 0 && (is_visit || !is_failed_memory);
  struct kernel_action action = program_actions[number];  // once: other threads change it
  if (vcpu == NULL && has_handler(&action)) {
    // In a child that shares this memory (vfork): it runs on the host, handlers as well.
    ((void (*)(int, siginfo_t *, void *))action.handler)(number, information, context);
    return;
  }
  // As by the kernel, a fault that is blocked has no handler.
  bool is_blocked = is_visit && is_synchronous && (vcpu->visit_mask & BIT(number)) != 0;
  if (has_handler(&action) && is_visit && !is_blocked)
    enter_handler(vcpu, action, number, information, context);
  if (action.handler == SIG_IGN && !is_synchronous)
    return;  // it was on its way when the program changed its mind
  bool is_deferred = has_handler(&action) || (dumps_core(number) && !is_visit);
  if (is_deferred && vcpu != NULL && !is_synchronous) {
    keep(vcpu, number, information, context);
    return;
  }
  if (is_fault(number))
    report(number, information, context->uc_mcontext.gregs);
  end_by_default(number, information);
}

bool signals_end_faults(void) {
  for (int number = 1; number < KICK_SIGNAL; number++)
    if (is_fault(number) && has_handler(&program_actions[number]))
      return false;
  return true;
}

// Delivery

// Makes the vCPU leave the guest, for which nothing else does.
static void leave_after(struct vcpu *vcpu, long nanoseconds) {
  struct sigevent event;
  memset(&event, 0, sizeof event);
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = KICK_SIGNAL;
  event._sigev_un._tid = atomic_load(&vcpu->tid);
  // Then again and again, if it finds a stub, so seldom that the guest gets on between two.
  const struct itimerspec times = {.it_value = {.tv_nsec = nanoseconds},
                                   .it_interval = {.tv_nsec = 2000 * 1000}};
  int timer;
  if (RAW(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer) != 0)
    return;  // then at the next exit
  RAW(SYS_timer_settime, timer, 0, &times, 0);
  vcpu->delivery_timer = timer + 1;
}

// For a signal that found the vCPU in a stub at CPL0, which cannot be abandoned half done: some
// stubs long, even emulated.
void signals_deliver_soon(struct vcpu *vcpu) { leave_after(vcpu, 100 * 1000); }

static void stop_timer(struct vcpu *vcpu) {
  if (vcpu->delivery_timer != 0)
    RAW(SYS_timer_delete, vcpu->delivery_timer - 1);
  vcpu->delivery_timer = 0;
}

void signals_deliver(struct vcpu *vcpu, struct kvm_regs *registers) {
  int number = vcpu->pending;
  vcpu->pending = 0;
  vcpu->run->immediate_exit = 0;
  stop_timer(vcpu);
  if (RAW(SYS_rt_tgsigqueueinfo, RAW(SYS_getpid), RAW(SYS_gettid), number,
          &vcpu->pending_information) != 0)
    machine_stop("volip: a signal was lost: ", (uint64_t)number);
  vcpu->delivering = true;
  // If the program has come to ignore it, the visit ends as others do, by SIGTRAP.
  visit_host(vcpu, registers, ~(BIT(number) | BIT(SIGTRAP)));
  vcpu->delivering = false;
}

static void set_late(struct vcpu *vcpu, bool is_late) {
  vcpu->late = is_late;
  companion_avoid(vcpu, is_late);
}

// Signals that are waiting already when a handler returns come at once, as natively. But after many
// in a row they come when the guest has run for a while or made a call: else a timer that fires
// faster than this delivers would leave no time between.
static void set_mask_after_handler(struct vcpu *vcpu, uint64_t mask) {
  uint64_t waiting = 0;
  stop_timer(vcpu);
  RAW(SYS_rt_sigpending, &waiting, sizeof waiting);
  bool any = (waiting & ~mask & ~BIT(KICK_SIGNAL)) != 0;
  vcpu->in_a_row = any && vcpu->in_a_row < IN_A_ROW_MAX ? vcpu->in_a_row + 1 : 0;
  set_late(vcpu, any && vcpu->in_a_row == 0);
  if (!vcpu->late)
    return signals_set_mask(mask);
  vcpu->late_mask = mask;
  vcpu->kicked = 0;
  leave_after(vcpu, 1000 * 1000);  // the way into the guest and some instructions, under load
  signals_set_mask(~0ul);
}

void signals_resume(struct vcpu *vcpu) {
  if (!vcpu->late)
    return;
  set_late(vcpu, false);
  signals_set_mask(vcpu->late_mask);
  if (vcpu->pending == 0)  // another thread has it
    stop_timer(vcpu);
}

bool signals_return(struct vcpu *vcpu, struct kvm_regs *registers) {
  uint64_t before = signals_block_all();
  if (vcpu->pending != 0) {
    signals_set_mask(before);
    return false;
  }
  ucontext_t context;
  if (!copy_in(&context, registers->rsp, sizeof context))
    machine_stop("volip: rt_sigreturn without a frame at ", registers->rsp);
  char extended[sizeof(struct kvm_xsave)];
  const void *saved = context.uc_mcontext.fpregs;
  if (saved != NULL && copy_in(extended, (uint64_t)saved, cvm_machine.xstate_bytes))
    extended_state_from_context(vcpu, extended);
  registers_from_context(registers, &context);
  vcpu->alternate_stack = context.uc_stack;
  vcpu->alternate_stack.ss_flags &= ~SS_ONSTACK;
  uint64_t mask;
  memcpy(&mask, &context.uc_sigmask, sizeof mask);
  set_mask_after_handler(vcpu, mask);
  return true;
}

// What the program asks for

uint64_t signals_block_all(void) {
  const uint64_t all = ~0ul;
  uint64_t before = 0;
  RAW(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
  return before;
}

void signals_set_mask(uint64_t mask) {
  mask &= ~BIT(KICK_SIGNAL);
  RAW(SYS_rt_sigprocmask, SIG_SETMASK, &mask, 0, sizeof mask);
}

// The kernel's action for the program's: ours wherever the program has a handler or wants to know
// of faults. With the program's SA_RESTART, so that the kernel judges which call begins again; the
// guest runs the handler before it does.
long signals_set_action(int number, const struct kernel_action *wanted) {
  struct kernel_action ours = *wanted;
  if (is_ours(number, wanted)) {
    ours.handler = (void *)on_signal;
    ours.flags = (wanted->flags & (SA_NOCLDSTOP | SA_NOCLDWAIT | SA_RESTART)) | SA_SIGINFO |
                 SA_ONSTACK | RESTORER_FLAG;
    ours.restorer = restorer;
    ours.mask = ~0ul;
    if (!(wanted->flags & SA_ONSTACK) && has_handler(wanted))
      ours.flags &= ~(unsigned long)SA_ONSTACK;
  }
  lock(&actions_lock);
  struct kernel_action before = program_actions[number];
  program_actions[number] = *wanted;
  long result = RAW(SYS_rt_sigaction, number, &ours, 0, 8);
  if (result != 0)
    program_actions[number] = before;
  unlock(&actions_lock);
  return result;
}

long signals_action(const uint64_t *arguments) {
  uint64_t number = arguments[0];
  if (number < 1 || number > SIGNAL_COUNT || number == KICK_SIGNAL || arguments[3] != 8)
    return -EINVAL;
  struct kernel_action before = program_actions[number];
  struct kernel_action wanted;
  if (arguments[1] != 0) {
    if (!copy_in(&wanted, arguments[1], sizeof wanted))
      return -EFAULT;
    long result = signals_set_action((int)number, &wanted);
    if (result != 0)
      return result;
  }
  if (arguments[2] != 0 && !copy_out(arguments[2], &before, sizeof before))
    return -EFAULT;
  return 0;
}

// With a signal kept the kernel's mask is not the program's: that one's handler goes first.
long signals_mask(struct vcpu *vcpu, const uint64_t *arguments) {
  uint64_t wanted = 0;
  if (arguments[3] != sizeof wanted)
    return -EINVAL;
  if (arguments[1] != 0 && !copy_in(&wanted, arguments[1], sizeof wanted))
    return -EFAULT;
  uint64_t before = signals_block_all();
  if (vcpu->late)
    before = vcpu->late_mask;
  set_late(vcpu, false);
  uint64_t after = before;
  long result = 0;
  if (vcpu->pending != 0)
    result = CALL_NOT_BEGUN;
  else if (arguments[1] != 0)
    switch (arguments[0]) {
    case SIG_BLOCK:
      after = before | wanted;
      break;
    case SIG_UNBLOCK:
      after = before & ~wanted;
      break;
    case SIG_SETMASK:
      after = wanted;
      break;
    default:
      result = -EINVAL;
    }
  signals_set_mask(after);
  if (vcpu->pending == 0)
    stop_timer(vcpu);
  if (result == 0 && arguments[2] != 0 && !copy_out(arguments[2], &before, sizeof before))
    return -EFAULT;
  return result;
}

long signals_wait(struct vcpu *vcpu, const uint64_t *arguments) {
  uint64_t wanted;
  if (arguments[3] != sizeof wanted || !copy_in(&wanted, arguments[0], sizeof wanted))
    return cvm_interruptible_call(arguments, SYS_rt_sigtimedwait, &vcpu->pending);
  wanted &= ~BIT(KICK_SIGNAL);
  const uint64_t ours[6] = {(uint64_t)&wanted, arguments[1], arguments[2], arguments[3]};
  return cvm_interruptible_call(ours, SYS_rt_sigtimedwait, &vcpu->pending);
}

long signals_alternate_stack(struct vcpu *vcpu, uint64_t rsp, const uint64_t *arguments) {
  stack_t before = vcpu->alternate_stack;
  bool is_on_it = !(before.ss_flags & (SS_DISABLE | AUTO_DISARM)) && rsp > (uint64_t)before.ss_sp &&
                  rsp - (uint64_t)before.ss_sp <= before.ss_size;
  if (arguments[0] != 0) {
    stack_t wanted;
    if (!copy_in(&wanted, arguments[0], sizeof wanted))
      return -EFAULT;
    if (is_on_it)
      return -EPERM;
    // The kernel judges it; then it is taken away again (visit_host).
    long result = RAW(SYS_sigaltstack, &wanted, 0);
    if (result != 0)
      return result;
    RAW(SYS_sigaltstack, 0, &vcpu->alternate_stack);
    const stack_t none = {.ss_flags = SS_DISABLE};
    RAW(SYS_sigaltstack, &none, 0);
    vcpu->alternate_stack.ss_flags &= ~SS_ONSTACK;
  }
  before.ss_flags |= is_on_it ? SS_ONSTACK : 0;
  if (arguments[1] != 0 && !copy_out(arguments[1], &before, sizeof before))
    return -EFAULT;
  return 0;
}

// Coming and going

static void on_kick(int number, siginfo_t *information, void *pointer) {
  (void)number, (void)information;
  if (companion_kicked())
    return interrupt_call(pointer);
  struct vcpu *vcpu = vcpu_of_thread();
  if (vcpu == NULL)
    return;
  vcpu->kicked = 1;
  vcpu->run->immediate_exit = 1;
  if (vcpu->pending != 0)
    interrupt_call(pointer);
}

/// Takes over from the kernel what the program has asked for so far.
int signals_prepare(struct vcpu *vcpu) {
  struct sigaction kick;
  memset(&kick, 0, sizeof kick);
  kick.sa_sigaction = on_kick;
  kick.sa_flags = SA_RESTART | SA_SIGINFO;
  sigfillset(&kick.sa_mask);
  if (sigaction(KICK_SIGNAL, &kick, NULL) != 0)
    return errno;
  struct kernel_action installed;
  RAW(SYS_rt_sigaction, KICK_SIGNAL, 0, &installed, 8);
  restorer = installed.restorer;
  uint64_t mask = BIT(KICK_SIGNAL);  // may be inherited
  RAW(SYS_rt_sigprocmask, SIG_UNBLOCK, &mask, 0, sizeof mask);
  for (int number = 1; number < KICK_SIGNAL; number++) {
    struct kernel_action present;
    if (RAW(SYS_rt_sigaction, number, 0, &present, 8) != 0)
      continue;
    if (is_ours(number, &present))
      signals_set_action(number, &present);
    else
      program_actions[number] = present;
  }
  RAW(SYS_sigaltstack, 0, &vcpu->alternate_stack);
  const stack_t none = {.ss_flags = SS_DISABLE};
  RAW(SYS_sigaltstack, &none, 0);
  return 0;
}

/// In a child that has its own memory and goes on outside the guest: everything is the kernel's.
void signals_give_back(void) {
  atomic_store(&actions_lock, 0);  // another thread may have had it
  program_actions[KICK_SIGNAL] = (struct kernel_action){0};
  for (int number = 1; number <= KICK_SIGNAL; number++)
    if (is_ours(number, &program_actions[number]) || number == KICK_SIGNAL)
      RAW(SYS_rt_sigaction, number, &program_actions[number], 0, 8);
}
