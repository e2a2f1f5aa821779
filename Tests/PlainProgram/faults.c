// Faults of the program itself and what its handlers are told.
#include "cases.h"

#include <elf.h>
#include <fcntl.h>
#include <fenv.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdbool.h>
#include <sys/procfs.h>
#include <sys/resource.h>
#include <sys/user.h>

static sigjmp_buf back;
static char *target;
static volatile int count;

static void say_fault(int number, siginfo_t *information, void *context) {
  __asm__ volatile("pushfq; andl $~0x40000, (%rsp); popfq");  // as the alignment case left it
  ucontext_t *saved = context;
  greg_t *registers = saved->uc_mcontext.gregs;
  char *address = information->si_addr;
  char *rip = (char *)registers[REG_RIP];
  bool has_address = number == SIGSEGV && information->si_code != SI_KERNEL;
  long offset = has_address && address != rip ? (long)(address - target) : 0;
  say("signal %d code %d address %ld, at the instruction %d, trap %lld, error %lld\n", number,
      information->si_code, offset, address == rip, registers[REG_TRAPNO], registers[REG_ERR]);
  siglongjmp(back, 1);
}

static void handle_all(handler_type *handler, int flags) {
  const int numbers[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS};
  for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
    handle_with(numbers[i], handler, flags);
}

static void write_to(void) { *(volatile char *)target = 1; }
static void read_from(void) { (void)*(volatile char *)target; }
static void call_it(void) { ((void (*)(void))target)(); }
static void divide(void) {
  __asm__ volatile("xor %%edx, %%edx; xor %%ecx, %%ecx; divl %%ecx" ::: "rax", "rcx", "rdx");
}
static void undefined(void) { __asm__ volatile("ud2"); }
static void breakpoint(void) { __asm__ volatile("int3"); }
static void privileged(void) { __asm__ volatile("hlt"); }
static void port(void) { __asm__ volatile("inb $0x80, %%al" ::: "rax"); }
static void interrupt(void) { __asm__ volatile("int $0x21"); }
static void not_canonical(void) { *(volatile char *)0x1234567890abcdef = 1; }
static void kernel_address(void) { (void)*(volatile char *)0xffff888000000000; }
static void vector_division(void) {
  feenableexcept(FE_DIVBYZERO);
  volatile double zero = 0;
  zero = 1 / zero;
}
static void x87_division(void) {
  feenableexcept(FE_DIVBYZERO);
  volatile long double zero = 0;
  zero = 1 / zero;
}
static void misaligned(void) {
  static char room[32];
  __asm__ volatile("pushfq; orl $0x40000, (%%rsp); popfq; movl 1(%0), %%eax;"
                   "pushfq; andl $~0x40000, (%%rsp); popfq" ::"r"(room)
                   : "rax", "memory");
}
static void misaligned_vector(void) {
  static char room[64] __attribute__((aligned(16)));
  __asm__ volatile("movaps 1(%0), %%xmm0" ::"r"(room) : "xmm0");
}
static void attempt(const char *name, void (*body)(void)) {
  say("%s: ", name);
  if (sigsetjmp(back, 1) == 0) {
    body();
    say("no fault\n");
  }
}

static void faults(void) {
  handle_all(say_fault, 0);
  attempt("null write", write_to);
  target = memory(3 * 4096);
  mprotect(target, 4096, PROT_READ);
  attempt("write to a read-only page", write_to);
  attempt("read from it", read_from);
  mprotect(target, 4096, PROT_NONE);
  attempt("read from a page without rights", read_from);
  attempt("call into it", call_it);
  munmap(target, 4096);
  attempt("write to an unmapped page", write_to);
  attempt("call into it", call_it);
  attempt("divide", divide);
  attempt("undefined instruction", undefined);
  attempt("breakpoint", breakpoint);
  attempt("privileged instruction", privileged);
  attempt("port", port);
  attempt("interrupt", interrupt);
  attempt("address that is none", not_canonical);
  target = (char *)0xffff888000000000;
  attempt("address of the kernel", kernel_address);
  attempt("division by SSE", vector_division);
  feclearexcept(FE_ALL_EXCEPT);
  attempt("division by x87", x87_division);
}

static void alignment(void) {
  handle_all(say_fault, 0);
  attempt("misaligned vector", misaligned_vector);
  attempt("misaligned word with alignment checks", misaligned);
}

static void jump(int number, siginfo_t *information, void *context) {
  (void)number, (void)information, (void)context;
  count++;
  siglongjmp(back, 1);
}

// Out of the handler by a jump, again and again: stacks, masks and the way into the guest hold.
static void jump_out(int flags) {
  const stack_t wanted = {.ss_sp = memory(65536), .ss_size = 65536};
  sigaltstack(&wanted, NULL);
  handle_with(SIGSEGV, jump, flags);
  target = memory(4096);
  mprotect(target, 4096, PROT_READ);
  while (count < 300)
    if (sigsetjmp(back, 1) == 0)
      write_to();
  stack_t now;
  sigaltstack(NULL, &now);
  sigset_t mask;
  sigprocmask(SIG_BLOCK, NULL, &mask);
  say("jumped %d, stack flags %d, blocked %d\n", count, now.ss_flags,
      sigismember(&mask, SIGSEGV));
}

static void jump_out_of_handler(void) { jump_out(0); }
static void jump_off_alternate_stack(void) { jump_out(SA_ONSTACK); }

// A handler that repairs what was wrong: the instruction is begun again.
static void repair(int number, siginfo_t *information, void *context) {
  (void)number, (void)context;
  count++;
  mprotect((void *)((uintptr_t)information->si_addr & ~4095ul), 4096, PROT_READ | PROT_WRITE);
}

static void repair_in_handler(void) {
  const int pages = 64;
  handle_with(SIGSEGV, repair, 0);
  char *memory_of_all = memory(pages * 4096);
  mprotect(memory_of_all, pages * 4096, PROT_READ);
  for (int i = 0; i < pages; i++)
    memory_of_all[i * 4096 + 5] = (char)i;
  int right = 0;
  for (int i = 0; i < pages; i++)
    right += memory_of_all[i * 4096 + 5] == (char)i;
  memset(memory_of_all, 7, pages * 4096);
  say("repaired %d, right %d\n", count, right);
}

static void skip(int number, siginfo_t *information, void *context) {
  (void)number, (void)information;
  ucontext_t *saved = context;
  saved->uc_mcontext.gregs[REG_RIP] += 2;  // behind ud2
  saved->uc_mcontext.gregs[REG_RBX] = 0x1234;
}

static void change_registers(void) {
  handle_with(SIGILL, skip, 0);
  uint64_t value;
  __asm__ volatile("mov $1, %%rbx; ud2; mov %%rbx, %0" : "=r"(value)::"rbx");
  say("value 0x%lx\n", value);
}

// Stacks

static uintptr_t lowest;
static rlim_t limit;

static int deeper(int depth) {
  volatile char room[2048];
  room[0] = (char)depth;
  lowest = (uintptr_t)room;
  return depth < 0 ? 0 : deeper(depth + 1) + room[0];
}

static void fill_stack(const char *name) {
  const stack_t wanted = {.ss_sp = memory(65536), .ss_size = 65536};
  sigaltstack(&wanted, NULL);
  handle_with(SIGSEGV, jump, SA_ONSTACK);
  char here;
  count = 0;
  if (sigsetjmp(back, 1) == 0)
    deeper(0);
  long used = (long)((uintptr_t)&here - lowest);
  say("%s: signals %d, used nearly all %d\n", name, count,
      used > (long)limit - (1 << 19) && used < (long)limit + (1 << 16));
}

static void *fill_thread_stack(void *unused) {
  (void)unused;
  fill_stack("thread");
  return NULL;
}

static void stack_limits(void) {
  struct rlimit limits;
  getrlimit(RLIMIT_STACK, &limits);
  limit = 2 << 20;
  limits.rlim_cur = limit;
  setrlimit(RLIMIT_STACK, &limits);
  fill_stack("first thread");
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, limit);
  pthread_t thread;
  pthread_create(&thread, &attributes, fill_thread_stack, NULL);
  pthread_join(thread, NULL);
}

static void segment_bases(void) {
  uint64_t old, again;
  static uint64_t room[64];
  room[0] = (uint64_t)room, room[2] = (uint64_t)room;
  handle_with(SIGILL, skip, 0);
  __asm__ volatile("rdfsbase %0" : "=r"(old));
  // While the base is another one: a system call, an instruction for the host, a signal.
  __asm__ volatile("wrfsbase %2; mov $39, %%eax; syscall; ud2; mov %%fs:0, %0; wrfsbase %1"
                   : "=&r"(again)
                   : "r"(old), "r"(room)
                   : "rax", "rbx", "rcx", "r11", "memory");
  say("base kept %d\n", again == (uint64_t)room);
  enum { SET_GS = 0x1001 };
  syscall(SYS_arch_prctl, SET_GS, room);
  __asm__ volatile("mov $39, %%eax; syscall; ud2; mov %%gs:0, %0"
                   : "=&r"(again)::"rax", "rbx", "rcx", "r11", "memory");
  say("other base kept %d\n", again == (uint64_t)room);
  pid_t child = fork();
  if (child == 0) {
    __asm__ volatile("mov %%gs:0, %0" : "=r"(again));
    _exit(again == (uint64_t)room ? 0 : 1);
  }
  say_end("child", child);
}

// Cores: the registers of the thread that died are the program's.

static void deep_abort(int *mark) {
  volatile uintptr_t words[2] = {(uintptr_t)mark, (uintptr_t)__builtin_return_address(0)};
  (void)!write(1, (void *)words, sizeof words);
  abort();
}

static void crash_by_abort(void) {
  int here;
  deep_abort(&here);
}

static void crash_by_fault(void) {
  extern char faulting[];
  int here;
  const uintptr_t words[] = {(uintptr_t)&here, (uintptr_t)faulting};
  (void)!write(1, words, sizeof words);
  __asm__ volatile("faulting: movl $1, 8" ::: "memory");
}

// Registers of the first thread in a core, the one that died.
static bool read_core(struct user_regs_struct *registers) {
  FILE *file = fopen("core", "r");
  char name[64];
  Elf64_Ehdr head;
  Elf64_Phdr part = {0};
  if (file == NULL || fread(&head, sizeof head, 1, file) != 1)
    return false;
  fseek(file, (long)head.e_phoff, SEEK_SET);
  while (part.p_type != PT_NOTE && fread(&part, sizeof part, 1, file) == 1)
    ;
  fseek(file, (long)part.p_offset, SEEK_SET);
  Elf64_Nhdr note;
  struct elf_prstatus status;
  bool is_read = fread(&note, sizeof note, 1, file) == 1 && note.n_type == NT_PRSTATUS &&
                 fread(name, (note.n_namesz + 3) & ~3u, 1, file) == 1 &&
                 fread(&status, sizeof status, 1, file) == 1;
  memcpy(registers, &status.pr_reg, sizeof *registers);
  fclose(file);
  return is_read;
}

static void look_at_core(const char *name, int number) {
  int ends[2];
  (void)!pipe(ends);
  pid_t child = fork();
  if (child == 0) {
    char *const arguments[] = {"/proc/self/exe", (char *)name, NULL};
    const struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_CORE, &unlimited);
    dup2(ends[1], 1);
    dup2(open("/dev/null", O_WRONLY), 2);
    execv(arguments[0], arguments);
  }
  uintptr_t words[2];
  (void)!read(ends[0], words, sizeof words);
  int status;
  waitpid(child, &status, 0);
  struct user_regs_struct registers = {0};
  bool is_read = read_core(&registers);
  say("%s: signal %d, core %d, stack %d", name, WTERMSIG(status), is_read,
      !is_read || words[0] - registers.rsp < 1 << 16);
  if (number == SIGSEGV)
    say(", instruction %d", !is_read || registers.rip == words[1]);
  say("\n");
  unlink("core");
}

static void cores(void) {
  char directory[] = "/tmp/plain-XXXXXX", pattern[16] = "";
  int descriptor = open("/proc/sys/kernel/core_pattern", O_RDONLY);
  if (read(descriptor, pattern, sizeof pattern) != 5 || memcmp(pattern, "core\n", 5) != 0) {
    say("cores go elsewhere here\n");
    return;
  }
  (void)!chdir(mkdtemp(directory));
  look_at_core("crash-by-fault", SIGSEGV);
  look_at_core("crash-by-abort", SIGABRT);
  rmdir(directory);
}

const struct plain_case fault_cases[] = {
    {"faults", faults}, {"alignment", alignment},
    {"jump-out-of-handler", jump_out_of_handler},
    {"jump-off-alternate-stack", jump_off_alternate_stack},
    {"repair-in-handler", repair_in_handler}, {"change-registers", change_registers},
    {"stack-limits", stack_limits}, {"segment-bases", segment_bases}, {"cores", cores},
    {"crash-by-fault", crash_by_fault}, {"crash-by-abort", crash_by_abort}, {NULL, NULL},
};
