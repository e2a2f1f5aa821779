// Threads, children and ends.
//
//   a new thread     gets a vCPU with its parent's registers and starts in its own run loop
//   a child process  goes on outside the guest: it has none of the pools, and usually execs
//   a thread's end   frees the vCPU with the last store that the thread makes
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <linux/sched.h>
#include <string.h>

#ifndef CLONE_VM
#define CLONE_VM 0x100
#define CLONE_THREAD 0x10000
#define CLONE_SETTLS 0x80000
#endif
#define EXIT_SIGNAL_CHILD 17

/// The arguments of clone, clone3, fork and vfork alike.
struct clone_request {
  uint64_t flags, stack, parent_tid, child_tid, tls;
};

// What this library knows of struct clone_args; a longer one asks for what a thread has no use for.
static long read_clone3(const struct kvm_regs *registers, struct clone_request *request) {
  struct clone_args arguments;
  memset(&arguments, 0, sizeof arguments);
  uint64_t length = registers->rsi;
  if (length < CLONE_ARGS_SIZE_VER0)
    return -EINVAL;
  if (length > sizeof arguments)
    length = sizeof arguments;
  if (!copy_in(&arguments, registers->rdi, length))
    return -EFAULT;
  if (arguments.set_tid_size != 0 || (arguments.flags & (CLONE_PIDFD | CLONE_INTO_CGROUP)) != 0)
    return -ENOSYS;  // callers fall back to clone
  *request = (struct clone_request){
      .flags = arguments.flags | arguments.exit_signal,
      .stack = arguments.stack ? arguments.stack + arguments.stack_size : 0,
      .parent_tid = arguments.parent_tid,
      .child_tid = arguments.child_tid,
      .tls = arguments.tls,
  };
  return 0;
}

static long read_request(const struct kvm_regs *registers, long number,
                         struct clone_request *request) {
  *request = (struct clone_request){.flags = EXIT_SIGNAL_CHILD};
  switch (number) {
  case SYS_clone3:
    return read_clone3(registers, request);
  case SYS_clone:
    *request = (struct clone_request){registers->rdi, registers->rsi, registers->rdx,
                                      registers->r10, registers->r8};
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

static uint64_t program_gs(const struct vcpu *vcpu, const struct kvm_sregs *s) {
  return rewrite_uses_gs() ? vcpu->program_gs : s->gs.base;
}

// All signals are blocked: one that came before `cvm_this_vcpu` is set would find a thread that is
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
    result = -vcpu_start(vcpu, &child, fs_base, program_gs(parent, &s));
  if (result == 0)
    result = -vcpu_copy_extended_state(vcpu, parent);
  vcpu->first_mask = mask;
  atomic_fetch_add(&cvm_machine.thread_count, 1);
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
  cvm_this_vcpu = vcpu;
  atomic_store(&vcpu->tid, (int)RAW(SYS_gettid));
  signals_set_mask(vcpu->first_mask);
  run_forever(vcpu);
}

static long clone_child(struct vcpu *parent, const struct kvm_regs *registers,
                        const struct clone_request *request, uint64_t mask) {
  struct child_state state = {.mask = mask};
  struct kvm_xsave extended;
  long result = vcpu_ioctl(parent, KVM_GET_XSAVE, &extended);
  if (result != 0)
    return result;
  memcpy(state.extended, extended.region, sizeof state.extended);
  state.registers = child_registers(registers, request->stack);
  return cvm_raw_child(request->flags, request->parent_tid, request->child_tid, request->tls,
                       &state);
}

/// In a child that has its own memory: it is not in the guest.
__attribute__((used, visibility("hidden"))) void process_forked(
    const struct child_state *state) {
  stack_t alternate_stack = cvm_this_vcpu->alternate_stack;
  cvm_this_vcpu = NULL;
  signals_give_back();
  RAW(SYS_sigaltstack, &alternate_stack, 0);
  signals_set_mask(state->mask);
}

long process_clone(struct vcpu *vcpu, struct kvm_regs *registers, long number) {
  struct clone_request request;
  long result = read_request(registers, number, &request);
  if (result != 0)
    return result;
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

void process_exit_thread(struct vcpu *vcpu, long status) {
  uint64_t all = ~0ul;
  RAW(SYS_rt_sigprocmask, 0, &all, 0, 8);
  end_with_last_thread(status);
  atomic_store(&vcpu->tid, 0);
  cvm_exit_thread_without_stack(&vcpu->taken, status);
}

// Segment bases are in the vCPU and, for FS, on the host side too, where this code's own
// thread-local storage is found with it.
long process_arch_prctl(struct vcpu *vcpu, const struct kvm_regs *registers) {
  enum { SET_GS = 0x1001, SET_FS, GET_FS, GET_GS };
  long code = (long)registers->rdi;
  struct kvm_sregs s;
  if (code < SET_GS || code > GET_GS)
    return call_forward(vcpu, registers);
  if (code == SET_FS) {
    long result = RAW(SYS_arch_prctl, SET_FS, registers->rsi);
    if (result != 0)
      return result;
    cvm_this_vcpu = vcpu;
  }
  if (code == SET_GS) {  // on the host for visits and children
    RAW(SYS_arch_prctl, SET_GS, registers->rsi);
    rewrite_give_back_gs();
  }
  long result = vcpu_ioctl(vcpu, KVM_GET_SREGS, &s);
  if (result != 0)
    return result;
  if (code == GET_FS || code == GET_GS) {
    uint64_t value = code == GET_FS ? s.fs.base : program_gs(vcpu, &s);
    return copy_out(registers->rsi, &value, sizeof value) ? 0 : -EFAULT;
  }
  if (registers->rsi >= USER_END)
    return -EPERM;
  *(code == SET_FS ? &s.fs.base : &s.gs.base) = registers->rsi;
  return vcpu_ioctl(vcpu, KVM_SET_SREGS, &s);
}
