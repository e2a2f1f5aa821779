// Programs that a wrapper may easily get wrong: each was lost, stopped or answered wrongly once.
#include "cases.h"

#include <netinet/in.h>
#include <semaphore.h>
#include <sys/syscall.h>
#include <threads.h>

#define BYTES (1 << 20)
// Until a program that stands still ends, in seconds: a busy machine needs 30 for some of them.
#define GUARD_SECONDS 600

static volatile long *map_file(const char *path) {
  int fd = open(path, O_RDWR | O_CREAT, 0600);
  if (fd < 0 || ftruncate(fd, BYTES) != 0)
    exit(1);
  void *map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED)
    exit(1);
  return map;
}

// Pages that change in each commit, with others between them that another thread writes meanwhile.
static volatile long *words;

static void *commit_for_ever(void *unused) {
  for (long i = 1;; i++) {
    for (int page = 0; page < 200; page += 2)
      words[page * 512] = i;
    msync((void *)words, BYTES, MS_SYNC);
  }
  return unused;
}

// Each page is written once, and then synchronised: it must be durable.
static int gaps(const char *path, char **rest) {
  (void)rest;
  words = map_file(path);
  pthread_t thread;
  pthread_create(&thread, NULL, commit_for_ever, NULL);
  usleep(20000);
  for (int page = 1; page < 200; page += 2) {
    usleep(300);
    for (int slot = 1; slot < 400; slot++)
      words[page * 512 + slot] = 7;
    words[page * 512] = 7;
    if (msync((void *)words, BYTES, MS_SYNC) != 0)
      return 1;
  }
  kill(getpid(), SIGKILL);
  return 0;
}

static int lost(const char *path, char **rest) {
  (void)rest;
  words = map_file(path);
  int count = 0;
  for (int page = 1; page < 200; page += 2)
    for (int slot = 0; slot < 400; slot++)
      count += words[page * 512 + slot] != 7;
  printf("%d lost\n", count);
  return 0;
}

// A child opens the pool that its parent has given up, or that no one had before a daemon.
static int daemons(const char *path, char **rest) {
  bool is_daemon = strcmp(rest[0], "daemon") == 0;
  int ends[2];
  if (pipe(ends) != 0)
    return 1;
  if (!is_daemon) {
    words = map_file(path);
    close(5);  // behind the two ends
    munmap((void *)words, BYTES);
  }
  if (fork() != 0) {
    char byte;
    close(ends[1]);
    return read(ends[0], &byte, 1) < 0;
  }
  if (is_daemon && daemon(1, 1) != 0)
    return 1;
  words = map_file(path);
  words[0] = words[1024] = 3;
  wait_for_epoch();
  puts("done");
  fflush(stdout);
  kill(getpid(), SIGKILL);
  return 0;
}

// Connections of the program with itself: its client's end and its server's.
static int listen_on(struct sockaddr_in *name) {
  int fd = socket(AF_INET, SOCK_STREAM, 0), small = 4096;
  socklen_t bytes = sizeof *name;
  *name = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
  if (bind(fd, (struct sockaddr *)name, bytes) != 0 || listen(fd, 100) != 0 ||
      getsockname(fd, (struct sockaddr *)name, &bytes) != 0)
    exit(1);
  return fd;
}

static int connect_to(const struct sockaddr_in *name) {
  int fd = socket(AF_INET, SOCK_STREAM, 0), small = 4096;
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  if (connect(fd, (const struct sockaddr *)name, sizeof *name) != 0)
    exit(1);
  return fd;
}

#define ANSWER_BYTES (1 << 20)
static char answer[ANSWER_BYTES];

static void send_all(int fd, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    ssize_t count = write(fd, answer + done, bytes - done);
    if (count < 0)
      exit(1);
    done += (size_t)count;
  }
}

static void *serve(void *listener) {
  int fd = accept(*(int *)listener, NULL, NULL);
  char byte;
  while (read(fd, &byte, 1) == 1) {
    words[0]++;
    send_all(fd, sizeof answer);
  }
  return NULL;
}

// An answer of more than a socket takes at once.
static int serves(const char *path, char **rest) {
  (void)rest;
  alarm(GUARD_SECONDS);
  words = map_file(path);
  struct sockaddr_in name;
  int listener = listen_on(&name);
  pthread_t thread;
  pthread_create(&thread, NULL, serve, &listener);
  int fd = connect_to(&name);
  size_t got = 0;
  if (write(fd, "?", 1) != 1)
    return 1;
  while (got < sizeof answer) {
    static char buffer[65536];
    ssize_t count = read(fd, buffer, sizeof buffer);
    if (count <= 0)
      return 1;
    got += (size_t)count;
  }
  printf("%ld answered\n", words[0]);
  return 0;
}

// Many clients that do not read stop nobody else.
static int crowds(const char *path, char **rest) {
  (void)rest;
  alarm(GUARD_SECONDS);
  words = map_file(path);
  struct sockaddr_in name;
  int listener = listen_on(&name), server = -1, client = -1;
  for (int i = 0; i < 80; i++) {
    client = connect_to(&name);
    server = accept(listener, NULL, NULL);
    send_all(server, i < 79 ? sizeof answer : 1);
  }
  char byte;
  printf("%zd read\n", read(client, &byte, 1));
  fflush(stdout);
  kill(getpid(), SIGKILL);
  return 0;
}

// What is held for a client that has been closed does not go to the next one.
static int closes(const char *path, char **rest) {
  alarm(GUARD_SECONDS);
  words = map_file(path);
  struct sockaddr_in name;
  int listener = listen_on(&name);
  int first = connect_to(&name), second = connect_to(&name);
  int server = accept(listener, NULL, NULL);
  memset(answer, 'a', sizeof answer);
  send_all(server, sizeof answer);
  if (strcmp(rest[0], "closefrom") == 0)
    closefrom(server);
  else if (strcmp(rest[0], "syscall") == 0)
    syscall(SYS_close, server);
  else if (strcmp(rest[0], "close_range") == 0)
    close_range((unsigned)server, (unsigned)server, 0);
  else
    close(server);
  printf("%s\n", accept(listener, NULL, NULL) == server ? "the same number" : "another number");
  if (write(server, "b", 1) != 1)
    return 1;
  char byte = 0;
  if (read(second, &byte, 1) != 1)
    return 1;
  size_t got = 0;
  static char buffer[65536];
  for (ssize_t count; (count = read(first, buffer, sizeof buffer)) > 0;)
    got += (size_t)count;
  printf("%c, %zu\n", byte, got);
  fflush(stdout);
  kill(getpid(), SIGKILL);
  return 0;
}

// A handler that interrupts a change, and waits.
static void wait_in_handler(int number) {
  (void)number;
  usleep(2000);
}

static void *interrupt(void *thread) {
  while (words[1024] == 0)
    usleep(100);
  wait_for_epoch();
  for (int i = 0; i < 60; i++) {
    usleep(2500);
    pthread_kill(*(pthread_t *)thread, SIGUSR1);
  }
  kill(getpid(), SIGKILL);
  return NULL;
}

static int interrupts(const char *path, char **rest) {
  (void)rest;
  words = map_file(path);
  pthread_t self = pthread_self(), thread;
  signal(SIGUSR1, wait_in_handler);
  pthread_create(&thread, NULL, interrupt, &self);
  for (long i = 1;; i++) {
    words[0] = i;
    for (volatile int spin = 0; spin < 100000; spin++)
      ;
    words[1024] = i;
    usleep(1);
  }
}

// Threads that are cancelled while they say something.
static void *talk(void *unused) {
  for (;;) {
    words[0]++;
    if (write(1, ".", 1) != 1)
      return unused;
    usleep(1);
  }
}

static int cancels(const char *path, char **rest) {
  (void)rest;
  alarm(GUARD_SECONDS);
  words = map_file(path);
  for (int i = 0; i < 300; i++) {
    pthread_t thread;
    pthread_create(&thread, NULL, talk, NULL);
    usleep((useconds_t)(i * 7 % 400));
    pthread_cancel(thread);
    pthread_join(thread, NULL);
  }
  return write(1, "done\n", 5) == 5 ? 0 : 1;
}

// Threads and locks of C11: one computes in a change, the other one waits in it with a lock held.
static int change_for_ever(void *unused) {
  (void)unused;
  for (long i = 1;; i++) {
    words[0] = i;
    for (volatile int spin = 0; spin < 20000; spin++)
      ;
    words[1024] = i;
    usleep(10);
  }
}

static mtx_t lock;

static int change_with_lock(void *unused) {
  (void)unused;
  for (long i = 1;; i++) {
    mtx_lock(&lock);
    words[2048] = i;
    usleep(20);
    words[3072] = i;
    mtx_unlock(&lock);
    usleep(10);
  }
}

static int c11(const char *path, char **rest) {
  words = map_file(path);
  thrd_t threads[2];
  mtx_init(&lock, mtx_plain);
  thrd_create(&threads[0], change_for_ever, NULL);
  thrd_create(&threads[1], change_with_lock, NULL);
  while (words[1024] == 0 || words[3072] == 0)
    thrd_sleep(&(struct timespec){0, 100000}, NULL);
  wait_for_epoch();
  thrd_sleep(&(struct timespec){0, atoi(rest[0]) * 1000L}, NULL);
  kill(getpid(), SIGKILL);
  return 0;
}

// A semaphore that is free is a lock that is taken: nobody waits.
static int semaphores(const char *path, char **rest) {
  (void)rest;
  words = map_file(path);
  sem_t semaphore;
  sem_init(&semaphore, 0, 1);
  words[0] = 1;
  sem_wait(&semaphore);
  kill(getpid(), SIGKILL);
  words[1024] = 1;
  return 0;
}

// A handler for one signal, which comes while the thread is in a call on a wrapped file.
static volatile int handled, handled_max = 200;

static void handle_once(int number) {
  struct sigaction action = {.sa_handler = handle_once, .sa_flags = (int)SA_RESETHAND};
  if (++handled < handled_max)
    sigaction(number, &action, NULL);
}

static void *send_signals(void *thread) {
  for (int i = 0; i < handled_max; i++) {
    usleep(30);  // else it would come when the last one's handler returns
    pthread_kill(*(pthread_t *)thread, SIGUSR1);
    while (handled <= i)
      usleep(10);
  }
  return NULL;
}

static int resets(const char *path, char **rest) {
  (void)rest;
  alarm(GUARD_SECONDS);
  words = map_file(path);
  pthread_t self = pthread_self(), thread;
  int fd = open(path, O_RDWR);
  handled = -1;
  handle_once(SIGUSR1);
  pthread_create(&thread, NULL, send_signals, &self);
  while (handled < handled_max)
    if (pwrite(fd, answer, sizeof answer, 0) != (ssize_t)sizeof answer)
      return 1;
  printf("%d handled\n", handled);
  fflush(stdout);
  raise(SIGUSR1);  // the default action: the end
  return 0;
}

// What cleans up behind a wait that is cancelled is code of the program as any other. It does not
// come to its end.
static void clean(void *unused) {
  (void)unused;
  words[0] = 1;
  for (;;)
    ;
}

static void *be_cancelled(void *unused) {
  pthread_cleanup_push(clean, NULL);
  for (;;)
    usleep(100000);
  pthread_cleanup_pop(0);
  return unused;
}

static int cleans(const char *path, char **rest) {
  (void)rest;
  words = map_file(path);
  pthread_t thread;
  pthread_create(&thread, NULL, be_cancelled, NULL);
  usleep(20000);
  pthread_cancel(thread);
  while (words[0] == 0)
    ;
  usleep(8000);  // epochs are due, and the thread still cleans up
  kill(getpid(), SIGKILL);
  return 0;
}

// A client that reads nothing does not keep the program from ending.
static int lingers(const char *path, char **rest) {
  (void)rest;
  alarm(GUARD_SECONDS);
  words = map_file(path);
  words[0] = words[1024] = 4;
  struct sockaddr_in name;
  int listener = listen_on(&name), client = connect_to(&name);
  send_all(accept(listener, NULL, NULL), sizeof answer);
  return client < 0;
}

// Locks on a file are not gone when it becomes a pool.
static int locks_file(const char *path, char **rest) {
  (void)rest;
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
  int fd = open(path, O_RDWR | O_CREAT, 0600);
  if (ftruncate(fd, BYTES) != 0 || fcntl(fd, F_SETLK, &lock) != 0 ||
      mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED)
    return 1;
  if (fork() == 0) {
    fcntl(fd, F_GETLK, &lock);
    printf("%s\n", lock.l_type == F_UNLCK ? "lost" : "held");
    fflush(stdout);
    _exit(0);
  }
  return wait(NULL) < 0;
}

const struct wrap_verb hostile_verbs[] = {
    {"gaps", gaps},     {"lost", lost},     {"daemons", daemons},       {"serves", serves},
    {"crowds", crowds}, {"closes", closes}, {"interrupts", interrupts}, {"cancels", cancels},
    {"c11", c11},       {"semaphores", semaphores}, {"resets", resets},
    {"cleans", cleans}, {"lingers", lingers},       {"locks-file", locks_file},
    {NULL, NULL},
};
