// Programs whose memory has a rule: two words are equal whenever the program waits.
#include "cases.h"

#define BYTES (1 << 20)

static volatile long *map_words(const char *path) {
  int fd = open(path, O_RDWR | O_CREAT, 0600);
  if (ftruncate(fd, BYTES) != 0)
    exit(1);
  void *map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED)
    exit(1);
  return map;
}

static void compute(long microseconds) {
  struct timespec start, now;
  clock_gettime(CLOCK_MONOTONIC, &start);
  do
    clock_gettime(CLOCK_MONOTONIC, &now);
  while ((now.tv_sec - start.tv_sec) * 1000000 + (now.tv_nsec - start.tv_nsec) / 1000 <
         microseconds);
}

// What is in the file: the words, one a line.
static int show(const char *path, char **rest) {
  (void)rest;
  volatile long *words = map_words(path);
  for (int i = 0; i < 4; i++)
    printf("%ld\n", words[1024 * i]);
  return 0;
}

static volatile long *shared;

// Two words far from each other, equal but in the middle of a change.
static void *change_for_ever(void *unused) {
  (void)unused;
  for (long i = 1;; i++) {
    shared[0] = i;
    compute(20);
    shared[1024] = i;
    usleep(10);
  }
}

// The same with a lock that the other thread takes, too, and waits with.
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static void *change_with_lock(void *unused) {
  (void)unused;
  for (long i = 1;; i++) {
    pthread_mutex_lock(&mutex);
    shared[2048] = i;
    usleep(20);  // no safe point: it holds a lock
    shared[3072] = i;
    pthread_mutex_unlock(&mutex);
    usleep(10);
  }
}

static int changes(const char *path, char **rest) {
  shared = map_words(path);
  pthread_t threads[3];
  pthread_create(&threads[0], NULL, change_for_ever, NULL);
  pthread_create(&threads[1], NULL, change_with_lock, NULL);
  puts("running"), fflush(stdout);
  while (shared[1024] == 0 || shared[3072] == 0)
    usleep(100);
  wait_for_epoch();
  usleep((useconds_t)atoi(rest[0]));
  kill(getpid(), SIGKILL);
  return 0;
}

// Breaks the rule: waits in the middle of a change.
static int breaks(const char *path, char **rest) {
  (void)rest;
  shared = map_words(path);
  shared[0] = 1;
  wait_for_epoch();
  kill(getpid(), SIGKILL);
  shared[1024] = 1;
  return 0;
}

// One thread computes for long; the other one is not stopped for as long.
static void *compute_long(void *unused) {
  (void)unused;
  compute(300000);
  shared[1024] = 1;
  return NULL;
}

static int computes(const char *path, char **rest) {
  (void)rest;
  shared = map_words(path);
  pthread_t thread;
  pthread_create(&thread, NULL, compute_long, NULL);
  long rounds = 0;
  for (; shared[1024] == 0; rounds++)
    usleep(1000);
  printf("%s\n", rounds >= 5 ? "went on" : "was stopped");
  fflush(stdout);
  kill(getpid(), SIGUSR2);
  pthread_join(thread, NULL);
  return 0;
}

// A handler that interrupts a wait changes both words, and takes its time.
static void handler(int number) {
  (void)number;
  shared[0]++;
  compute(3000);
  shared[1024]++;
}

static void *send_signals(void *thread) {
  for (;;) {
    pthread_kill(*(pthread_t *)thread, SIGUSR1);
    usleep(500);
  }
}

static int handles(const char *path, char **rest) {
  shared = map_words(path);
  pthread_t self = pthread_self(), sender;
  signal(SIGUSR1, handler);
  pthread_create(&sender, NULL, send_signals, &self);
  while (shared[1024] == 0)
    usleep(1000);
  wait_for_epoch();
  struct timespec limit, now;
  clock_gettime(CLOCK_MONOTONIC, &limit);
  do {
    usleep(1000);
    clock_gettime(CLOCK_MONOTONIC, &now);
  } while ((now.tv_sec - limit.tv_sec) * 1000000 + (now.tv_nsec - limit.tv_nsec) / 1000 <
           atoi(rest[0]));
  kill(getpid(), SIGKILL);
  return 0;
}

// Ends in some way, without a wait after its last change.
static int ends(const char *path, char **rest) {
  shared = map_words(path);
  shared[0] = shared[1024] = 7;
  if (strcmp(rest[0], "return") == 0)
    return 0;
  if (strcmp(rest[0], "_exit") == 0)
    _exit(0);
  if (strcmp(rest[0], "exec") == 0)
    execlp("true", "true", NULL);
  if (strcmp(rest[0], "munmap") == 0) {
    for (int fd = 3; fd < 10; fd++)
      close(fd);
    munmap((void *)shared, BYTES);
    kill(getpid(), SIGKILL);
  }
  if (strcmp(rest[0], "thread") == 0)
    pthread_exit(NULL);
  return 1;
}

// A child has no pools, and its parent keeps its own.
static int forks(const char *path, char **rest) {
  (void)rest;
  shared = map_words(path);
  shared[0] = 1;
  pid_t child = fork();
  if (child == 0) {
    shared[0] = 2;
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  printf("child: signal %d\n", WTERMSIG(status));
  shared[1024] = shared[0];
  return 0;
}

// Two changes, the second not committed by the call.
static int syncs(const char *path, char **rest) {
  shared = map_words(path);
  int fd = open(path, O_RDWR);
  shared[0] = shared[1024] = 1;
  if (strcmp(rest[0], "msync") == 0)
    printf("%d\n", msync((void *)shared, 4096, MS_SYNC));
  else if (strcmp(rest[0], "fsync") == 0)
    printf("%d\n", fsync(fd));
  else
    printf("%d\n", fdatasync(fd));
  fflush(stdout);
  shared[0] = 2;
  usleep(20000);
  kill(getpid(), SIGKILL);
  return 0;
}

static void *kill_after(void *time) {
  while (shared[1024] == 0 && shared[2048] == 0)
    usleep(100);
  wait_for_epoch();
  usleep((useconds_t)atoi(time));
  kill(getpid(), SIGKILL);
  return NULL;
}

// Says each number to the outside right after it is in the file, by several kinds of calls.
static int answers(const char *path, char **rest) {
  shared = map_words(path);
  pthread_t killer;
  pthread_create(&killer, NULL, kill_after, rest[0]);
  for (long i = 1;; i++) {
    char text[32];
    int bytes = snprintf(text, sizeof text, "%ld\n", i);
    struct iovec parts[2] = {{text, 1}, {text + 1, (size_t)bytes - 1}};
    shared[0] = shared[1024] = i;
    ssize_t written = i % 2 == 0 ? write(1, text, (size_t)bytes) : writev(1, parts, 2);
    if (written != bytes)
      return 1;
    if (i % 7 == 0)
      usleep(1);
  }
}

// Says something and ends; what it says is about what is in the file.
static int farewell(const char *path, char **rest) {
  (void)rest;
  shared = map_words(path);
  shared[0] = shared[1024] = 5;
  int other = dup(1);
  bool is_said = write(1, "one\n", 4) == 4 && write(other, "two\n", 4) == 4;
  close(other);
  is_said = is_said && write(1, "three\n", 6) == 6;
  close(1);
  return is_said ? 0 : 1;
}

// A new file of the same name begins empty; a wrapped one is not renamed.
static int replaces(const char *path, char **rest) {
  (void)rest;
  char other[4096];
  snprintf(other, sizeof other, "%s.other", path);
  shared = map_words(path);
  shared[0] = shared[1024] = 1;
  for (int fd = 3; fd < 10; fd++)
    close(fd);
  munmap((void *)shared, BYTES);
  int renamed = rename(path, other);
  printf("%s\n", renamed == -1 && errno == EXDEV ? "not renamed" : "renamed");
  printf("%d\n", unlink(path));
  shared = map_words(path);
  printf("%ld\n", shared[0]);
  shared[1024] = 2;
  void *elsewhere = mmap((void *)0x100000000000, BYTES, PROT_READ, MAP_SHARED | MAP_FIXED, 3, 0);
  printf("%s\n", elsewhere == MAP_FAILED && errno == EINVAL ? "not there" : "there");
  return 0;
}

// Makes a number durable by a call: at byte 8192, or by the length of the file.
static bool call_with(const char *call, int fd, int other, long number) {
  const struct iovec parts[2] = {{&number, 4}, {(char *)&number + 4, 4}};
  off_t from = 0, to = 8192;
  bool is_set = pwrite(other, &number, 8, 0) == 8 && lseek(fd, 8192, SEEK_SET) == 8192;
  if (strcmp(call, "write") == 0)
    return is_set && write(fd, &number, 8) == 8;
  if (strcmp(call, "pwrite") == 0)
    return pwrite(fd, &number, 8, 8192) == 8;
  if (strcmp(call, "writev") == 0)
    return is_set && writev(fd, parts, 2) == 8;
  if (strcmp(call, "pwritev") == 0)
    return pwritev(fd, parts, 2, 8192) == 8;
  if (strcmp(call, "sendfile") == 0)
    return is_set && sendfile(fd, other, &from, 8) == 8;
  if (strcmp(call, "copy_file_range") == 0)
    return is_set && copy_file_range(other, &from, fd, &to, 8, 0) == 8;
  if (strcmp(call, "ftruncate") == 0)
    return ftruncate(fd, BYTES + number) == 0;
  return strcmp(call, "fallocate") == 0 && fallocate(fd, 0, BYTES, number) == 0;
}

static int calls(const char *path, char **rest) {
  char name[4096];
  snprintf(name, sizeof name, "%s.other", path);
  shared = map_words(path);
  int fd = open(path, O_RDWR), other = open(name, O_RDWR | O_CREAT, 0600);
  pthread_t killer;
  pthread_create(&killer, NULL, kill_after, rest[1]);
  for (long i = 1;; i++) {
    shared[0] = i;
    compute(20);
    if (!call_with(rest[0], fd, other, i))
      return 1;
    compute(20);
    shared[2048] = i;
    usleep(1);
  }
}

// What is in the file: both words, and what the call said.
static int called(const char *path, char **rest) {
  struct stat status;
  int fd = open(path, O_RDWR);
  if (fstat(fd, &status) != 0)
    return 1;
  bool is_length = strcmp(rest[0], "ftruncate") == 0 || strcmp(rest[0], "fallocate") == 0;
  volatile long *words = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, fd, 0);
  printf("%ld\n%ld\n%ld\n", words[0], is_length ? status.st_size - BYTES : words[1024],
         words[2048]);
  return 0;
}

const struct wrap_verb verbs[] = {
    {"show", show},         {"changes", changes}, {"breaks", breaks}, {"computes", computes},
    {"handles", handles},   {"ends", ends},       {"forks", forks},   {"syncs", syncs},
    {"answers", answers},   {"farewell", farewell},
    {"replaces", replaces}, {"calls", calls},     {"called", called},
    {NULL, NULL},
};
