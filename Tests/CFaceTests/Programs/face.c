// Every function of volip.h, as it should go and as it should fail.
//
//   face DIRECTORY [TRACKER]      on the host
//   face DIRECTORY guest          in guest mode
#define _GNU_SOURCE
#include "check.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char path[4096];
static volip_options options;
static volip_pool *pool;

static void check_errors_of_files(void) {
  CHECK(volip_last_error() == VOLIP_OK && strcmp(volip_error_text(), "") == 0);
  FAILS(VOLIP_NOT_FOUND, volip_open(path, &options));
  CHECK(strstr(volip_error_text(), path) != NULL);
  FAILS(VOLIP_INVALID_ARGUMENT, volip_open(NULL, NULL));
  FAILS(VOLIP_INVALID_ARGUMENT, volip_create(path, 12, NULL));
  FAILS(VOLIP_INVALID_ARGUMENT, volip_open(path, &(volip_options){.tracker = "guesswork"}));
  FAILS(VOLIP_INVALID_ARGUMENT, volip_open(path, &(volip_options){.reserved = {0, 0, 0, 0, 1}}));
  CHECK(volip_close(NULL) == VOLIP_INVALID_ARGUMENT);
  FAILS(VOLIP_INVALID_ARGUMENT, volip_base(NULL));
  FAILS(VOLIP_INVALID_ARGUMENT, volip_tracker(NULL));
  FAILS(VOLIP_NOT_A_POOL, volip_open("/dev/zero", NULL));
  // A text longer than any buffer that one would think of.
  char *name = calloc(1, 9000);
  memset(name, 'x', 8999);
  CHECK(volip_open(name, NULL) == NULL && strlen(volip_error_text()) > 0);
  free(name);
}

static void check_pools(void) {
  pool = volip_create(path, 8 << 20, &options);
  CHECK(pool != NULL);
  FAILS(VOLIP_ALREADY_EXISTS, volip_create(path, 8 << 20, &options));
  FAILS(VOLIP_IN_USE, volip_open(path, &options));
  void *base = volip_base(pool);
  CHECK(base != NULL && (uintptr_t)base % 4096 == 0);
  CHECK(volip_close(pool) == VOLIP_OK);
  pool = volip_pmap(path, 8 << 20, &options);
  CHECK(pool != NULL && volip_base(pool) == base);
  if (options.tracker != NULL)
    CHECK(strcmp(volip_tracker(pool), options.tracker) == 0);
  if (volip_is_guest() && options.tracker == NULL)
    CHECK(strcmp(volip_tracker(pool), "adaptive") == 0);
  CHECK(volip_grow(pool, 4 << 20) == VOLIP_INVALID_ARGUMENT);
  CHECK(volip_grow(pool, 16 << 20) == VOLIP_OK);
}

static void check_that_changes_want_a_section(void) {
  FAILS(VOLIP_NO_SECTION, volip_allocate(8));
  CHECK(volip_free(volip_base(pool)) == VOLIP_NO_SECTION);
  FAILS(VOLIP_NO_SECTION, volip_reallocate(volip_base(pool), 8));
  FAILS(VOLIP_NO_SECTION, volip_usable_bytes(volip_base(pool)));
  FAILS(VOLIP_NO_SECTION, volip_root(pool, "new", 8, NULL));
  CHECK(volip_pend() == VOLIP_NO_SECTION && volip_pabort() == VOLIP_NO_SECTION);
  CHECK(volip_pcommit() == VOLIP_NO_SECTION);
  CHECK(volip_will_write(volip_base(pool), 8) == VOLIP_NO_SECTION);
  CHECK(volip_section_pool() == NULL);
}

static void check_memory(void) {
  CHECK(volip_pstart(pool) == VOLIP_OK && volip_section_pool() == pool);
  char *block = volip_allocate(100);
  CHECK(block != NULL && (uintptr_t)block % 16 == 0 && volip_usable_bytes(block) >= 100);
  memset(block, 'a', 100);
  block = volip_reallocate(block, 10000);
  CHECK(block != NULL && block[0] == 'a' && block[99] == 'a');
  CHECK(volip_free(block) == VOLIP_OK);
  CHECK(volip_free(block) == VOLIP_NOT_ALLOCATED);
  CHECK(volip_free(NULL) == VOLIP_OK);
  CHECK(volip_free(&block) == VOLIP_INVALID_ARGUMENT);
  FAILS(VOLIP_NOT_ALLOCATED, volip_reallocate(block, 10));
  FAILS(VOLIP_INVALID_ARGUMENT, volip_usable_bytes(NULL));
  for (size_t alignment = 1; alignment <= 4096; alignment *= 2)
    CHECK((uintptr_t)volip_allocate_aligned(40, alignment) % alignment == 0);
  FAILS(VOLIP_INVALID_ARGUMENT, volip_allocate_aligned(40, 3));
  FAILS(VOLIP_POOL_FULL, volip_allocate(13 << 20));
  FAILS(VOLIP_INVALID_ARGUMENT, volip_allocate(SIZE_MAX));
  CHECK(volip_allocate(0) != volip_allocate(0));
  CHECK(volip_reallocate(NULL, 30) != NULL);
  CHECK(volip_pabort() == VOLIP_OK);
  uint64_t blocks = 99, bytes = 99;
  CHECK(volip_check(pool, &blocks, &bytes) == VOLIP_OK && blocks == 0 && bytes == 0);
  CHECK(volip_check(pool, NULL, NULL) == VOLIP_OK);
}

static void count_root(const char *name, void *address, size_t byte_count, void *context) {
  int *count = context;
  *count += strcmp(name, "number") == 0 && byte_count == sizeof(long) &&
            address == volip_find_root(pool, name, byte_count, NULL);
}

static void check_roots(void) {
  FAILS(VOLIP_NO_ROOT, volip_find_root(pool, "number", sizeof(long), NULL));
  CHECK(volip_pstart(pool) == VOLIP_OK);
  long *number = volip_root(pool, "number", sizeof *number, "number 1");
  CHECK(number != NULL && *number == 0 && (uintptr_t)number % 64 == 0);
  *number = 7;
  CHECK(volip_root(pool, "number", sizeof *number, "number 1") == number);
  FAILS(VOLIP_ROOT_LAYOUT_MISMATCH, volip_root(pool, "number", 4, "number 1"));
  FAILS(VOLIP_INVALID_ROOT_NAME, volip_root(pool, "", 4, NULL));
  CHECK(volip_remove_root(pool, "nothing") == VOLIP_NO_ROOT);
  CHECK(volip_pend() == VOLIP_OK);
  CHECK(volip_find_root(pool, "number", sizeof *number, NULL) == number);
  FAILS(VOLIP_ROOT_LAYOUT_MISMATCH, volip_find_root(pool, "number", sizeof *number, "number 2"));
  int count = 0;
  CHECK(volip_for_each_root(pool, count_root, &count) == VOLIP_OK && count == 1);
  CHECK(volip_for_each_root(pool, NULL, NULL) == VOLIP_INVALID_ARGUMENT);
  CHECK(volip_remove_root(pool, "number") == VOLIP_NO_SECTION);
  CHECK(volip_pstart(pool) == VOLIP_OK);
  CHECK(volip_root(pool, "gone", 300000, NULL) != NULL && volip_remove_root(pool, "gone") == 0);
  CHECK(volip_pend() == VOLIP_OK);
  FAILS(VOLIP_NO_ROOT, volip_find_root(pool, "gone", 300000, NULL));
}

static long *number(void) { return volip_find_root(pool, "number", sizeof(long), "number 1"); }

static void check_sections(void) {
  CHECK(volip_pstart(pool) == VOLIP_OK);
  *number() = 8;
  CHECK(volip_close(pool) == VOLIP_NESTED_SECTION && volip_section_pool() == pool);
  CHECK(volip_grow(pool, 32 << 20) == VOLIP_NESTED_SECTION);
  CHECK(volip_pabort() == VOLIP_OK && *number() == 7);

  CHECK(volip_pstart(pool) == VOLIP_OK);
  *number() = 9;
  CHECK(volip_pcommit() == VOLIP_OK && volip_section_pool() == pool);
  *number() = 10;
  CHECK(volip_pabort() == VOLIP_OK && *number() == 9);

  CHECK(volip_pstart(pool) == VOLIP_OK && volip_pstart(pool) == VOLIP_OK);
  *number() = 11;
  CHECK(volip_pcommit() == VOLIP_NESTED_SECTION);
  CHECK(volip_pend() == VOLIP_OK && volip_section_pool() == pool);
  CHECK(volip_pend() == VOLIP_OK && volip_section_pool() == NULL && *number() == 11);

  CHECK(volip_pstart(pool) == VOLIP_OK && volip_pstart(pool) == VOLIP_OK);
  *number() = 12;
  CHECK(volip_pabort() == VOLIP_OK && volip_section_pool() == pool);
  CHECK(volip_pend() == VOLIP_SECTION_ABORTED && volip_section_pool() == NULL && *number() == 11);
}

// A system call writes to the pool: announced, as the tracker write-protect wants it.
static void check_system_calls(void) {
  int zeros = open("/dev/zero", O_RDONLY);
  CHECK(volip_pstart(pool) == VOLIP_OK);
  CHECK(volip_will_write(number(), sizeof(long)) == VOLIP_OK);
  CHECK(volip_will_write(&zeros, 4) == VOLIP_INVALID_ARGUMENT);
  CHECK(volip_will_write(NULL, 4) == VOLIP_INVALID_ARGUMENT);
  CHECK(read(zeros, number(), sizeof(long)) == sizeof(long));
  CHECK(volip_pend() == VOLIP_OK && *number() == 0);
  close(zeros);
}

static void *add_thousand(void *unused) {
  (void)unused;
  CHECK(volip_last_error() == VOLIP_OK);  // the first thread has failed often
  for (int i = 0; i < 1000; i++) {
    CHECK(volip_pstart(pool) == VOLIP_OK);
    ++*number();
    CHECK(volip_pend() == VOLIP_OK);
  }
  CHECK(volip_pstart(pool) == VOLIP_OK);
  *number() = -1;
  return NULL;  // a thread that ends in its section aborts it
}

static void check_threads(void) {
  pthread_t threads[3];
  for (int i = 0; i < 3; i++)
    pthread_create(&threads[i], NULL, add_thousand, NULL);
  for (int i = 0; i < 3; i++)
    pthread_join(threads[i], NULL);
  CHECK(*number() == 3000);
}

static void check_child(void) {
  CHECK(volip_pstart(pool) == VOLIP_OK);
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    _exit(volip_pstart(pool) == VOLIP_FORKED_CHILD && volip_allocate(8) == NULL &&
                  volip_pend() == VOLIP_FORKED_CHILD
              ? 0
              : 1);
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  CHECK(volip_pend() == VOLIP_OK);
}

static void check_second_life(void) {
  long *before = number();
  CHECK(volip_close(pool) == VOLIP_OK);
  pool = volip_open(path, &options);
  CHECK(pool != NULL && number() == before && *before == 3000);
}

// A page that the last section wrote may stay writable, so this wants a pool that was just opened.
static void check_stray_write(void) {
  *number() = 5;
  CHECK(volip_pstart(pool) == VOLIP_WRITE_OUTSIDE_SECTION && volip_section_pool() == NULL);
  CHECK(volip_pstart(pool) == VOLIP_OK && *number() == 3000);
  CHECK(volip_pend() == VOLIP_OK);
}

int main(int count, char **arguments) {
  if (count < 2)
    return 64;
  snprintf(path, sizeof path, "%s/face.pool", arguments[1]);
  if (count > 2 && strcmp(arguments[2], "guest") == 0) {
    CHECK(volip_enter() == VOLIP_OK && volip_is_guest() == 1);
    CHECK(volip_enter() == VOLIP_TOO_LATE);
    options.tracker = count > 3 ? arguments[3] : NULL;
  } else {
    CHECK(volip_is_guest() == 0);
    options.tracker = count > 2 ? arguments[2] : NULL;
    check_errors_of_files();
  }
  check_pools();
  check_that_changes_want_a_section();
  check_memory();
  check_roots();
  check_sections();
  check_system_calls();
  check_threads();
  check_child();
  check_second_life();
  // Other trackers end the program in place of telling.
  if (strcmp(volip_tracker(pool), "page-map-scan") == 0)
    check_stray_write();
  if (!volip_is_guest())
    CHECK(volip_enter() == VOLIP_TOO_LATE);  // a pool is open
  CHECK(volip_close(pool) == VOLIP_OK);
  printf("%d failures\n", failures);
  return failures != 0;
}
