// A visit to the host: the thread runs one instruction of the program outside the guest.
//
// Where the guest cannot go on (no host page, no permission, an exception), the same instruction is
// run on the host with the program's registers. Most such instructions fault there as they would
// without us, and the kernel says which signal, with which address. The rest (stack growth, an
// instruction that the guest does not have) just work, and the guest goes on behind them.
//
//     run loop --- rt_sigreturn, trap flag ---> one instruction --- SIGTRAP ---> run loop
//                                                      |
//                                                      +--- its own signal ---> the process's end
//
// The trap flag's SIGTRAP and the five signals of faults are handled here for as long as the
// process is a virtual machine; what the program asks for with rt_sigaction is kept for its own
// questions.
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

// A signal frame with all extended state takes 12 KiB.
#define VISIT_STACK_BYTES (64ul << 10)
#define TRAP_FLAG 0x100ul
#define RESUME_FLAG 0x10000ul

// Extended state as the kernel wants it in a signal frame (Linux, asm/sigcontext.h).
#define XSTATE_MAGIC1 0x46505853u
#define XSTATE_MAGIC2 0x46505845u
#define LEGACY_BYTES 512
#define XSTATE_HEADER_OFFSET 512
#define RESERVED_OFFSET 464
struct reserved_words {
  uint32_t magic1, extended_size;
  uint64_t features;
  uint32_t xstate_size, padding[7];
};

struct step {
  void *host_stack;             // first: entry.S; where the run loop waits
  struct kvm_regs *registers;   // the program's, out and back
};

/// As the kernel's own call has it.
struct kernel_action {
  void *handler;
  unsigned long flags;
  void *restorer;
  uint64_t mask;
};

/// What the program has asked for, for when it asks what that was.
static struct kernel_action program_actions[5];
static const int fault_signals[5] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};

static void report(int number, const siginfo_t *information, const greg_t *registers) {
  static const char *const names[] = {"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGTRAP"};
  struct line line = {.length = 0};
  line_text(&line, "volip: ");
  for (int i = 0; i < 5; i++)
    if (fault_signals[i] == number)
      line_text(&line, names[i]);
  bool is_memory = number == SIGSEGV || number == SIGBUS;
  if (is_memory) {
    line_text(&line, (registers[REG_ERR] & 16)  ? ", fetch from address "
                     : (registers[REG_ERR] & 2) ? ", write to address "
                                                : ", read of address ");
    line_hex(&line, (uint64_t)information->si_addr);
  }
  line_text(&line, is_memory ? " by the instruction at " : " at the instruction at ");
  // A breakpoint's signal comes behind it.
  line_hex(&line, (uint64_t)registers[REG_RIP] - (number == SIGTRAP));
  line_text(&line, ", thread ");
  line_number(&line, RAW(SYS_gettid));
  line_write(&line);
  bool has_pools = cvm_this_vcpu != NULL;  // a forked child has not
  for (struct cvm_region *r = cvm_regions; is_memory && has_pools && r < cvm_regions_end; r++) {
    uint64_t page = ((uint64_t)information->si_addr >> PAGE_SHIFT) - r->first_page;
    if (page >= r->page_count)
      continue;
    line.length = 0;
    line_text(&line, "volip: that is in a pool, at offset ");
    line_hex(&line, (uint64_t)information->si_addr - (r->first_page << PAGE_SHIFT));
    line_text(&line, ", beyond the memory that was allocated");
    line_write(&line);
  }
}

// With the default action back in place the same instruction faults again and ends the process. A
// breakpoint would not: it is over.
static void end_by(int number, const siginfo_t *information) {
  struct kernel_action standard = {0};
  RAW(SYS_rt_sigaction, number, &standard, 0, 8);
  if (information->si_code <= 0 || number == SIGTRAP)  // somebody sent it
    RAW(SYS_tgkill, RAW(SYS_getpid), RAW(SYS_gettid), number);
}

static void take_registers(struct kvm_regs *to, const greg_t *from) {
  *to = (struct kvm_regs){
      .rax = (uint64_t)from[REG_RAX], .rbx = (uint64_t)from[REG_RBX],
      .rcx = (uint64_t)from[REG_RCX], .rdx = (uint64_t)from[REG_RDX],
      .rsi = (uint64_t)from[REG_RSI], .rdi = (uint64_t)from[REG_RDI],
      .rsp = (uint64_t)from[REG_RSP], .rbp = (uint64_t)from[REG_RBP],
      .r8 = (uint64_t)from[REG_R8], .r9 = (uint64_t)from[REG_R9],
      .r10 = (uint64_t)from[REG_R10], .r11 = (uint64_t)from[REG_R11],
      .r12 = (uint64_t)from[REG_R12], .r13 = (uint64_t)from[REG_R13],
      .r14 = (uint64_t)from[REG_R14], .r15 = (uint64_t)from[REG_R15],
      .rip = (uint64_t)from[REG_RIP],
      .rflags = (uint64_t)from[REG_EFL] & ~(TRAP_FLAG | RESUME_FLAG),
  };
}

static void give_registers(greg_t *to, const struct kvm_regs *from) {
  to[REG_RAX] = (greg_t)from->rax, to[REG_RBX] = (greg_t)from->rbx;
  to[REG_RCX] = (greg_t)from->rcx, to[REG_RDX] = (greg_t)from->rdx;
  to[REG_RSI] = (greg_t)from->rsi, to[REG_RDI] = (greg_t)from->rdi;
  to[REG_RSP] = (greg_t)from->rsp, to[REG_RBP] = (greg_t)from->rbp;
  to[REG_R8] = (greg_t)from->r8, to[REG_R9] = (greg_t)from->r9;
  to[REG_R10] = (greg_t)from->r10, to[REG_R11] = (greg_t)from->r11;
  to[REG_R12] = (greg_t)from->r12, to[REG_R13] = (greg_t)from->r13;
  to[REG_R14] = (greg_t)from->r14, to[REG_R15] = (greg_t)from->r15;
  to[REG_RIP] = (greg_t)from->rip;
  to[REG_EFL] = (greg_t)(from->rflags | TRAP_FLAG);
}

// A visit's end by the trap flag: registers and extended state back to the vCPU, then to where the
// run loop waits on its own stack.
static void come_back(struct vcpu *vcpu, const ucontext_t *context) {
  struct step *step = vcpu->step;
  take_registers(step->registers, context->uc_mcontext.gregs);
  struct kvm_xsave state;
  memset(&state, 0, sizeof state);
  const char *saved = (const char *)context->uc_mcontext.fpregs;
  struct reserved_words words;
  memcpy(&words, saved + RESERVED_OFFSET, sizeof words);
  size_t bytes = words.magic1 == XSTATE_MAGIC1 ? words.xstate_size : LEGACY_BYTES;
  memcpy(state.region, saved, bytes < sizeof state.region ? bytes : sizeof state.region);
  if (words.magic1 != XSTATE_MAGIC1)
    ((uint64_t *)state.region)[XSTATE_HEADER_OFFSET / 8] = 3;  // x87 and SSE are all there is
  memset((char *)state.region + RESERVED_OFFSET, 0, LEGACY_BYTES - RESERVED_OFFSET);
  long result = vcpu_ioctl(vcpu, KVM_SET_XSAVE, &state);
  if (result != 0)
    machine_stop("volip: KVM_SET_XSAVE, error ", (uint64_t)-result);
  vcpu->step = NULL;
  RAW(SYS_rt_sigprocmask, SIG_SETMASK, &context->uc_sigmask, 0, 8);
  cvm_step_return(step->host_stack);
}

static void on_signal(int number, siginfo_t *information, void *pointer) {
  ucontext_t *context = pointer;
  struct vcpu *vcpu = cvm_this_vcpu;
  bool is_visit = vcpu != NULL && vcpu->step != NULL;
  if (is_visit && number == SIGTRAP && information->si_code == TRAP_TRACE)
    come_back(vcpu, context);
  if (vcpu != NULL || number != SIGTRAP)
    report(number, information, context->uc_mcontext.gregs);
  end_by(number, information);
}

int step_prepare(void) {
  for (int i = 0; i < 5; i++) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigfillset(&action.sa_mask);
    RAW(SYS_rt_sigaction, fault_signals[i], 0, &program_actions[i], 8);
    if (sigaction(fault_signals[i], &action, NULL) != 0)
      return errno;
  }
  return 0;
}

bool step_keeps_action(long number, const uint64_t *arguments, long *result) {
  int index = 0;
  while (index < 5 && (uint64_t)fault_signals[index] != arguments[0])
    index++;
  if (number != SYS_rt_sigaction || index == 5)
    return false;
  struct kernel_action previous = program_actions[index];
  *result = 0;
  if (arguments[1] != 0 &&
      !copy_in(&program_actions[index], arguments[1], sizeof previous))
    *result = -EFAULT;
  else if (arguments[2] != 0 && !copy_out(arguments[2], &previous, sizeof previous))
    *result = -EFAULT;
  return true;
}

// What rt_sigreturn reads: the program's registers, extended state and mask.
struct visit_frame {
  ucontext_t context;
  char extended[sizeof(struct kvm_xsave) + 64] __attribute__((aligned(64)));
};

void step_on_host(struct vcpu *vcpu, struct kvm_regs *registers) {
  struct visit_frame frame;
  struct kvm_xsave state;
  memset(&frame.context, 0, sizeof frame.context);
  long result = vcpu_ioctl(vcpu, KVM_GET_XSAVE, &state);
  if (result != 0)
    machine_stop("volip: KVM_GET_XSAVE, error ", (uint64_t)-result);
  memcpy(frame.extended, state.region, sizeof state.region);
  uint32_t bytes = sizeof state.region;
  if (cvm_machine.xstate_bytes < bytes)
    bytes = cvm_machine.xstate_bytes;
  struct reserved_words words = {
      .magic1 = XSTATE_MAGIC1,
      .extended_size = bytes + sizeof(uint32_t),
      .features = cvm_machine.xcr0,
      .xstate_size = bytes,
  };
  memcpy(frame.extended + RESERVED_OFFSET, &words, sizeof words);
  const uint32_t magic2 = XSTATE_MAGIC2;
  memcpy(frame.extended + bytes, &magic2, sizeof magic2);
  frame.context.uc_flags = 1;  // extended state follows
  // Signals of the visit are taken on the unused end of this stack: the program's may be full.
  stack_t programs_stack;
  RAW(SYS_sigaltstack, 0, &programs_stack);
  frame.context.uc_stack = (stack_t){.ss_sp = vcpu->host_stack, .ss_size = VISIT_STACK_BYTES};
  frame.context.uc_mcontext.fpregs = (fpregset_t)(void *)frame.extended;
  give_registers(frame.context.uc_mcontext.gregs, registers);
  frame.context.uc_mcontext.gregs[REG_CSGSFS] = USER_CODE | (greg_t)USER_DATA << 48;
  RAW(SYS_rt_sigprocmask, SIG_SETMASK, 0, &frame.context.uc_sigmask, 8);
  // A blocked fault would end the process without a word.
  for (int i = 0; i < 5; i++)
    sigdelset(&frame.context.uc_sigmask, fault_signals[i]);
  struct step step = {.registers = registers};
  vcpu->step = &step;
  cvm_step_leave(&step, &frame.context);
  RAW(SYS_sigaltstack, &programs_stack, 0);
}
