// kyoto FILE transaction|synchronize RECORDS SECONDS: commits of RECORDS changed records each, in a
// Kyoto Cabinet hash database of 100,000: by its own transactions with hard synchronisation, or by
// plain changes and a hard synchronize. Prints commits a second, and their median microseconds.
#include <kchashdb.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

static double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

int main(int count, char **arguments) {
  if (count != 5)
    return 64;
  const bool isTransaction = strcmp(arguments[2], "transaction") == 0;
  const long records = atol(arguments[3]);
  const long keys = 100000;
  kyotocabinet::HashDB database;
  if (!database.open(arguments[1], kyotocabinet::HashDB::OWRITER | kyotocabinet::HashDB::OCREATE))
    return 1;
  char key[16], value[100] = "";
  for (long i = 0; i < keys; i++) {
    snprintf(key, sizeof key, "%08ld", i);
    if (!database.set(key, 8, value, sizeof value))
      return 1;
  }
  if (!database.synchronize(true))
    return 1;
  std::vector<double> times;
  unsigned long state = 1;
  const double start = now(), end = start + atof(arguments[4]);
  for (double last = start; last < end;) {
    if (isTransaction && !database.begin_transaction(true))
      return 1;
    for (long i = 0; i < records; i++) {
      state = state * 6364136223846793005 + 1442695040888963407;
      snprintf(key, sizeof key, "%08ld", static_cast<long>(state >> 33) % keys);
      memset(value, 'a' + static_cast<int>(state >> 60), sizeof value);
      if (!database.set(key, 8, value, sizeof value))
        return 1;
    }
    if (isTransaction ? !database.end_transaction(true) : !database.synchronize(true))
      return 1;
    times.push_back(now() - last);
    last = now();
  }
  std::sort(times.begin(), times.end());
  printf("%.1f %.1f\n", static_cast<double>(times.size()) / (now() - start),
         times[times.size() / 2] * 1e6);
  return 0;
}
