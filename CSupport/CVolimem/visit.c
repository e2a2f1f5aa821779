// A visit to the host: the thread goes on outside the guest with the program's registers, for one
// instruction or for the delivery of one signal.
//
// Where the guest cannot go on (no host page, no permission, an exception), the same instruction is
// run on the host. Most such instructions fault there as they would without us, and the kernel says
// which signal, with which address. The rest (stack growth, an instruction that the guest has not)
// just work, and the guest goes on behind them.
//
// A signal with a handler is sent again to the thread itself and arrives as soon as the visit
// begins: so the kernel builds its frame, on the right stack, with the program's registers
// (signals.c).
//
//     run loop --- rt_sigreturn, trap flag ---> one instruction --- SIGTRAP ---> run loop
//                                                      |
//                                                      +--- another signal ----> its handler in the
//                                                                                guest, or the end
#define _GNU_SOURCE
#include "internal.h"

#include <signal.h>
#include <string.h>

// A signal frame with all extended state takes 12 KiB.
#define VISIT_STACK_BYTES (64ul << 10)
#define TRAP_FLAG 0x100ul
#define RESUME_FLAG 0x10000ul
// Flags that a program may set: status, direction, nested task is not one of them.
#define PROGRAM_FLAGS 0x240dd5ul
#define INTERRUPTS_FLAG 0x202ul

// Extended state as the kernel wants it in a signal frame (Linux, asm/sigcontext.h).
#define XSTATE_MAGIC1 0x46505853u
#define XSTATE_MAGIC2 0x46505845u
#define LEGACY_BYTES 512
#define RESERVED_OFFSET 464
struct reserved_words {
  uint32_t magic1, extended_size;
  uint64_t features;
  uint32_t xstate_size, padding[7];
};

struct visit {
  void *host_stack;            // first: entry.S; where the run loop waits
  struct kvm_regs *registers;  // the program's, out and back
  uint64_t mask;               // to be set at the end
};

// What rt_sigreturn reads: the program's registers, extended state and mask.
struct visit_frame {
  ucontext_t context;
  char extended[sizeof(struct kvm_xsave) + 64] __attribute__((aligned(64)));
};

void registers_from_context(struct kvm_regs *to, const ucontext_t *context) {
  const greg_t *from = context->uc_mcontext.gregs;
  uint64_t flags = (uint64_t)from[REG_EFL] & PROGRAM_FLAGS & ~(TRAP_FLAG | RESUME_FLAG);
  *to = (struct kvm_regs){
      .rax = (uint64_t)from[REG_RAX], .rbx = (uint64_t)from[REG_RBX],
      .rcx = (uint64_t)from[REG_RCX], .rdx = (uint64_t)from[REG_RDX],
      .rsi = (uint64_t)from[REG_RSI], .rdi = (uint64_t)from[REG_RDI],
      .rsp = (uint64_t)from[REG_RSP], .rbp = (uint64_t)from[REG_RBP],
      .r8 = (uint64_t)from[REG_R8],   .r9 = (uint64_t)from[REG_R9],
      .r10 = (uint64_t)from[REG_R10], .r11 = (uint64_t)from[REG_R11],
      .r12 = (uint64_t)from[REG_R12], .r13 = (uint64_t)from[REG_R13],
      .r14 = (uint64_t)from[REG_R14], .r15 = (uint64_t)from[REG_R15],
      .rip = (uint64_t)from[REG_RIP], .rflags = flags | INTERRUPTS_FLAG,
  };
}

static void registers_to_context(ucontext_t *context, const struct kvm_regs *from) {
  greg_t *to = context->uc_mcontext.gregs;
  to[REG_RAX] = (greg_t)from->rax, to[REG_RBX] = (greg_t)from->rbx;
  to[REG_RCX] = (greg_t)from->rcx, to[REG_RDX] = (greg_t)from->rdx;
  to[REG_RSI] = (greg_t)from->rsi, to[REG_RDI] = (greg_t)from->rdi;
  to[REG_RSP] = (greg_t)from->rsp, to[REG_RBP] = (greg_t)from->rbp;
  to[REG_R8] = (greg_t)from->r8, to[REG_R9] = (greg_t)from->r9;
  to[REG_R10] = (greg_t)from->r10, to[REG_R11] = (greg_t)from->r11;
  to[REG_R12] = (greg_t)from->r12, to[REG_R13] = (greg_t)from->r13;
  to[REG_R14] = (greg_t)from->r14, to[REG_R15] = (greg_t)from->r15;
  to[REG_RIP] = (greg_t)from->rip;
  to[REG_EFL] = (greg_t)((from->rflags & PROGRAM_FLAGS) | INTERRUPTS_FLAG | TRAP_FLAG);
  to[REG_CSGSFS] = USER_CODE | (greg_t)USER_DATA << 48;
}

void extended_state_from_context(struct vcpu *vcpu, const char *saved) {
  struct kvm_xsave state;
  memset(&state, 0, sizeof state);
  struct reserved_words words;
  memcpy(&words, saved + RESERVED_OFFSET, sizeof words);
  bool is_extended = words.magic1 == XSTATE_MAGIC1;
  size_t bytes = is_extended ? words.xstate_size : LEGACY_BYTES;
  memcpy(state.region, saved, bytes < sizeof state.region ? bytes : sizeof state.region);
  uint64_t *features = (uint64_t *)((char *)state.region + LEGACY_BYTES);
  // x87 and SSE are all there is; or the host has more than the guest.
  *features = is_extended ? *features & cvm_machine.xcr0 : 3;
  memset((char *)state.region + RESERVED_OFFSET, 0, LEGACY_BYTES - RESERVED_OFFSET);
  long result = vcpu_ioctl(vcpu, KVM_SET_XSAVE, &state);
  if (result != 0)
    machine_stop("volip: KVM_SET_XSAVE, error ", (uint64_t)-result);
}

static void extended_state_to_context(struct vcpu *vcpu, struct visit_frame *frame) {
  struct kvm_xsave state;
  long result = vcpu_ioctl(vcpu, KVM_GET_XSAVE, &state);
  if (result != 0)
    machine_stop("volip: KVM_GET_XSAVE, error ", (uint64_t)-result);
  memcpy(frame->extended, state.region, sizeof state.region);
  uint32_t bytes = sizeof state.region;
  if (cvm_machine.xstate_bytes < bytes)
    bytes = cvm_machine.xstate_bytes;
  struct reserved_words words = {
      .magic1 = XSTATE_MAGIC1,
      .extended_size = bytes + sizeof(uint32_t),
      .features = cvm_machine.xcr0,
      .xstate_size = bytes,
  };
  memcpy(frame->extended + RESERVED_OFFSET, &words, sizeof words);
  const uint32_t magic2 = XSTATE_MAGIC2;
  memcpy(frame->extended + bytes, &magic2, sizeof magic2);
  frame->context.uc_flags = 1;  // extended state follows
  frame->context.uc_mcontext.fpregs = (fpregset_t)(void *)frame->extended;
}

// `vcpu->visit` says to on_signal whose registers the kernel has saved, so no signal may come while
// it is set and the visit is not under way: all are blocked until rt_sigreturn, and from the
// handler that ends the visit until the end of this function.
void visit_host(struct vcpu *vcpu, struct kvm_regs *registers, uint64_t mask) {
  uint64_t before = signals_block_all();
  if (vcpu->pending != 0)  // one came just now: its handler first, then the instruction again
    return signals_set_mask(before);
  vcpu->visit_mask = vcpu->delivering ? vcpu->pending_mask : before;
  struct visit_frame frame;
  memset(&frame.context, 0, sizeof frame.context);
  vcpu_share_bases(vcpu);
  extended_state_to_context(vcpu, &frame);
  registers_to_context(&frame.context, registers);
  // The program's alternate stack is the kernel's only during a visit: the run loop's own stack is
  // never on it, so that a signal there would begin at its top, over a handler's frames.
  frame.context.uc_stack = vcpu->alternate_stack;
  // The message of a fault on a full stack needs another: the unused end of this one.
  bool is_fault = !vcpu->delivering;
  if (is_fault && (vcpu->alternate_stack.ss_flags & SS_DISABLE) && signals_end_faults())
    frame.context.uc_stack = (stack_t){.ss_sp = vcpu->host_stack, .ss_size = VISIT_STACK_BYTES};
  memcpy(&frame.context.uc_sigmask, &mask, sizeof mask);
  struct visit visit = {.registers = registers};
  vcpu->visit = &visit;
  cvm_visit_leave(&visit, &frame.context);
  vcpu->visit = NULL;
  const stack_t none = {.ss_flags = SS_DISABLE};
  RAW(SYS_sigaltstack, &none, 0);
  signals_set_mask(visit.mask);
}

void visit_end(struct vcpu *vcpu, const struct kvm_regs *registers, uint64_t mask) {
  struct visit *visit = vcpu->visit;
  *visit->registers = *registers;
  visit->mask = mask;
  cvm_visit_return(visit->host_stack);
}
