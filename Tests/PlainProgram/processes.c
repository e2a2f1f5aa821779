// Children of every kind, threads, time, and calls that the kernel finishes later.
#include "cases.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <spawn.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/user.h>
#include <time.h>

extern char **environ;
static volatile int shared;
static volatile int count;

static void add_one(int number, siginfo_t *information, void *context) {
  (void)number, (void)information, (void)context;
  count++;
}

static void forks(void) {
  handle_with(SIGUSR1, add_one, 0);
  mask_one(SIG_BLOCK, SIGUSR2);
  shared = 1;
  pid_t child = fork();
  if (child == 0) {
    shared = 2;
    raise(SIGUSR1);
    sigset_t mask;
    sigprocmask(SIG_BLOCK, NULL, &mask);
    say("child: handled %d, blocked %d, alone %d\n", count, sigismember(&mask, SIGUSR2),
        getpid() == syscall(SYS_gettid));
    pid_t grandchild = fork();
    if (grandchild == 0)
      _exit(9);
    say_end("grandchild", grandchild);
    struct sigaction action;
    sigaction(SIGUSR1, NULL, &action);
    say("its handler %d\n", action.sa_sigaction == add_one);
    sigaction(SIGSEGV, NULL, &action);
    say("default %d\n", action.sa_handler == SIG_DFL);
    _exit(7);
  }
  say_end("child", child);
  say("shared %d handled %d\n", shared, count);
}

static void vforks(void) {
  pid_t child = vfork();
  if (child == 0) {
    shared = 5;
    _exit(6);
  }
  say_end("vfork", child);
  say("shared %d\n", shared);
  child = vfork();
  if (child == 0) {
    execl("/bin/sh", "sh", "-c", "echo executed; exit 2", NULL);
    _exit(1);
  }
  say_end("executed", child);
}

static void spawns(void) {
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t set;
  sigfillset(&set);
  posix_spawnattr_setsigdefault(&attributes, &set);
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  posix_spawnattr_setsigmask(&attributes, &set);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK |
                                            POSIX_SPAWN_SETPGROUP);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 5, "/dev/null", O_RDONLY, 0);
  handle_with(SIGINT, add_one, 0);
  signal(SIGTERM, SIG_IGN);
  char *const arguments[] = {
      "sh", "-c", "ls -l /proc/$$/fd/5 | grep -c null; kill -USR1 $$; kill -TERM $$; exit 1", NULL};
  pid_t child;
  int result = posix_spawn(&child, "/bin/sh", &actions, &attributes, arguments, environ);
  say_end("spawned", child);  // which has said what it says by then
  say("result %d\n", result);
  result = posix_spawn(&child, "/nowhere", NULL, NULL, arguments, environ);
  say("nowhere: %s\n", strerror(result));
  say("system %d\n", system("exit 5") >> 8);
  FILE *pipe = popen("echo from a pipe", "r");
  char line[64] = "";
  (void)!fgets(line, sizeof line, pipe);
  say("%s%d\n", line, pclose(pipe));
  raise(SIGINT);
  say("handled %d\n", count);
}

// clone without fork's copies

static int run_in_clone(void *argument) {
  shared += *(int *)argument;
  for (int i = 0; i < 1000; i++)
    sched_yield();
  shared += 100;
  return shared == 103 ? 11 : 12;
}

static void clones(void) {
  int three = 3;
  char *stack = memory(1 << 16);
  pid_t child = clone(run_in_clone, stack + (1 << 16), CLONE_VM | SIGCHLD, &three);
  say_end("shares memory", child);
  say("shared %d\n", shared);
  shared = 0;
  child = clone(run_in_clone, stack + (1 << 16), SIGCHLD, &three);
  say_end("has its own", child);
  say("shared %d\n", shared);
  child = clone(run_in_clone, stack + (1 << 16), CLONE_VM | CLONE_VFORK | SIGCHLD, &three);
  say_end("waited for", child);
  say("shared %d\n", shared);
  shared = 0;
  for (int i = 0; i < 20; i++) {  // while this goes on with other things
    shared = 0;
    child = clone(run_in_clone, stack + (1 << 16), CLONE_VM | CLONE_FILES | CLONE_FS | SIGCHLD,
                  &three);
    volatile char room[8192];
    memset((char *)room, 1, sizeof room);
    for (int j = 0; j < 10; j++)
      getppid();
    int status;
    waitpid(child, &status, 0);
    count += WIFEXITED(status) && WEXITSTATUS(status) == 11;
  }
  say("all %d\n", count);
}

static void clone3_forms(void) {
  struct clone_args arguments = {.exit_signal = SIGCHLD};
  pid_t child = (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
  if (child == 0)
    _exit(21);
  say_end("clone3", child);
  int number = 0;
  arguments.flags = CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
  arguments.parent_tid = (uintptr_t)&number;
  arguments.child_tid = (uintptr_t)&number;
  child = (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
  if (child == 0)
    _exit(22);
  say("number %d\n", number == child);
  say_end("clone3", child);
  arguments = (struct clone_args){.exit_signal = SIGCHLD, .flags = CLONE_CLEAR_SIGHAND};
  handle_with(SIGUSR1, add_one, 0);
  child = (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
  if (child == 0) {
    raise(SIGUSR1);
    _exit(23);
  }
  say_end("without handlers", child);
  int descriptor = -1;
  arguments = (struct clone_args){.exit_signal = SIGCHLD, .flags = CLONE_PIDFD,
                                  .pidfd = (uintptr_t)&descriptor};
  child = (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
  if (child == 0)
    _exit(24);
  siginfo_t information = {0};
  int result = waitid(P_PIDFD, (id_t)descriptor, &information, WEXITED);
  say("descriptor %d %d\n", result, information.si_status);
}

// Threads

static void *thread_work(void *argument) {
  long number = (long)argument;
  __atomic_fetch_add(&shared, (int)number, __ATOMIC_SEQ_CST);
  static _Thread_local long own;
  own = number;
  for (int i = 0; i < 20; i++)
    sched_yield();
  return (void *)own;
}

static void threads(void) {
  pthread_t all[16];
  long sum = 0;
  for (long round = 0; round < 5; round++) {
    for (long i = 0; i < 16; i++)
      pthread_create(&all[i], NULL, thread_work, (void *)i);
    for (int i = 0; i < 16; i++) {
      void *result;
      pthread_join(all[i], &result);
      sum += (long)result;
    }
  }
  say("sum %ld shared %d\n", sum, shared);
}

static void *lock_and_end(void *mutex) {
  pthread_mutex_lock(mutex);
  return NULL;
}

static void *wait_for_ever(void *unused) {
  for (;;)
    pause();
  return unused;
}

static void *compute_for_ever(void *unused) {
  for (;;)
    shared++;
  return unused;
}

static void ends_of_threads(void) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_t mutex;
  pthread_mutex_init(&mutex, &attributes);
  pthread_t thread;
  pthread_create(&thread, NULL, lock_and_end, &mutex);
  pthread_join(thread, NULL);
  say("robust: %s\n", strerror(pthread_mutex_lock(&mutex)));
  void *result;
  pthread_create(&thread, NULL, wait_for_ever, NULL);
  pthread_cancel(thread);
  pthread_join(thread, &result);
  say("cancelled %d\n", result == PTHREAD_CANCELED);
  pthread_create(&thread, NULL, compute_for_ever, NULL);
  usleep(10000);
  say("exits with a thread that computes\n");
  exit(17);
}

static void exec_with_threads(void) {
  pthread_t thread;
  pthread_create(&thread, NULL, compute_for_ever, NULL);
  pthread_create(&thread, NULL, wait_for_ever, NULL);
  usleep(10000);
  execl("/bin/sh", "sh", "-c", "echo executed; exit 18", NULL);
}

static void ends_at_once(int number) {
  int ends[2];
  (void)!pipe(ends);
  pid_t child = fork();
  if (child == 0) {
    // In the guest again: a program that spins and one thread more.
    char *const arguments[] = {"/proc/self/exe", "spin", NULL};
    dup2(ends[1], 1);
    execv(arguments[0], arguments);
  }
  char byte;
  (void)!read(ends[0], &byte, 1);
  kill(child, number);
  say_end("spinning", child);
}

static void terminate(void) {
  ends_at_once(SIGTERM);
  ends_at_once(SIGKILL);
  ends_at_once(SIGINT);
}

static void spin(void) {
  pthread_t thread;
  pthread_create(&thread, NULL, compute_for_ever, NULL);
  say("x");
  compute_for_ever(NULL);
}

// Time and processors

static void time_and_processors(void) {
  struct timeval by_call, by_page;
  syscall(SYS_gettimeofday, &by_call, NULL);
  gettimeofday(&by_page, NULL);
  say("clock %d\n", by_page.tv_sec - by_call.tv_sec <= 60);
  typedef long clock_function(struct timeval *, void *);
  typedef long time_function(long *);
  typedef long processor_function(unsigned *, unsigned *, void *);
  struct timeval by_vsyscall = {0};
  long result = ((clock_function *)0xffffffffff600000)(&by_vsyscall, NULL);
  say("vsyscall %ld %d\n", result, by_vsyscall.tv_sec - by_call.tv_sec <= 60);
  say("time %d\n", ((time_function *)0xffffffffff600400)(NULL) - by_call.tv_sec <= 60);
  unsigned processor = 99999;
  result = ((processor_function *)0xffffffffff600800)(&processor, NULL, NULL);
  say("getcpu %ld %d\n", result, processor < 1024);
  cpu_set_t set;
  int wrong = 0;
  for (int i = 0; i < 20; i++) {
    CPU_ZERO(&set);
    CPU_SET(i % 2, &set);
    if (sched_setaffinity(0, sizeof set, &set) == 0)
      wrong += sched_getcpu() != i % 2;
  }
  say("wrong processors %d\n", wrong);
  unsigned long long before = __builtin_ia32_rdtsc();
  say("stamps %d\n", __builtin_ia32_rdtsc() > before);
}

// A sleep that is stopped and continued, and looked at by a debugger, goes on to its end.
static void stopped_sleep(void) {
  pid_t child = fork();
  if (child == 0) {
    char *const arguments[] = {"/proc/self/exe", "sleep", NULL};
    execv(arguments[0], arguments);
  }
  usleep(100000);
  kill(child, SIGSTOP);
  int status;
  waitpid(child, &status, WUNTRACED);
  kill(child, SIGCONT);
  for (int i = 0; i < 3; i++) {
    say("attached %ld\n", ptrace(PTRACE_ATTACH, child, NULL, NULL));
    waitpid(child, &status, 0);
    ptrace(PTRACE_DETACH, child, NULL, NULL);
  }
  say_end("sleep", child);
}

static void sleep_for_a_time(void) {
  struct timespec before, after;
  clock_gettime(CLOCK_MONOTONIC, &before);
  const struct timespec time = {.tv_nsec = 400000000};
  int result = nanosleep(&time, NULL);
  clock_gettime(CLOCK_MONOTONIC, &after);
  long passed = (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000;
  say("slept %d enough %d\n", result, passed >= 400);
}

// A child that this program traces: stopped at its end, its memory read and written.
static void trace_child(void) {
  static volatile long word = 1;
  pid_t child = fork();
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    raise(SIGSTOP);
    _exit((int)word);
  }
  int status;
  waitpid(child, &status, 0);
  say("stopped %d\n", WIFSTOPPED(status));
  say("word %ld\n", ptrace(PTRACE_PEEKDATA, child, &word, NULL));
  ptrace(PTRACE_POKEDATA, child, &word, 33);
  struct user_regs_struct registers;
  say("registers %ld\n", ptrace(PTRACE_GETREGS, child, NULL, &registers));
  ptrace(PTRACE_SINGLESTEP, child, NULL, NULL);
  waitpid(child, &status, 0);
  say("stepped %d\n", WSTOPSIG(status) == SIGTRAP);
  ptrace(PTRACE_CONT, child, NULL, NULL);
  say_end("traced", child);
}

// Not compared: where the tracer is in the guest, what it starts is refused.
static void trace_execution(void) {
  pid_t child = fork();
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    execl("/bin/sh", "sh", "-c", "echo on the host", NULL);
  }
  int status;
  while (waitpid(child, &status, 0) == child && WIFSTOPPED(status))
    ptrace(PTRACE_CONT, child, NULL, NULL);
  say("executed: exit %d, signal %d\n", WEXITSTATUS(status), WTERMSIG(status));
}

static void exits_from_handler(int number, siginfo_t *information, void *context) {
  (void)number, (void)information, (void)context;
  exit(19);
}

static void say_goodbye(void) { say("goodbye\n"); }

static void exit_from_handler(void) {
  atexit(say_goodbye);
  handle_with(SIGSEGV, exits_from_handler, 0);
  *(volatile int *)8 = 1;
}

const struct plain_case process_cases[] = {
    {"forks", forks}, {"vforks", vforks}, {"spawns", spawns}, {"clones", clones},
    {"clone3", clone3_forms}, {"threads", threads}, {"ends-of-threads", ends_of_threads},
    {"exec-with-threads", exec_with_threads}, {"terminate", terminate}, {"spin", spin},
    {"time-and-processors", time_and_processors}, {"stopped-sleep", stopped_sleep},
    {"sleep", sleep_for_a_time}, {"trace-child", trace_child},
    {"traced-execution", trace_execution}, {"exit-from-handler", exit_from_handler}, {NULL, NULL},
};
