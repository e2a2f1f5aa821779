// std::list and std::map in a pool beside the same on malloc: filled, read and emptied in one
// section, which is committed in the end.
//
//   containers POOL [COUNT]        TRACKER=name in the environment takes another tracker
//
// Makes POOL, which must not exist, and removes it. Prints nanoseconds of processor time an
// element, the best of some rounds, and their ratio; the first round (memory that nobody has
// touched) on lines of its own; last what the section's end costs, which malloc has no equal of.
#include <volip.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <list>
#include <map>
#include <vector>

#include <time.h>

static constexpr int rounds = 7;

struct Times {
  double fill = 1e9, read = 1e9, clear = 1e9;
};

// Of this thread: what other programs do meanwhile does not count.
static double now() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
}

static std::vector<long> keys(long count) {
  std::vector<long> keys(count);
  for (long i = 0; i < count; i++)
    keys[i] = i * 2654435761 % 4294967296;
  return keys;
}

template <class A> using List = std::list<long, A>;
template <class A> using Map = std::map<long, long, std::less<long>, A>;
using Pair = std::pair<const long, long>;

template <class A> void fill(List<A> &list, const std::vector<long> &keys) {
  for (long key : keys)
    list.push_back(key);
}

template <class A> void fill(Map<A> &map, const std::vector<long> &keys) {
  for (long key : keys)
    map.emplace(key, key);
}

template <class A> long sum(const List<A> &list, const std::vector<long> &) {
  long sum = 0;
  for (long value : list)
    sum += value;
  return sum;
}

template <class A> long sum(const Map<A> &map, const std::vector<long> &keys) {
  long sum = 0;
  for (long key : keys)
    sum += map.find(key)->second;
  return sum;
}

static volatile long sink;

template <class Container> Times round(Container &container, const std::vector<long> &keys) {
  const double count = static_cast<double>(keys.size());
  const double start = now();
  fill(container, keys);
  const double filled = now();
  sink = sum(container, keys);
  const double read = now();
  container.clear();
  return {(filled - start) / count, (read - filled) / count, (now() - read) / count};
}

static void take(Times &best, const Times &times) {
  best.fill = std::min(best.fill, times.fill);
  best.read = std::min(best.read, times.read);
  best.clear = std::min(best.clear, times.clear);
}

static void print(const char *name, const char *when, const Times &own, const Times &other) {
  const char *format = "%-5s %-6s %-6s %8.1f %8.1f %6.2f\n";
  std::printf(format, name, when, "fill", own.fill, other.fill, own.fill / other.fill);
  std::printf(format, name, when, "read", own.read, other.read, own.read / other.read);
  std::printf(format, name, when, "clear", own.clear, other.clear, own.clear / other.clear);
  const double sum = own.fill + own.read + own.clear;
  const double others = other.fill + other.read + other.clear;
  std::printf(format, name, when, "all", sum, others, sum / others);
}

template <class InPool, class OnMalloc>
void compare(const char *name, const volip::pool &pool, const std::vector<long> &keys) {
  Times first, firstOther, best, bestOther;
  for (int i = 0; i <= rounds; i++) {
    OnMalloc other;
    const Times others = round(other, keys);
    Times times;
    {
      volip::section section(pool);
      times = round(volip::root<InPool>(name), keys);
    }
    take(i == 0 ? first : best, times);
    take(i == 0 ? firstOther : bestOther, others);
  }
  print(name, "first", first, firstOther);
  print(name, "again", best, bestOther);
  volip::section section(pool);
  fill(volip::root<InPool>(name), keys);
  const double start = now();
  section.commit();
  const double time = (now() - start) / static_cast<double>(keys.size());
  std::printf("%-5s commit        %8.1f\n", name, time);
}

int main(int count, char **arguments) {
  if (count < 2) {
    std::fprintf(stderr, "usage: containers POOL [COUNT]\n");
    return 64;
  }
  const long elements = count > 2 ? std::atol(arguments[2]) : 1000000;
  try {
    volip_options options = {};
    options.log_bytes_max = 1 << 30;
    options.tracker = std::getenv("TRACKER");
    {
      auto pool = volip::pool::create(arguments[1], 4ull << 30, options);
      const auto numbers = keys(elements);
      std::printf("# %ld elements, tracker %s; ns an element: pool, malloc, ratio\n", elements,
                  volip_tracker(pool.handle()));
      compare<List<volip::allocator<long>>, List<std::allocator<long>>>("list", pool, numbers);
      compare<Map<volip::allocator<Pair>>, Map<std::allocator<Pair>>>("map", pool, numbers);
    }
    std::remove(arguments[1]);
  } catch (const volip::error &error) {
    std::fprintf(stderr, "containers: %s\n", error.what());
    return 1;
  }
}
