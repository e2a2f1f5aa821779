// What C cannot say: exception stubs at CPL0, the way into the guest, threads and children that
// begin in the middle of a system call.
//
// Emulated ring 0 costs 0.65 us an instruction under shadow paging, so the stubs that run often are
// as short as they can be.

        .text

// Exceptions. The frame that the run loop finds at rsp when the vCPU has halted:
//   0 rax, 8 vector, 16 error code, 24 rip, 32 cs, 40 rflags, 48 rsp, 56 ss
        .balign 16
        .globl cvm_exception_stubs
        .hidden cvm_exception_stubs
cvm_exception_stubs:
        vector = 0
        .rept 256
        .balign 16
        .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21)
        .else
        pushq $0
        .endif
        pushq $vector
        jmp to_host
        vector = vector + 1
        .endr

        .balign 16
to_host:
        push %rax
        hlt
        .globl cvm_exception_halted
        .hidden cvm_exception_halted
cvm_exception_halted:
        pop %rax
        add $16, %rsp
        iretq

// A breakpoint. With the magic number in rax (CVM_FLUSH_MAGIC): flush this vCPU's translations.
        .balign 16
        .globl cvm_flush_stub
        .hidden cvm_flush_stub
cvm_flush_stub:
        cmp $0x766f6c69, %rax
        jne 1f
        mov %cr3, %rax
        mov %rax, %cr3
        iretq
1:      pushq $0
        pushq $3
        jmp to_host

        .balign 16
        .globl cvm_flush_translations
        .hidden cvm_flush_translations
        .globl cvm_flush_asked
        .hidden cvm_flush_asked
cvm_flush_translations:
        mov $0x766f6c69, %eax
        int3
cvm_flush_asked:
        cmp $0x766f6c69, %rax           // a signal came between: ask again
        je cvm_flush_translations
        ret

// A page fault: detect-on-write. If the page is in a region and grantable: give write permission
// and append it to the region's list. Else, the host knows more. In the order of regions.c.
// Stack after the pushes: 0 rcx, 8 rax, 16 error code.
// struct cvm_region: 0 first_page, 8 page_count, 16 entries, 24 list, 32 listed, 40 list_mask; 64
// bytes.
        .balign 16
        .globl cvm_page_fault_stub
        .hidden cvm_page_fault_stub
cvm_page_fault_stub:
        push %rax
        push %rcx
        lea cvm_regions(%rip), %rcx
1:      mov %cr2, %rax
        shr $12, %rax
        sub (%rcx), %rax
        cmp 8(%rcx), %rax
        jb 2f
        add $64, %rcx
        cmp cvm_regions_end(%rip), %rcx
        jb 1b
        pop %rcx
        pop %rax
        pushq $14
        jmp to_host
2:      push %rdx
        mov 16(%rcx), %rdx
        lea (%rdx,%rax,8), %rdx
        testl $0x200, (%rdx)
        jz 4f
        lock btsl $10, (%rdx)           // CVM_LISTED: one handler at a time
        jc 3f                           // the other one grants; till then this faults again
        push %rbx
        mov $1, %ebx
        lock xaddq %rbx, 32(%rcx)       // a place in the list: a take waits for it
#ifdef VOLIP_LAB
        lock decq cvm_faults_left(%rip)  // a laboratory's build dies in one, half done
        jz cvm_laboratory_stop
#endif
        lock orl $2, (%rdx)
        and 40(%rcx), %rbx
        mov 24(%rcx), %rcx
        inc %eax
        mov %eax, (%rcx,%rbx,4)
        pop %rbx
3:      pop %rdx
        pop %rcx
        pop %rax
        add $8, %rsp
        iretq
4:      testl $2, (%rdx)                // writable by now: the translation was stale
        pop %rdx
        pop %rcx
        pop %rax
        jnz 5f
        pushq $14
        jmp to_host
5:      add $8, %rsp
        iretq

#ifdef VOLIP_LAB
// The run loop does not expect a processor to halt here, and ends the process.
cvm_laboratory_stop:
        hlt
        jmp cvm_laboratory_stop
#endif

// System calls that leave where SYSCALL arrives at CPL0: out to the host and back.
        .balign 16
        .globl cvm_call_leave
        .hidden cvm_call_leave
cvm_call_leave:
        hlt
        .globl cvm_call_halted
        .hidden cvm_call_halted
cvm_call_halted:
        sysretq

        .globl cvm_stubs_end
        .hidden cvm_stubs_end
cvm_stubs_end:

// The call stub of one vCPU, copied to a page of its own with the vCPU's struct request on the page
// behind it. System calls arrive here, at CPL3 under shadow paging and at CPL0 on processors, with
// the way back in rcx and r11, which it may use. Where it is left by an exit, the run loop goes on
// with what stands in the request; where a signal interrupts it, the labels say how far it has
// come.
        request = cvm_call_stub + 4096
        request_number = request + 8
        request_arguments = request + 16
        request_rcx = request + 64
        request_r11 = request + 72
        request_rsp = request + 80
        request_open = request + 88
        request_may = request + 96
        request_leave = request + 104
        request_spins = request + 112
        request_budget = request + 116
        .balign 64
        .globl cvm_call_stub, cvm_call_stub_saved, cvm_call_stub_made, cvm_call_stub_taken
        .globl cvm_call_stub_direct, cvm_call_stub_store, cvm_call_stub_end
        .hidden cvm_call_stub, cvm_call_stub_saved, cvm_call_stub_made, cvm_call_stub_taken
        .hidden cvm_call_stub_direct, cvm_call_stub_store, cvm_call_stub_end
cvm_call_stub:
        mov %rcx, request_rcx(%rip)
        mov %r11, request_r11(%rip)
cvm_call_stub_saved:
        decl request_budget(%rip)
        js 3f
5:      mov request_open(%rip), %rcx
        cmpl $0, (%rcx)
        je 3f
        cmp $512, %rax                  // CALL_NUMBERS
        jae 3f
        mov request_may(%rip), %rcx
        cmpb $0, (%rcx,%rax)
        je 3f
        test $0x100, %r11d              // somebody steps through the program
        jnz 3f
        mov %rax, request_number(%rip)
        mov %rdi, request_arguments(%rip)
        mov %rsi, request_arguments+8(%rip)
        mov %rdx, request_arguments+16(%rip)
        mov %r10, request_arguments+24(%rip)
        mov %r8, request_arguments+32(%rip)
        mov %r9, request_arguments+40(%rip)
        movl $1, request(%rip)          // REQUEST_MADE
cvm_call_stub_made:
        mov request_spins(%rip), %ecx
1:      cmpl $4, request(%rip)          // REQUEST_DONE, or REQUEST_DECLINED behind it
        jae 2f
        pause
        dec %ecx
        jnz 1b
3:      jmp *request_leave(%rip)
2:      ja 3b
        mov request_number(%rip), %rax
cvm_call_stub_taken:
        movl $0, request(%rip)          // REQUEST_IDLE
        mov %cs, %ecx
        test $3, %cl
        jz 4f
        mov request_rcx(%rip), %rcx
        mov %rsp, request_rsp(%rip)
        lea request_r11(%rip), %rsp
        popfq
        mov request_rsp(%rip), %rsp
        mov request_r11(%rip), %r11
        jmp *%rcx
4:      mov request_rcx(%rip), %rcx
        mov request_r11(%rip), %r11
        sysretq
cvm_call_stub_direct:                   // from a trampoline: flags are still the program's
        mov %rcx, request_rcx(%rip)
        mov %rsp, request_rsp(%rip)
        lea request_r11+8(%rip), %rsp
        pushfq
        mov request_rsp(%rip), %rsp
        mov request_r11(%rip), %r11
        jmp 5b
cvm_call_stub_store:                    // for run_store
        mov %rdx, (%rcx)
        jmp *request_leave(%rip)
cvm_call_stub_end:

// The first instruction that the guest ever runs.
        .balign 16
        .globl cvm_probe_stub
        .hidden cvm_probe_stub
cvm_probe_stub:
        rdtsc
        shl $32, %rdx
        or %rdx, %rax
        mov %rax, %rbx
        syscall
        ud2

// bool cvm_switch(struct vcpu *vcpu, struct kvm_regs *room): the host side goes to the vCPU's own
// stack, which ends at `room`, and into the run loop for good; the guest side comes back from this
// call. `struct kvm_regs` is rax rbx rcx rdx rsi rdi rsp rbp r8...r15 rip rflags.
        .balign 16
        .globl cvm_switch
        .hidden cvm_switch
cvm_switch:
        mov %rsi, %rax
        movq $1, (%rax)                 // rax: true
        mov %rbx, 8(%rax)
        lea 8(%rsp), %rcx
        mov %rcx, 48(%rax)
        mov %rbp, 56(%rax)
        mov %r12, 96(%rax)
        mov %r13, 104(%rax)
        mov %r14, 112(%rax)
        mov %r15, 120(%rax)
        mov (%rsp), %rcx
        mov %rcx, 128(%rax)
        movq $0x202, 136(%rax)
        mov %rsp, %rdx                  // to come back on the host if it fails
        mov %rax, %rsp
        and $-16, %rsp
        push %rdx
        push %rdx
        call run_first                  // returns only on failure
        pop %rsp
        xor %eax, %eax
        ret

// long cvm_raw_thread(flags, stack, parent_tid, child_tid, tls, vcpu): clone of a thread, which
// begins in process_thread_begins(vcpu) on `stack`.
        .balign 16
        .globl cvm_raw_thread
        .hidden cvm_raw_thread
cvm_raw_thread:
        and $-16, %rsi
        mov %r9, -16(%rsi)
        sub $16, %rsi
        mov %rcx, %r10
        mov $56, %eax
        syscall
        test %rax, %rax
        jnz 1f
        xor %ebp, %ebp
        pop %rdi
        pop %rsi
        call process_thread_begins
        ud2
1:      ret

// long cvm_raw_companion(flags, stack, tid, tls, function): clone of a thread that is no vCPU's.
        .balign 16
        .globl cvm_raw_companion
        .hidden cvm_raw_companion
cvm_raw_companion:
        push %rbx
        mov %r8, %rbx
        mov %rdx, %r10
        mov %rcx, %r8
        mov $56, %eax
        syscall
        test %rax, %rax
        jnz 1f
        xor %ebp, %ebp
        call *%rbx
        ud2
1:      pop %rbx
        ret

// long cvm_raw_child(const uint64_t *arguments, long number, bool shares_memory,
// struct child_state *state): a clone or clone3 of a process, which goes on outside the guest with
// the state. A child that shares memory writes nothing to this stack, which its parent has under
// it, and says when it has read the state.
        .balign 16
        .globl cvm_raw_child
        .hidden cvm_raw_child
cvm_raw_child:
        push %rbx
        push %r12
        mov %edx, %ebx
        mov %rcx, %r12
        mov %rdi, %r11
        mov %rsi, %rax
        mov 0(%r11), %rdi
        mov 8(%r11), %rsi
        mov 16(%r11), %rdx
        mov 24(%r11), %r10
        mov 32(%r11), %r8
        syscall
        test %rax, %rax
        jnz 1f
        test %ebx, %ebx
        jnz 2f
        sub $8, %rsp
        mov %r12, %rdi
        call process_forked
        jmp 3f
2:      mov 48(%r12), %rsp              // where a signal's frame may go
        mov $14, %eax                   // rt_sigprocmask(SIG_SETMASK, mask)
        mov $2, %edi
        lea 144(%r12), %rsi
        xor %edx, %edx
        mov $8, %r10d
        syscall
3:      mov $-1, %edx
        mov $~0x200, %eax               // all but PKRU, which is the kernel's own to hand on
        xrstor64 192(%r12)
        mov %r12, %r11
        mov (%r11), %rax
        mov 8(%r11), %rbx
        mov 24(%r11), %rdx
        mov 32(%r11), %rsi
        mov 40(%r11), %rdi
        mov 48(%r11), %rsp
        mov 56(%r11), %rbp
        mov 64(%r11), %r8
        mov 72(%r11), %r9
        mov 80(%r11), %r10
        mov 96(%r11), %r12
        mov 104(%r11), %r13
        mov 112(%r11), %r14
        mov 120(%r11), %r15
        mov 128(%r11), %rcx
        movq $1, 152(%r11)
        jmp *%rcx
1:      pop %r12
        pop %rbx
        ret

// void cvm_exit_thread_without_stack(_Atomic int *taken, long status): another thread may take the
// vCPU and its stacks as soon as `taken` is 0.
        .balign 16
        .globl cvm_exit_thread_without_stack
        .hidden cvm_exit_thread_without_stack
cvm_exit_thread_without_stack:
        mov %rdi, %rdx
        mov %rsi, %rdi
        mov $60, %eax
        movl $0, (%rdx)
        syscall
        ud2

// void cvm_visit_leave(struct visit *visit, ucontext_t *context): goes on outside the guest with
// the registers in `context`, and comes back through cvm_visit_return(visit->host_stack).
        .balign 16
        .globl cvm_visit_leave
        .hidden cvm_visit_leave
cvm_visit_leave:
        push %rbx
        push %rbp
        push %r12
        push %r13
        push %r14
        push %r15
        mov %rsp, (%rdi)
        mov %rsi, %rsp
        mov $15, %eax
        syscall
        ud2

        .balign 16
        .globl cvm_visit_return
        .hidden cvm_visit_return
cvm_visit_return:
        mov %rdi, %rsp
        pop %r15
        pop %r14
        pop %r13
        pop %r12
        pop %rbp
        pop %rbx
        ret

// long cvm_interruptible_call(const uint64_t *arguments, long number, volatile int *pending)
        .balign 16
        .globl cvm_interruptible_call
        .hidden cvm_interruptible_call
cvm_interruptible_call:
        push %rbx
        mov %rdx, %rbx
        mov %rdi, %rcx
        mov %rsi, %rax
        mov 0(%rcx), %rdi
        mov 8(%rcx), %rsi
        mov 16(%rcx), %rdx
        mov 24(%rcx), %r10
        mov 32(%rcx), %r8
        mov 40(%rcx), %r9
        .globl cvm_call_window
        .hidden cvm_call_window
cvm_call_window:
        cmpl $0, (%rbx)
        jne cvm_call_interrupted
        syscall
        .globl cvm_call_window_end
        .hidden cvm_call_window_end
cvm_call_window_end:
        pop %rbx
        ret
        .globl cvm_call_interrupted
        .hidden cvm_call_interrupted
cvm_call_interrupted:
        mov $-512, %rax
        pop %rbx
        ret

        .section .note.GNU-stack, "", @progbits
