// Threads, children and ends.
//
//   a new thread     gets a vCPU with its parent's registers and starts in its own run loop
//   a child process  goes on outside the guest: it has none of the pools, and what it executes is
//                    taken along. It may enter a guest of its own.
//   a thread's end   frees the vCPU with the last store that the thread makes
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <linux/rseq.h>
#include <linux/sched.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/wait.h>

#ifndef CLONE_VM
#define CLONE_VM 0x100
#define CLONE_THREAD 0x10000
#define CLONE_SETTLS 0x80000
#endif
#define EXIT_SIGNAL_CHILD 17
#ifndef AT_RSEQ_FEATURE_SIZE
#define AT_RSEQ_FEATURE_SIZE 27
#endif

/// The arguments of clone, clone3, fork and vfork alike.
struct clone_request {
  uint64_t flags, stack, parent_tid, child_tid, tls;
  struct clone_args *arguments;  // of clone3
  uint64_t arguments_bytes;
};

// The arguments' copy has no stack: where a child begins is said by registers.
static long read_clone3(const struct kvm_regs *registers, struct clone_request *request) {
  struct clone_args *arguments = request->arguments;
  uint64_t length = registers->rsi;
  if (length < CLONE_ARGS_SIZE_VER0)
    return -EINVAL;
  if (length > sizeof *arguments)
    return -E2BIG;
  if (!copy_in(arguments, registers->rdi, length))
    return -EFAULT;
  if ((arguments->flags & CLONE_THREAD) != 0 &&
      (arguments->set_tid_size != 0 || (arguments->flags & CLONE_PIDFD) != 0))
    return -ENOSYS;  // callers fall back to clone
  *request = (struct clone_request){
      .flags = arguments->flags | arguments->exit_signal,
      .stack = arguments->stack ? arguments->stack + arguments->stack_size : 0,
      .parent_tid = arguments->parent_tid,
      .child_tid = arguments->child_tid,
      .tls = arguments->tls,
      .arguments = arguments,
      .arguments_bytes = length,
  };
  arguments->stack = arguments->stack_size = 0;
  return 0;
}

static long read_request(const struct kvm_regs *registers, long number,
                         struct clone_request *request) {
  if (number == SYS_clone3)
    return read_clone3(registers, request);
  *request = (struct clone_request){.flags = EXIT_SIGNAL_CHILD};
  switch (number) {
  case SYS_clone:
    *request = (struct clone_request){
        registers->rdi, registers->rsi, registers->rdx, registers->r10, registers->r8, NULL, 0};
    return 0;
  case SYS_vfork:
    request->flags |= CLONE_VM | CLONE_VFORK;
    return 0;
  default:
    return 0;
  }
}

// What a clone returns to, in the child.
static struct kvm_regs child_registers(const struct kvm_regs *parent, uint64_t stack) {
  struct kvm_regs registers = *parent;
  registers.rip = parent->rcx;
  registers.rflags = parent->r11;
  registers.rax = 0;
  if (stack != 0)
    registers.rsp = stack;
  return registers;
}

// All signals are blocked: one that came before the vCPU has its number would find a thread that is
// not in the guest.
static long clone_thread(struct vcpu *parent, const struct kvm_regs *registers,
                         const struct clone_request *request, uint64_t mask) {
  int error;
  struct vcpu *vcpu = vcpu_take(&error);
  if (vcpu == NULL)
    return error == ENOMEM ? -ENOMEM : -EAGAIN;  // what clone says at a limit
  struct kvm_sregs s;
  long result = vcpu_ioctl(parent, KVM_GET_SREGS, &s);
  struct kvm_regs child = child_registers(registers, request->stack);
  uint64_t fs_base = request->flags & CLONE_SETTLS ? request->tls : s.fs.base;
  if (result == 0)
    result = -vcpu_start(vcpu, &child, fs_base, vcpu_program_gs(parent, &s));
  if (result == 0)
    result = -vcpu_copy_extended_state(vcpu, parent);
  vcpu->first_mask = mask;
  atomic_fetch_add(&cvm_machine.thread_count, 1);
  vcpu->alternate_stack = (stack_t){.ss_flags = SS_DISABLE};
  vcpu->has_own_storage = (request->flags & CLONE_SETTLS) != 0;
  vcpu->host_bases[0] = vcpu->has_own_storage ? request->tls : parent->host_bases[0];
  vcpu->host_bases[1] = parent->host_bases[1];
  if (result == 0)
    result = cvm_raw_thread(request->flags, (uint64_t)vcpu->host_stack + HOST_STACK_BYTES,
                            request->parent_tid, request->child_tid, request->tls, vcpu);
  if (result < 0) {
    atomic_fetch_sub(&cvm_machine.thread_count, 1);
    atomic_store(&vcpu->taken, 0);
  }
  return result;
}

void process_thread_begins(struct vcpu *vcpu) {
  if (vcpu->has_own_storage) {
    cvm_this_vcpu = vcpu;
    vcpu->own_place = &cvm_this_vcpu;
  }
  atomic_store(&vcpu->tid, (int)RAW(SYS_gettid));
  signals_set_mask(vcpu->first_mask);
  run_forever(vcpu);
}

static bool has_ended(long child) {
  siginfo_t information = {.si_pid = 0};
  const int how = WEXITED | WNOHANG | WNOWAIT | __WALL;
  long result = RAW(SYS_waitid, P_PID, child, &information, how);
  return result == 0 ? information.si_pid != 0 : RAW(SYS_kill, child, 0) == -ESRCH;
}

// `state` is on this stack, so a child that shares it must have read it before this goes on; vfork
// waits anyway.
static long clone_child(struct vcpu *parent, const struct kvm_regs *registers,
                        const struct clone_request *request, uint64_t mask) {
  struct child_state state = {.mask = mask, .parent = parent};
  struct kvm_xsave extended;
  long result = vcpu_ioctl(parent, KVM_GET_XSAVE, &extended);
  if (result != 0)
    return result;
  memcpy(state.extended, extended.region, sizeof state.extended);
  state.registers = child_registers(registers, request->stack);
  state.keeps_handlers = (request->flags & CLONE_CLEAR_SIGHAND) == 0;
  vcpu_share_bases(parent);
  const uint64_t by_clone[] = {request->flags, 0, request->parent_tid, request->child_tid,
                               request->tls};
  const uint64_t by_clone3[] = {(uint64_t)request->arguments, request->arguments_bytes, 0, 0, 0};
  bool is_new = request->arguments != NULL;
  bool shares_memory = (request->flags & CLONE_VM) != 0;
  result = cvm_raw_child(is_new ? by_clone3 : by_clone, is_new ? SYS_clone3 : SYS_clone,
                         shares_memory, &state);
  if (result > 0 && shares_memory)
    while (__atomic_load_n(&state.is_read, __ATOMIC_ACQUIRE) == 0 && !has_ended(result))
      RAW(SYS_sched_yield);
  return result;
}

/// In a child that has its own memory: it is not in the guest.
__attribute__((used, visibility("hidden"))) void process_forked(
    const struct child_state *state) {
  stack_t alternate_stack = state->parent->alternate_stack;
  if (state->parent->own_place != NULL)
    *state->parent->own_place = NULL;
  machine_forget();
  if (state->keeps_handlers)
    signals_give_back();
  RAW(SYS_sigaltstack, &alternate_stack, 0);
  signals_set_mask(state->mask);
}

long process_clone(struct vcpu *vcpu, struct kvm_regs *registers, long number) {
  struct clone_args arguments = {.flags = 0};
  struct clone_request request = {.arguments = &arguments};
  long result = read_request(registers, number, &request);
  if (result != 0)
    return result;
  signals_resume(vcpu);
  const uint64_t shared = CLONE_FS | CLONE_FILES | CLONE_SYSVSEM;
  if ((request.flags & CLONE_THREAD) && (request.flags & shared) != shared)
    companion_part(true);  // its calls are not those of others
  uint64_t mask = signals_block_all();
  // With one pending the mask is not the program's, and what begins would inherit it.
  if (vcpu->pending != 0)
    result = CALL_NOT_BEGUN;
  else if (request.flags & CLONE_THREAD)
    result = clone_thread(vcpu, registers, &request, mask);
  else
    result = clone_child(vcpu, registers, &request, mask);
  signals_set_mask(mask);
  return result;
}

// A process ends with its last thread and its first one's status. The companion, and a thread of
// KVM's own that the kernel counts in, would keep it alive.
static void end_with_last_thread(long status) {
  static _Atomic long first_status;
  if (RAW(SYS_gettid) == RAW(SYS_getpid))
    atomic_store(&first_status, status);
  if (atomic_fetch_sub(&cvm_machine.thread_count, 1) == 1)
    RAW(SYS_exit_group, atomic_load(&first_status));
}

// A kick that arrives after the program's end would end the next one. With the lock no more are
// sent to this thread, and those before it arrive at the latest with the lock's own system call.
long process_execute(struct vcpu *vcpu, const struct kvm_regs *registers) {
  lock(&cvm_machine.kicks);
  RAW(SYS_gettid);
  long result = call_forward(vcpu, registers);
  unlock(&cvm_machine.kicks);
  return result;
}

// Restartable sequences: the kernel cannot abort one that runs in a guest, so there are none, as on
// a kernel without them. (calls.c refuses to register more.)
void process_prepare(void) {
  extern const ptrdiff_t __rseq_offset __attribute__((weak));
  if (&__rseq_offset == NULL)
    return;
  const unsigned long feature_bytes = getauxval(AT_RSEQ_FEATURE_SIZE);
  const uint32_t signature = 0x53053053;  // glibc's RSEQ_SIG
  char *area = (char *)__builtin_thread_pointer() + __rseq_offset;
  for (unsigned long bytes = 32; bytes < 32 + feature_bytes + 32; bytes += 32)
    if (RAW(SYS_rseq, area, bytes, RSEQ_FLAG_UNREGISTER, signature) == 0)
      return;
}

void process_exit_thread(struct vcpu *vcpu, long status) {
  signals_resume(vcpu);
  uint64_t all = ~0ul;
  RAW(SYS_rt_sigprocmask, 0, &all, 0, 8);
  end_with_last_thread(status);
  atomic_store(&vcpu->tid, 0);
  cvm_exit_thread_without_stack(&vcpu->taken, status);
}

// Segment bases are in the vCPU; the host's side follows when the thread visits it.
long process_arch_prctl(struct vcpu *vcpu, const struct kvm_regs *registers) {
  enum { SET_GS = 0x1001, SET_FS, GET_FS, GET_GS };
  long code = (long)registers->rdi;
  struct kvm_sregs s;
  if (code < SET_GS || code > GET_GS)
    return call_forward(vcpu, registers);
  if (code == SET_GS)
    rewrite_give_back_gs();
  long result = vcpu_ioctl(vcpu, KVM_GET_SREGS, &s);
  if (result != 0)
    return result;
  if (code == GET_FS || code == GET_GS) {
    uint64_t value = code == GET_FS ? s.fs.base : vcpu_program_gs(vcpu, &s);
    return copy_out(registers->rsi, &value, sizeof value) ? 0 : -EFAULT;
  }
  if (registers->rsi >= USER_END)
    return -EPERM;
  *(code == SET_FS ? &s.fs.base : &s.gs.base) = registers->rsi;
  return vcpu_ioctl(vcpu, KVM_SET_SREGS, &s);
}
