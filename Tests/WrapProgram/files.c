// What a program does with a file that it has mapped: the same with a wrapped file and a plain one.
#include "cases.h"

#define BYTES (1 << 20)

static const char *file_path;

static void show(const char *what, const char *bytes, size_t count) {
  printf("%s: %.*s\n", what, (int)strnlen(bytes, count), bytes);
}

// One case for each call

static void read_case(int fd, char *map) {
  char text[16] = "";
  strcpy(map + 100, "by a store");
  lseek(fd, 100, SEEK_SET);
  printf("read %zd, then at %ld\n", read(fd, text, 10), (long)lseek(fd, 0, SEEK_CUR));
  show("read", text, 16);
}

static void pread_case(int fd, char *map) {
  char text[16] = "";
  strcpy(map + 100, "by a store");
  printf("pread %zd, then at %ld\n", pread(fd, text, 5, 103), (long)lseek(fd, 0, SEEK_CUR));
  show("pread", text, 16);
  printf("at the end %zd\n", pread(fd, text, 10, BYTES - 3));
  printf("behind it %zd\n", pread(fd, text, 10, BYTES + 3));
}

static void readv_case(int fd, char *map) {
  char a[16] = "", b[16] = "";
  const struct iovec parts[2] = {{a, 4}, {b, 8}};
  strcpy(map + 100, "by a store");
  lseek(fd, 100, SEEK_SET);
  printf("readv %zd, then at %ld\n", readv(fd, parts, 2), (long)lseek(fd, 0, SEEK_CUR));
  show("readv", a, 16), show("readv", b, 16);
}

static void preadv_case(int fd, char *map) {
  char a[16] = "", b[16] = "";
  const struct iovec parts[2] = {{a, 4}, {b, 8}};
  strcpy(map + 100, "by a store");
  printf("preadv %zd\n", preadv(fd, parts, 2, 100));
  show("preadv", a, 16), show("preadv", b, 16);
}

static void write_case(int fd, char *map) {
  lseek(fd, 200, SEEK_SET);
  printf("write %zd, then at %ld\n", write(fd, "write", 6), (long)lseek(fd, 0, SEEK_CUR));
  show("in memory", map + 200, 16);
}

static void pwrite_case(int fd, char *map) {
  printf("pwrite %zd, then at %ld\n", pwrite(fd, "pwrite", 7, 300), (long)lseek(fd, 0, SEEK_CUR));
  show("in memory", map + 300, 16);
}

static const struct iovec two_parts[2] = {{"vec", 3}, {"tor", 4}};

static void writev_case(int fd, char *map) {
  lseek(fd, 200, SEEK_SET);
  printf("writev %zd, then at %ld\n", writev(fd, two_parts, 2), (long)lseek(fd, 0, SEEK_CUR));
  show("in memory", map + 200, 16);
}

static void pwritev_case(int fd, char *map) {
  printf("pwritev %zd\n", pwritev(fd, two_parts, 2, 400));
  show("in memory", map + 400, 16);
}

// A plain file with a text.
static int other_file(void) {
  char name[4096];
  snprintf(name, sizeof name, "%s.other", file_path);
  int other = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
  return pwrite(other, "to be copied", 13, 0) == 13 ? other : -1;
}

static void copy_file_range_case(int fd, char *map) {
  int other = other_file(), reader = open(file_path, O_RDONLY);
  char text[32] = "";
  strcpy(map + 500, "it is copied");
  off_t from = 500, to = 100;
  printf("copy_file_range %zd, %ld, %ld\n", copy_file_range(fd, &from, other, &to, 13, 0),
         (long)from, (long)to);
  printf("there %zd\n", pread(other, text, 13, 100));
  show("there", text, 32);
  lseek(fd, 600, SEEK_SET);
  printf("back %zd\n", copy_file_range(other, NULL, fd, NULL, 13, 0));
  show("in memory", map + 600, 32);
  lseek(other, 0, SEEK_SET);
  printf("refused %zd, still at %ld\n", copy_file_range(other, NULL, reader, NULL, 13, 0),
         (long)lseek(other, 0, SEEK_CUR));
}

static void sendfile_case(int fd, char *map) {
  int other = other_file(), ends[2];
  char text[32] = "";
  strcpy(map + 500, "to be sent");
  off_t from = 503;
  if (pipe(ends) == 0)
    printf("sendfile %zd, then at %ld\n", sendfile(ends[1], fd, &from, 8), (long)from);
  printf("in the pipe %zd\n", read(ends[0], text, 32));
  show("in the pipe", text, 32);
  lseek(fd, 700, SEEK_SET);
  from = 2;
  printf("into it %zd\n", sendfile(fd, other, &from, 5));
  show("in memory", map + 700, 32);
}

static long length_of(int fd) {
  struct stat status;
  return fstat(fd, &status) == 0 ? (long)status.st_size : -1;
}

static void fstat_case(int fd, char *map) {
  strcpy(map, "a store");
  printf("length %ld\n", length_of(fd));
  printf("write %zd, length %ld\n", pwrite(fd, "end", 3, BYTES + 20000), length_of(fd));
  printf("end at %ld\n", (long)lseek(fd, 0, SEEK_END));
}

static void ftruncate_case(int fd, char *map) {
  memset(map + 5000, 'x', 4000);
  printf("ftruncate %d, length %ld\n", ftruncate(fd, 6000), length_of(fd));
  printf("longer %d, length %ld\n", ftruncate(fd, 9000), length_of(fd));
  printf("byte 5999 %d, byte 6000 %d\n", map[5999], map[6000]);
  // Much longer, and shorter again: what nobody wrote is no memory.
  printf("huge %d %d, length %ld\n", ftruncate(fd, 2l << 30), ftruncate(fd, 7000), length_of(fd));
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  printf("%s\n", usage.ru_maxrss < 1 << 20 ? "small" : "large");  // KiB
}

static void fallocate_case(int fd, char *map) {
  printf("fallocate %d, length %ld\n", fallocate(fd, 0, BYTES, 4000), length_of(fd));
  printf("keep %d, length %ld\n", fallocate(fd, FALLOC_FL_KEEP_SIZE, BYTES + 4000, 4000),
         length_of(fd));
  memset(map, 'y', 12000);
  printf("punch %d\n", fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096));
  printf("before %d, in %d, behind %d\n", map[4095], map[5000], map[8192]);
  printf("posix_fallocate %d, length %ld\n", posix_fallocate(fd, 0, 2 * BYTES), length_of(fd));
}

static void appends(int fd, char *map) {
  fcntl(fd, F_SETFL, O_APPEND);
  printf("write %zd\n", write(fd, "appended", 8));
  char text[16] = "";
  printf("pread %zd\n", pread(fd, text, 8, BYTES));
  show("there", text, 16);
  strcpy(map, "and a store");
}

// The kernel itself writes to the mapping.
static void kernel_writes(int fd, char *map) {
  int ends[2], sockets[2];
  if (pipe(ends) != 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) != 0)
    return;
  (void)!write(ends[1], "from a pipe", 12);
  (void)!write(sockets[1], "from a socket", 14);
  wait_for_epoch();  // so that the pages are armed
  printf("read %zd\n", read(ends[0], map + 3 * 4096, 12));
  printf("recv %zd\n", recv(sockets[0], map + 70 * 4096 + 4090, 14, 0));
  printf("pread %zd\n", pread(open("/proc/self/comm", O_RDONLY), map + 9 * 4096, 4, 0));
  printf("getcwd %d\n", getcwd(map + 11 * 4096, 4096) != NULL);
  printf("%s %s\n", map + 3 * 4096, map + 70 * 4096 + 4090);
  (void)fd;
}

static void mappings(int fd, char *map) {
  char *second = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
  strcpy(map + 4096, "seen twice");
  show("second", second, 16);
  char *copy = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 4096);
  show("private", copy, 16);
  strcpy(copy, "private alone");
  show("second", second, 16);
  printf("munmap %d %d\n", munmap(second, 8192), munmap(copy, 8192));
  strcpy(map + 8192, "still there");
  printf("longer %d\n", ftruncate(fd, 2 * BYTES));
  char *larger = mremap(map, BYTES, 2 * BYTES, MREMAP_MAYMOVE);
  printf("mremap %d\n", larger != MAP_FAILED);
  strcpy(larger + 2 * BYTES - 100, "behind the old end");
  show("in it", larger + 2 * BYTES - 100, 32);
  char text[32] = "";
  printf("pread %zd\n", pread(fd, text, 18, 2 * BYTES - 100));
  show("in the file", text, 32);
  printf("madvise %d\n", madvise(larger, BYTES, MADV_DONTNEED));
  show("still", larger + 8192, 32);
}

static void descriptors(int fd, char *map) {
  int other = dup(fd), third = fcntl(fd, F_DUPFD, 50), fourth = dup2(fd, 60);
  close(fd);
  printf("dup2 %d, F_DUPFD %d\n", fourth, third >= 50);
  printf("by others %zd %zd\n", pwrite(other, "other", 6, 0), pwrite(third, "third", 6, 10));
  show("in memory", map, 16), show("in memory", map + 10, 16);
  dup2(other, fd);
  printf("again %zd\n", pwrite(fd, "again", 6, 20));
  show("in memory", map + 20, 16);
}

#define CASE(call) {#call, call##_case}
const struct wrap_case file_cases[] = {
    CASE(read),      CASE(pread),           CASE(readv),    CASE(preadv),
    CASE(write),     CASE(pwrite),          CASE(writev),   CASE(pwritev),
    CASE(sendfile),  CASE(copy_file_range), CASE(fstat),    CASE(ftruncate),
    CASE(fallocate), {"appends", appends},  {"kernel-writes", kernel_writes},
    {"mappings", mappings}, {"descriptors", descriptors}, {NULL, NULL},
};

// Opens and maps FILE, does the case, asks for an epoch, and is killed.
int run_file_case(const struct wrap_case *it, const char *path) {
  int fd = open(path, O_RDWR);
  char *map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  file_path = path;
  if (fd < 0 || map == MAP_FAILED)
    return perror("mmap"), 1;
  it->run(fd, map);
  fflush(stdout);
  if (fsync(fd) != 0)
    return perror("fsync"), 1;
  kill(getpid(), SIGKILL);
  return 0;
}
