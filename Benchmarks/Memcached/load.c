// load SOCKET fill|run [options]: a closed loop of memcached's text protocol on a unix socket.
//
//   --keys N  --bytes N (of a value)  --depth N  --seconds X  --sets PERCENT  --seed N
//   --zipf THETA (0: uniform)
//
// One thread, one connection, `depth` requests ahead of their answers. Prints operations a second,
// the median and 99th percentile of the time between a request and its answer in microseconds, and
// how many requests were refused.
#define _GNU_SOURCE
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define VALUE_BYTES_MAX 4000
#define BUCKETS 4096  // of latencies: 64 for each power of two nanoseconds

static struct {
  const char *socket;
  uint64_t keys, seed;
  int depth, sets, bytes;
  double seconds, zipf;
} options = {.keys = 500000, .seed = 1, .depth = 1, .sets = 100, .bytes = 100, .seconds = 5,
             .zipf = 0.99};

static uint64_t random_state;

static uint64_t next_random(void) {  // splitmix64
  uint64_t word = random_state += 0x9e3779b97f4a7c15;
  word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9;
  word = (word ^ word >> 27) * 0x94d049bb133111eb;
  return word ^ word >> 31;
}

// Gray and others, "Quickly generating billion-record synthetic databases", 1994; ranks are spread
// over the keys by a hash.
static double zeta, zeta2;

static uint64_t next_key(void) {
  uint64_t word = next_random();
  if (options.zipf == 0)
    return word % options.keys;
  double u = (double)(word >> 11) / 9007199254740992.0;
  double n = (double)options.keys, theta = options.zipf, scaled = u * zeta;
  double eta = (1 - pow(2 / n, 1 - theta)) / (1 - zeta2 / zeta);
  uint64_t rank = scaled < 1                      ? 0
                  : scaled < 1 + pow(0.5, theta) ? 1
                                                 : (uint64_t)(n * pow(eta * u - eta + 1,
                                                                      1 / (1 - theta)));
  return rank * 2654435761u % options.keys;
}

static void prepare_zipf(void) {
  for (uint64_t i = 1; i <= options.keys; i++) {
    zeta += pow(1 / (double)i, options.zipf);
    if (i == 2)
      zeta2 = zeta;
  }
}

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static uint64_t latencies[BUCKETS], latency_count;

static void note(uint64_t nanoseconds) {
  int power = nanoseconds < 64 ? 0 : 63 - __builtin_clzl(nanoseconds) - 5;
  uint64_t index = (uint64_t)power * 64 + (nanoseconds >> power) % 64;
  latencies[index < BUCKETS ? index : BUCKETS - 1]++;
  latency_count++;
}

static double percentile(double share) {
  uint64_t wanted = (uint64_t)(share * (double)latency_count), seen = 0;
  for (uint64_t index = 0; index < BUCKETS; index++)
    if ((seen += latencies[index]) > wanted) {
      uint64_t power = index / 64, rest = index % 64;
      return (double)((power == 0 ? rest : rest | 64) << power) / (power == 0 ? 1000 : 2000);
    }
  return 0;
}

static int connection;
static char input[1 << 16];
static size_t input_start, input_end;

static int open_connection(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", options.socket);
  int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  for (int i = 0; i < 1000; i++) {
    if (connect(descriptor, (struct sockaddr *)&address, sizeof address) == 0)
      return descriptor;
    usleep(10000);
  }
  perror(options.socket);
  exit(1);
}

static void send_all(const char *bytes, size_t count) {
  while (count > 0) {
    ssize_t sent = send(connection, bytes, count, MSG_NOSIGNAL);
    if (sent <= 0)
      exit(1);
    bytes += sent, count -= (size_t)sent;
  }
}

static char *read_line(void) {
  for (;;) {
    char *start = input + input_start;
    char *end = memchr(start, '\n', input_end - input_start);
    if (end != NULL) {
      *end = 0;
      input_start = (size_t)(end - input) + 1;
      return start;
    }
    memmove(input, start, input_end - input_start);
    input_end -= input_start, input_start = 0;
    ssize_t got = recv(connection, input + input_end, sizeof input - input_end, 0);
    if (got <= 0)
      exit(1);
    input_end += (size_t)got;
  }
}

static uint64_t refused;  // "out of memory": nothing could be evicted at once

static void read_answer(void) {
  char *line = read_line();
  if (strncmp(line, "STORED", 6) == 0 || strncmp(line, "END", 3) == 0)
    return;
  if (strncmp(line, "SERVER_ERROR out of memory", 26) == 0) {
    refused++;
    return;
  }
  if (strncmp(line, "VALUE", 5) != 0) {
    fprintf(stderr, "answer: %s\n", line);
    exit(1);
  }
  read_line(), read_line();
}

static size_t request(char *text, uint64_t key, bool sets) {
  if (!sets)
    return (size_t)sprintf(text, "get key-%lu\r\n", key);
  int head = sprintf(text, "set key-%lu 0 0 %d\r\n", key, options.bytes);
  memset(text + head, 'a' + (int)(next_random() % 26), (size_t)options.bytes);
  memcpy(text + head + options.bytes, "\r\n", 2);
  return (size_t)(head + options.bytes + 2);
}

#define FILL_DEPTH 64

static void fill(void) {
  static char text[FILL_DEPTH * (VALUE_BYTES_MAX + 100)];
  for (uint64_t key = 0; key < options.keys;) {
    size_t bytes = 0;
    uint64_t first = key;
    for (; key < options.keys && key < first + FILL_DEPTH; key++)
      bytes += request(text + bytes, key, true);
    send_all(text, bytes);
    for (; first < key; first++)
      read_answer();
  }
}

// Requests go out together and are answered in their order, so that each batch is one write.
static void run(void) {
  static char text[256 * (VALUE_BYTES_MAX + 100)];
  uint64_t sent[256], start = now(), end = start + (uint64_t)(options.seconds * 1e9), count = 0;
  uint64_t head = 0, tail = 0, time = start;
  while (time < end) {
    size_t bytes = 0;
    for (; head < tail + (uint64_t)options.depth; head++) {
      bytes += request(text + bytes, next_key(), (int)(next_random() % 100) < options.sets);
      sent[head % 256] = now();
    }
    send_all(text, bytes);
    // All that is there, at least one.
    do {
      read_answer();
      time = now();
      note(time - sent[tail++ % 256]);
      count++;
    } while (tail < head && memchr(input + input_start, '\n', input_end - input_start) != NULL);
  }
  double seconds = (double)(time - start) / 1e9;
  printf("%.0f %.1f %.1f %lu\n", (double)count / seconds, percentile(0.5), percentile(0.99),
         refused);
}

int main(int count, char **arguments) {
  options.socket = arguments[1];
  for (int i = 3; i + 1 < count; i += 2) {
    const char *name = arguments[i], *value = arguments[i + 1];
    if (strcmp(name, "--keys") == 0)
      options.keys = strtoul(value, NULL, 10);
    else if (strcmp(name, "--depth") == 0)
      options.depth = atoi(value);
    else if (strcmp(name, "--bytes") == 0)
      options.bytes = atoi(value);
    else if (strcmp(name, "--seconds") == 0)
      options.seconds = atof(value);
    else if (strcmp(name, "--sets") == 0)
      options.sets = atoi(value);
    else if (strcmp(name, "--zipf") == 0)
      options.zipf = atof(value);
    else if (strcmp(name, "--seed") == 0)
      options.seed = strtoul(value, NULL, 10);
    else
      return 64;
  }
  if (options.depth < 1 || options.depth > 200 || options.bytes < 0 ||
      options.bytes > VALUE_BYTES_MAX)
    return 64;
  random_state = options.seed;
  connection = open_connection();
  if (strcmp(arguments[2], "fill") == 0)
    return fill(), 0;
  prepare_zipf();
  run();
  return 0;
}
