// Memory: mappings of every kind, shared ones, and what /proc says.
#include "cases.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>

static int count_of(const char *bytes, size_t length, char value) {
  int count = 0;
  for (size_t i = 0; i < length; i += 4096)
    count += bytes[i] == value;
  return count;
}

static void mappings(void) {
  char *start = sbrk(0);
  char *more = sbrk(1 << 20);
  memset(more, 3, 1 << 20);
  say("brk %d %d\n", more == start, count_of(more, 1 << 20, 3));
  char *it = memory(64 * 4096);
  memset(it, 1, 64 * 4096);
  it = mremap(it, 64 * 4096, 512 * 4096, MREMAP_MAYMOVE);
  say("grown %d %d\n", count_of(it, 64 * 4096, 1), count_of(it + 64 * 4096, 448 * 4096, 0));
  it = mremap(it, 512 * 4096, 16 * 4096, 0);
  char *elsewhere = memory(16 * 4096);
  char *moved = mremap(it, 16 * 4096, 16 * 4096, MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere);
  say("moved %d %d\n", moved == elsewhere, count_of(moved, 16 * 4096, 1));
  char *again = mmap(it, 16 * 4096, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  say("new pages %d\n", count_of(again, 16 * 4096, 0));
  memset(again, 9, 16 * 4096);
  madvise(again, 8 * 4096, MADV_DONTNEED);
  say("dropped %d kept %d\n", count_of(again, 16 * 4096, 0), count_of(again, 16 * 4096, 9));
  unsigned char in_memory[16];
  int result = mincore(again, 16 * 4096, in_memory);
  say("mincore %d last %d\n", result, in_memory[15] & 1);
  say("lock %d unlock %d\n", mlock(again, 4096), munlock(again, 4096));
  char *sparse = mmap(NULL, 1ul << 40, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  for (unsigned long at = 0; at < 1ul << 40; at += 1ul << 36)
    sparse[at] = 5;
  say("sparse %d\n", sparse[15ul << 36] + sparse[1ul << 36] + sparse[12345]);
}

static void change_code(void) {
  unsigned char *code =
      mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  int sum = 0;
  for (int i = 0; i < 100; i++) {
    const unsigned char bytes[] = {0xb8, (unsigned char)i, 0, 0, 0, 0xc3};  // mov $i, %eax; ret
    memcpy(code + i % 2 * 64, bytes, sizeof bytes);
    sum += ((int (*)(void))(code + i % 2 * 64))();
  }
  mprotect(code, 4096, PROT_READ | PROT_EXEC);
  sum += ((int (*)(void))code)();
  mprotect(code, 4096, PROT_READ | PROT_WRITE);
  code[1] = 7;
  mprotect(code, 4096, PROT_READ | PROT_EXEC);
  say("sum %d\n", sum + ((int (*)(void))code)());
}

static void share(const char *name, volatile int *words) {
  words[0] = 1;
  pid_t child = fork();
  if (child == 0) {
    words[1] = words[0] + 1;
    while (words[2] == 0)
      usleep(100);
    words[3] = words[2] + 1;
    _exit(0);
  }
  while (words[1] == 0)
    usleep(100);
  words[2] = 10;
  say_end(name, child);
  say("words %d %d %d\n", words[1], words[2], words[3]);
}

static void shared_memory(void) {
  share("anonymous", mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  int descriptor = memfd_create("memory", 0);
  say("memfd %d\n", ftruncate(descriptor, 4096));
  volatile int *words =
      mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  share("memfd", words);
  words[5] = 77;
  int value = 0;
  say("read %ld ", pread(descriptor, &value, sizeof value, 20));
  say("%d\n", value);
  char name[64];
  snprintf(name, sizeof name, "/plain-%d", getpid());
  int shared = shm_open(name, O_RDWR | O_CREAT, 0600);
  say("shm %d\n", ftruncate(shared, 4096));
  share("shm", mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0));
  shm_unlink(name);
  int id = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);
  void *attached = shmat(id, NULL, 0);
  shmctl(id, IPC_RMID, NULL);
  share("System V", attached);
  say("detached %d\n", shmdt(attached));
}

static void huge_pages(void) {
  const size_t bytes = 8 << 20;
  char *it = memory(bytes);
  say("advice %d\n", madvise(it, bytes, MADV_HUGEPAGE));
  memset(it, 4, bytes);
  say("filled %d\n", count_of(it, bytes, 4));
  mprotect(it + 4096, 4096, PROT_READ);
  madvise(it + (1 << 20), 4096, MADV_DONTNEED);
  say("split %d %d\n", count_of(it, bytes, 4), it[1 << 20]);
  char *huge = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  if (huge != MAP_FAILED)  // where there are any
    huge[12345] = 6;
  say("huge %d\n", huge == MAP_FAILED || huge[12345] == 6);
}

// userfaultfd: a thread fills pages when they are first touched.

static void *fill_pages(void *argument) {
  int descriptor = *(int *)argument;
  static char page[4096];
  for (int i = 0; i < 8; i++) {
    struct uffd_msg message;
    if (read(descriptor, &message, sizeof message) != sizeof message)
      break;
    memset(page, 'a' + i, sizeof page);
    struct uffdio_copy copy = {.dst = message.arg.pagefault.address & ~4095ul,
                               .src = (uintptr_t)page, .len = sizeof page};
    ioctl(descriptor, UFFDIO_COPY, &copy);
  }
  return NULL;
}

static void user_faults(void) {
  int descriptor = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
  if (descriptor < 0) {
    say("not here: %s\n", strerror(errno));
    return;
  }
  struct uffdio_api api = {.api = UFFD_API};
  say("interface %d\n", ioctl(descriptor, UFFDIO_API, &api));
  char *it = memory(8 * 4096);
  struct uffdio_register range = {.range = {.start = (uintptr_t)it, .len = 8 * 4096},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};
  say("registered %d\n", ioctl(descriptor, UFFDIO_REGISTER, &range));
  pthread_t thread;
  pthread_create(&thread, NULL, fill_pages, &descriptor);
  for (int i = 0; i < 8; i++)
    say("%c", i % 2 ? it[i * 4096] : (it[i * 4096 + 1] = 'A', it[i * 4096]));
  pthread_join(thread, NULL);
  say(" %c\n", it[1]);
}

// What /proc says

static int has_line(const char *path, const char *part) {
  FILE *file = fopen(path, "r");
  char line[4096];
  int found = 0;
  while (file != NULL && fgets(line, sizeof line, file))
    found += strstr(line, part) != NULL;
  if (file != NULL)
    fclose(file);
  return found;
}

static void proc(void) {
  char path[512] = "";
  say("exe %d\n", readlink("/proc/self/exe", path, sizeof path - 1) > 0);
  const char *slash = strrchr(path, '/');
  say("name %s\n", slash != NULL ? slash : path);
  say("stack %d heap %d\n", has_line("/proc/self/maps", "[stack]"),
      has_line("/proc/self/maps", "[heap]"));
  say("program %d\n", has_line("/proc/self/maps", path) > 0);
  say("state %d\n", has_line("/proc/self/status", "State:\tR"));
  say("pid %d\n", (int)getpid() == atoi(strrchr(realpath("/proc/self", path), '/') + 1));
  FILE *file = fopen("/proc/self/cmdline", "r");
  char words[512] = "";
  size_t bytes = fread(words, 1, sizeof words, file);
  fclose(file);
  say("second word %s, bytes %d\n", words + strlen(words) + 1, bytes > 5);
  int memory_of_own = open("/proc/self/mem", O_RDWR);
  static volatile int word = 5;
  int value = 6;
  say("mem %ld\n", pwrite(memory_of_own, &value, sizeof value, (off_t)(uintptr_t)&word));
  say("word %d\n", word);
}

static void limits(void) {
  struct rlimit limit = {.rlim_cur = 1ul << 33, .rlim_max = RLIM_INFINITY};
  say("set %d\n", setrlimit(RLIMIT_DATA, &limit));
  char *much = memory(1ul << 34);
  say("refused %d\n", much == NULL);
  limit.rlim_cur = 0;
  setrlimit(RLIMIT_FSIZE, &limit);
  signal(SIGXFSZ, SIG_IGN);
  int file = memfd_create("limited", 0);
  long written = write(file, "x", 1);
  say("written %ld %s\n", written, strerror(errno));
}

static void protection_keys(void) {
  int key = pkey_alloc(0, 0);
  if (key < 0) {
    say("no keys\n");
    return;
  }
  say("keys\n");
}

const struct plain_case memory_cases[] = {
    {"mappings", mappings}, {"change-code", change_code}, {"shared-memory", shared_memory},
    {"huge-pages", huge_pages}, {"user-faults", user_faults}, {"proc", proc},
    {"resource-limits", limits}, {"protection-keys", protection_keys}, {NULL, NULL},
};
