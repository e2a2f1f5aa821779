// The run loop: a thread's host side. It enters the guest, and answers what brought it out:
//
//   a system call at CPL3   the call stub goes to a page that nobody may fetch: KVM_RUN refuses
//                           with the instruction pointer there
//   a system call at CPL0   the call stub halts
//   an exception            the stub halts: faults.
//   a refusal (EFAULT)      the host has no page there, or not with that permission
//   a signal                it has arrived on this stack by the time KVM_RUN returns (signals.c)
//
// Whatever the thread was doing when a fault occurred, the same instruction is then run on the host
// (visit.c), where it does what it would do without us.
#include "internal.h"

#include <errno.h>
#include <sys/socket.h>

#define BREAKPOINT 3
#define PAGE_FAULT 14

struct exception_frame {
  uint64_t rax, vector, error, rip, cs, rflags, rsp, ss;
};

static void trace(const struct vcpu *vcpu, const char *what, uint64_t a, uint64_t b) {
  struct line line = {.length = 0};
  line_text(&line, "volip[");
  line_number(&line, atomic_load(&vcpu->tid));
  line_text(&line, "] ");
  line_text(&line, what);
  line_text(&line, " ");
  line_hex(&line, a);
  line_text(&line, " ");
  line_hex(&line, b);
  line_write(&line);
}

static long run_once(struct vcpu *vcpu) {
  struct kvm_run *run = vcpu->run;
  atomic_store(&vcpu->in_guest, 1);
  atomic_store(&vcpu->entered, atomic_load(&cvm_machine.leaves));
  vcpu_flush_if_stale(vcpu);
  run->exit_reason = KVM_EXIT_UNKNOWN;
  long result = RAW(SYS_ioctl, vcpu->fd, KVM_RUN, 0);
  atomic_store(&vcpu->in_guest, 0);
  atomic_fetch_add_explicit(&vcpu->exits, 1, memory_order_relaxed);
  return result;
}

static bool is_stub(uint64_t rip) {
  return rip >= (uint64_t)cvm_exception_stubs && rip < (uint64_t)cvm_stubs_end;
}

static bool is_call(const struct vcpu *vcpu, long result) {
  uint64_t rip = vcpu->run->s.regs.regs.rip;
  if (cvm_machine.call_cpl == 3)
    return result == -EFAULT && rip == cvm_machine.call_target;
  return result == 0 && vcpu->run->exit_reason == KVM_EXIT_HLT &&
         rip == (uint64_t)cvm_call_halted;
}

// The stub has used rcx and r11.
static void restore_return(struct vcpu *vcpu) {
  struct kvm_regs *registers = &vcpu->run->s.regs.regs;
  registers->rcx = vcpu->request->rcx;
  registers->r11 = vcpu->request->r11;
}

// Where to go on after a call, and with what result. At CPL3 the target page has no code, so the
// return is made here; at CPL0 the stub's SYSRET makes it from rcx and r11. A call that is to begin
// again after a signal's handler goes back to its SYSCALL instruction, two bytes long.
static void go_on_behind_call(struct vcpu *vcpu) {
  struct kvm_regs *registers = &vcpu->run->s.regs.regs;
  if (cvm_machine.call_cpl == 3 || vcpu->pending != 0) {
    registers->rip = registers->rcx;
    registers->rflags = registers->r11;
  }
  if (cvm_machine.call_cpl != 3 && vcpu->pending != 0)
    vcpu_set_user_mode(vcpu);
}

static void return_from_call(struct vcpu *vcpu, long number, long result) {
  struct kvm_regs *registers = &vcpu->run->s.regs.regs;
  bool again = result == CALL_NOT_BEGUN;
  registers->rax = (uint64_t)(again ? number : result);
  if (again)
    registers->rcx -= 2;
  go_on_behind_call(vcpu);
}

// While it takes or gives the flags, the stub's stack is the request.
static void restore_stack(struct vcpu *vcpu) {
  struct kvm_regs *registers = &vcpu->run->s.regs.regs;
  if (registers->rsp - (uint64_t)&vcpu->request->r11 <= sizeof vcpu->request->r11)
    registers->rsp = vcpu->request->rsp;
}

// A signal has come while the vCPU was in its call stub: either the call is over, or it begins
// again behind the signal's handler.
static void leave_call_stub(struct vcpu *vcpu) {
  struct kvm_regs *registers = &vcpu->run->s.regs.regs;
  struct request *request = vcpu->request;
  const char *at = cvm_call_stub + (registers->rip - (uint64_t)vcpu->call_stub);
  bool has_saved = at >= cvm_call_stub_saved && at != cvm_call_stub_direct;
  if (has_saved)
    restore_return(vcpu);
  restore_stack(vcpu);
  if (at >= cvm_call_stub_direct)
    registers->r11 = registers->rflags;
  if (at >= cvm_call_stub_taken && at < cvm_call_stub_direct) {
    atomic_store(&request->state, REQUEST_IDLE);
    go_on_behind_call(vcpu);
  } else {
    enum request_state state = companion_settle(vcpu);
    bool is_over = state == REQUEST_DONE || (state == REQUEST_DECLINED && request->number > 0);
    return_from_call(vcpu, (long)registers->rax, is_over ? request->number : CALL_NOT_BEGUN);
  }
  vcpu->run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
}

static bool is_in_call_stub(const struct vcpu *vcpu) {
  uint64_t offset = vcpu->run->s.regs.regs.rip - (uint64_t)vcpu->call_stub;
  return offset < (uint64_t)(cvm_call_stub_end - cvm_call_stub);
}

// The same on the way there, from a replaced instruction, and on the way out: on the page that
// nobody may fetch, before the fetch, the stub has used the registers, and the handler's own calls
// will use the request.
static void leave_call_path(struct vcpu *vcpu) {
  struct kvm_regs *registers = &vcpu->run->s.regs.regs;
  if (cvm_machine.call_cpl == 3 && registers->rip == cvm_machine.call_target)
    registers->rip = (uint64_t)vcpu->call_stub + (uint64_t)(cvm_call_stub_made - cvm_call_stub);
  uint64_t site = rewrite_site(registers->rip);
  if (site != 0) {
    registers->rip = site;
    vcpu->run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
  } else if (is_in_call_stub(vcpu)) {
    leave_call_stub(vcpu);
  }
}

// A handler's return has registers of its own.
static void return_from_signal(struct vcpu *vcpu) {
  if (!signals_return(vcpu, &vcpu->run->s.regs.regs))
    return_from_call(vcpu, SYS_rt_sigreturn, CALL_NOT_BEGUN);
  else if (cvm_machine.call_cpl != 3)
    vcpu_set_user_mode(vcpu);
}

static long call(struct vcpu *vcpu, struct kvm_regs *registers) {
  long number = (int)registers->rax;  // as the kernel reads it
  switch (number) {
  case SYS_exit:
    process_exit_thread(vcpu, (long)registers->rdi);
  case SYS_exit_group:
    if (cvm_machine.options.trace_counts)
      companion_report();
    return call_forward(vcpu, registers);
  case SYS_clone:
  case SYS_clone3:
  case SYS_fork:
  case SYS_vfork:
    return process_clone(vcpu, registers, number);
  case SYS_execve:
  case SYS_execveat:
    return process_execute(vcpu, registers);
  case OWN_CALL_EXIT:
    return 0;
  case OWN_CALL_MAP:
    return machine_map(registers->rdi, registers->rsi);
  case OWN_CALL_FLUSH_OTHERS:
    vcpus_flush_others(vcpu);
    return 0;
  case OWN_CALL_LOG:
    return log_call(vcpu, registers);
  case SYS_arch_prctl:
    return process_arch_prctl(vcpu, registers);
  default:
    return call_forward(vcpu, registers);
  }
}

// The rest of a write of which the companion could do a part without waiting. To a socket a part is
// an answer, and sends no signal.
static long call_rest(struct vcpu *vcpu, const struct kvm_regs *registers, uint64_t progress) {
  bool has_flags = registers->rax == SYS_sendto;
  struct kvm_regs rest = *registers;
  rest.rax = SYS_sendto;
  rest.rsi += progress;
  rest.rdx -= progress;
  rest.r10 = (has_flags ? registers->r10 : 0) | MSG_NOSIGNAL;
  rest.r8 = has_flags ? registers->r8 : 0;
  rest.r9 = has_flags ? registers->r9 : 0;
  long result = call_forward(vcpu, &rest);
  if (result == -ENOTSOCK) {
    rest.rax = registers->rax;
    result = call_forward(vcpu, &rest);
  }
  return result < 0 ? (long)progress : (long)progress + result;
}

// A call that has left by an exit: the companion may have it, or have had it.
static long settled_call(struct vcpu *vcpu, struct kvm_regs *registers) {
  enum request_state state = companion_settle(vcpu);
  if (state == REQUEST_DONE)
    return vcpu->request->number;
  if (state == REQUEST_DECLINED && vcpu->request->number > 0)
    return call_rest(vcpu, registers, (uint64_t)vcpu->request->number);
  rewrite_call_left(vcpu, registers->rcx, (long)registers->rax);
  companion_call_left(vcpu, (long)registers->rax);
  long result = call(vcpu, registers);
  companion_call_returns(vcpu);
  return result;
}

// The registers of the interrupted code. The vCPU is in the stub, its frame on its own stack.
static void leave_exception(struct vcpu *vcpu, const struct exception_frame *frame) {
  struct kvm_regs *registers = &vcpu->run->s.regs.regs;
  registers->rax = frame->rax;
  registers->rip = frame->rip;
  registers->rflags = frame->rflags;
  registers->rsp = frame->rsp;
  vcpu_set_user_mode(vcpu);
}

// While an instruction runs on the host only its own faults may come, and those even if the program
// blocks them: the kernel would end the process without a word.
#define BIT(number) (1ul << ((number)-1))
#define ALL_BUT_FAULTS ~(BIT(SIGSEGV) | BIT(SIGBUS) | BIT(SIGILL) | BIT(SIGFPE) | BIT(SIGTRAP))

static void exception(struct vcpu *vcpu) {
  struct kvm_regs *registers = &vcpu->run->s.regs.regs;
  struct exception_frame *frame = (struct exception_frame *)registers->rsp;
  if (cvm_machine.options.trace_faults)
    trace(vcpu, "exception, vector and instruction", frame->vector, frame->rip);
  if ((frame->cs & 3) != 3)
    machine_stop("volip: exception inside the guest's own ring 0 at ", frame->rip);
  if (frame->vector == PAGE_FAULT) {
    struct kvm_sregs s;
    long result = vcpu_ioctl(vcpu, KVM_GET_SREGS, &s);
    if (result != 0)
      machine_stop("volip: KVM_GET_SREGS, error ", (uint64_t)-result);
    if (cvm_machine.options.trace_faults)
      trace(vcpu, "page fault, address and code", s.cr2, frame->error);
    if (s.cr2 < USER_END && !machine_has(s.cr2)) {
      int64_t mapped = machine_map(s.cr2, 1);
      if (mapped < 0)
        machine_stop("volip: no guest-physical addresses are left for ", s.cr2);
      leave_exception(vcpu, frame);
      vcpu->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
      return;  // to the instruction again
    }
  }
  uint8_t before = 0;
  const uint8_t breakpoint = 0xcc;
  if (frame->vector == BREAKPOINT && copy_in(&before, frame->rip - 1, 1) && before == breakpoint)
    frame->rip--;  // to the instruction itself
  leave_exception(vcpu, frame);
  visit_host(vcpu, registers, ALL_BUT_FAULTS);
  vcpu->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
}

static void unexpected(struct vcpu *vcpu, long result) {
  const struct kvm_run *run = vcpu->run;
  trace(vcpu, "unexpected exit: reason and instruction", run->exit_reason, run->s.regs.regs.rip);
  if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
    trace(vcpu, "KVM internal error", run->internal.suberror, run->internal.ndata);
  machine_stop("volip: KVM_RUN returned ", (uint64_t)result);
}

void run_forever(struct vcpu *vcpu) {
  struct kvm_run *run = vcpu->run;
  struct kvm_regs *registers = &run->s.regs.regs;
  for (;;) {
    if (vcpu->pending != 0)
      leave_call_path(vcpu);
    if (vcpu->pending != 0 && !is_stub(registers->rip) && vcpu_is_between_instructions(vcpu)) {
      signals_deliver(vcpu, registers);
      run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
    } else if (vcpu->pending != 0 && vcpu->delivery_timer == 0) {
      run->immediate_exit = 0;
      signals_deliver_soon(vcpu);
    }
    long result = run_once(vcpu);
    if (cvm_machine.options.trace_exits)
      trace(vcpu, "exit, reason and instruction", run->exit_reason, registers->rip);
    if (vcpu->late && !is_call(vcpu, result))
      signals_resume(vcpu);
    if (result == -EINTR || result == -EAGAIN) {
      run->immediate_exit = 0;
    } else if (is_call(vcpu, result)) {
      long number = (long)registers->rax;
      restore_return(vcpu);
      if (number == SYS_rt_sigreturn)
        return_from_signal(vcpu);
      else
        return_from_call(vcpu, number, settled_call(vcpu, registers));
      run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
    } else if (result == 0 && run->exit_reason == KVM_EXIT_HLT &&
               registers->rip == (uint64_t)cvm_exception_halted) {
      exception(vcpu);
    } else if (result == -EFAULT && !is_stub(registers->rip)) {
      if (cvm_machine.options.trace_faults)
        trace(vcpu, "refused by the host, instruction and stack", registers->rip, registers->rsp);
      visit_host(vcpu, registers, ALL_BUT_FAULTS);
      run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
    } else {
      unexpected(vcpu, result);
    }
  }
}

void run_store(struct vcpu *vcpu, uint64_t *entry, uint64_t value) {
  struct kvm_run *run = vcpu->run;
  struct kvm_regs *registers = &run->s.regs.regs;
  const struct kvm_regs before = *registers;
  registers->rip = (uint64_t)vcpu->call_stub + (uint64_t)(cvm_call_stub_store - cvm_call_stub);
  registers->rcx = (uint64_t)entry;
  registers->rdx = value;
  run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
  long result;
  do {
    run->immediate_exit = 0;
    result = run_once(vcpu);
  } while (result == -EINTR || result == -EAGAIN);
  if (!is_call(vcpu, result))
    unexpected(vcpu, result);
  run->immediate_exit = vcpu->pending != 0;
  *registers = before;
  run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
}

static uint64_t time_stamp(void) {
  uint32_t low, high;
  __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high));
  return low | (uint64_t)high << 32;
}

// The first thing that runs in the guest reads the time stamp counter and makes a system call, to
// learn where that arrives: KVM_RUN refuses to fetch from the target page, at CPL3 under shadow
// paging, at CPL0 on processors.
int run_probe(struct vcpu *vcpu, bool *shares_time_stamps) {
  struct kvm_regs registers = {.rip = (uint64_t)cvm_probe_stub, .rflags = 2};
  int error = vcpu_start(vcpu, &registers, 0, 0);
  if (error != 0)
    return error;
  uint64_t earlier = time_stamp();
  long result;
  do {
    result = run_once(vcpu);
    vcpu->run->immediate_exit = 0;
  } while (result == -EINTR || result == -EAGAIN);
  uint64_t later = time_stamp();
  const struct kvm_regs *after = &vcpu->run->s.regs.regs;
  if (result != -EFAULT || after->rip != cvm_machine.call_target)
    return EPROTO;
  *shares_time_stamps = after->rbx >= earlier && after->rbx <= later;
  struct kvm_sregs s;
  result = vcpu_ioctl(vcpu, KVM_GET_SREGS, &s);
  if (result != 0)
    return (int)-result;
  cvm_machine.call_cpl = s.cs.selector & 3;
  if (cvm_machine.call_cpl == 3)
    return 0;
  cvm_machine.call_leave = (uint64_t)cvm_call_leave;
  return 0;
}

/// On the vCPU's own stack. Returns only if the vCPU could not be started.
__attribute__((used, visibility("hidden"))) void run_first(struct vcpu *vcpu,
                                                           const struct kvm_regs *registers) {
  enum { GET_FS = 0x1003, GET_GS };
  RAW(SYS_arch_prctl, GET_FS, &vcpu->host_bases[0]);
  RAW(SYS_arch_prctl, GET_GS, &vcpu->host_bases[1]);
  int error = vcpu_start(vcpu, registers, vcpu->host_bases[0], vcpu->host_bases[1]);
  if (error != 0)
    return;
  cvm_this_vcpu = vcpu;
  vcpu->own_place = &cvm_this_vcpu;
  run_forever(vcpu);
}
