// volip.hpp: containers of the standard library in a pool, roots, and sections that roll back.
//
//   face DIRECTORY
#include "check.h"

#include <deque>
#include <forward_list>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>
#include <volip.hpp>

template <class T> using In = volip::allocator<T>;
using String = std::basic_string<char, std::char_traits<char>, In<char>>;
using List = std::list<long, In<long>>;
using Vector = std::vector<String, In<String>>;
using Map = std::map<String, Vector, std::less<>, In<std::pair<const String, Vector>>>;
using Hash = std::hash<long>;
using HashMap = std::unordered_map<long, String, Hash, std::equal_to<>,
                                   In<std::pair<const long, String>>>;

struct Everything {
  List list;
  Map map;
  HashMap hash_map;
  std::deque<int, In<int>> deque;
  std::forward_list<int, In<int>> forward_list;
  std::multiset<int, std::less<>, In<int>> set;
  std::optional<String> optional;
};

struct alignas(64) Line {
  char bytes[64];
};

struct Numbered {
  long number;
};

struct Throws {
  Throws() { throw std::runtime_error("no"); }
  long number;
};

static const std::string words[] = {"a", "bc", "a word that is too long to stand in its string"};

static bool fails(volip_code code, const std::function<void()> &body) {
  try {
    body();
  } catch (const volip::error &error) {
    return error.code() == code && error.what()[0] != 0;
  }
  return false;
}

static std::uint64_t blocks(const volip::pool &pool) {
  std::uint64_t count;
  volip::error::check(volip_check(pool.handle(), &count, nullptr));
  return count;
}

// Long enough for rehashing, growth and splits of nodes.
static void fill(Everything &all) {
  for (int i = 0; i < 1000; i++) {
    const String word(words[i % 3].begin(), words[i % 3].end());
    all.list.push_front(i);
    all.map[word].push_back(word);
    all.hash_map.emplace(i, word);
    all.deque.push_back(i);
    all.forward_list.push_front(i);
    all.set.insert(i / 2);
    all.optional = word;
  }
}

static bool is_filled(const Everything &all) {
  bool result = all.list.size() == 1000 && all.map.size() == 3 && all.hash_map.size() == 1000;
  result = result && all.deque.size() == 1000 && all.set.count(7) == 2;
  result = result && all.forward_list.front() == 999;
  long expected = 1000;
  for (long value : all.list)
    result = result && value == --expected;
  for (int i = 0; i < 1000; i++)
    result = result && all.hash_map.at(i) == words[i % 3].c_str() && all.deque[i] == i;
  for (const auto &[word, copies] : all.map)
    result = result && copies.size() >= 333 && copies.front() == word && copies.back() == word;
  return result && *all.optional == words[0].c_str();
}

static void check_containers(const std::string &path) {
  {
    auto pool = volip::pool::create(path, 32 << 20);
    volip::section section(pool);
    fill(volip::root<Everything>("all"));
  }
  {
    auto pool = volip::pool::open(path);
    CHECK(pool.find<Everything>("all") != nullptr && is_filled(*pool.find<Everything>("all")));
    volip::section section(pool);
    auto &list = volip::root<Everything>("all").list;
    list.sort();
    list.remove_if([](long value) { return value % 2 == 0; });
    volip::root<Everything>("all").hash_map.erase(3);
  }
  auto pool = volip::pool::map(path, 0);
  const auto &all = *pool.find<Everything>("all");
  CHECK(all.list.size() == 500 && all.list.front() == 1 && all.hash_map.count(3) == 0);
  {
    volip::section section(pool);
    volip::remove_root<Everything>("all");
    volip::remove_root<Everything>("all");
  }
  CHECK(pool.find<Everything>("all") == nullptr);
  CHECK(blocks(pool) == 0);
}

static void check_sections(const volip::pool &pool) {
  {
    volip::section section(pool);
    volip::root<List>("list").push_back(1);
  }
  const List &list = *pool.find<List>("list");
  const std::uint64_t before = blocks(pool);
  try {
    volip::section section(pool);
    volip::root<List>("list").push_back(2);
    List temporary(100, 7);  // frees its nodes before the section rolls back
    throw std::runtime_error("on its way");
  } catch (const std::runtime_error &) {
  }
  CHECK(list.size() == 1 && blocks(pool) == before && volip_section_pool() == nullptr);
  {
    volip::section section(pool);
    volip::root<List>("list").push_back(2);
    section.abort();
    CHECK(list.size() == 1);
  }
  {
    volip::section section(pool);
    volip::root<List>("list").push_back(2);
    section.commit();
    CHECK(volip_section_pool() == nullptr);
  }
  CHECK(list.size() == 2);
  {
    volip::section outer(pool);
    {
      volip::section inner(pool);
      volip::root<List>("list").pop_back();
    }
    CHECK(volip_section_pool() == pool.handle());
  }
  CHECK(list.size() == 1);
  // An exception that stays inside: the inner section alone cannot be rolled back.
  CHECK(fails(VOLIP_SECTION_ABORTED, [&] {
    volip::section outer(pool);
    try {
      volip::section inner(pool);
      volip::root<List>("list").push_back(3);
      throw 1;
    } catch (int) {
    }
  }));
  CHECK(list.size() == 1);
}

// A section in a destructor that runs because of an exception commits: none passes through it.
struct Last {
  const volip::pool &pool;
  ~Last() {
    volip::section section(pool);
    volip::root<List>("list").push_back(9);
  }
};

static void check_section_of_a_destructor(const volip::pool &pool) {
  const std::size_t before = pool.find<List>("list")->size();
  try {
    Last last{pool};
    throw 1;
  } catch (int) {
  }
  CHECK(pool.find<List>("list")->size() == before + 1);
}

static void check_roots(const volip::pool &pool) {
  CHECK(fails(VOLIP_NO_SECTION, [] { volip::root<long>("number"); }));
  CHECK(pool.find<long>("number") == nullptr);
  volip::section section(pool);
  CHECK(volip::root<long>("number", 7) == 7 && volip::root<long>("number", 8) == 7);
  CHECK(fails(VOLIP_ROOT_LAYOUT_MISMATCH, [] { volip::root<Numbered>("number"); }));
  CHECK(fails(VOLIP_ROOT_LAYOUT_MISMATCH, [&] { pool.find<int>("number"); }));
  try {
    volip::root<Throws>("throws");
    CHECK(false);
  } catch (const std::runtime_error &) {
  }
  CHECK(volip_find_root(pool.handle(), "throws", sizeof(Throws), nullptr) == nullptr);
  auto &line = volip::root<Line>("line");
  CHECK(reinterpret_cast<std::uintptr_t>(&line) % 64 == 0);
  std::vector<Line, In<Line>> lines(3);
  CHECK(reinterpret_cast<std::uintptr_t>(lines.data()) % 64 == 0);
}

static void check_errors(const std::string &directory, volip::pool &pool) {
  CHECK(fails(VOLIP_NOT_FOUND, [&] { volip::pool::open(directory + "/nothing"); }));
  CHECK(fails(VOLIP_NO_SECTION, [] { List list(1, 1); }));
  {
    volip::section section(pool);
    CHECK(fails(VOLIP_POOL_FULL, [] {
      std::vector<char, In<char>> half(8 << 20), other(8 << 20);
    }));
    CHECK(fails(VOLIP_NESTED_SECTION, [&] { pool.close(); }));
    try {
      In<long>().allocate(SIZE_MAX / 8);
      CHECK(false);
    } catch (const std::bad_array_new_length &) {
    }
  }
  volip::pool other = std::move(pool);
  CHECK(pool.handle() == nullptr && other.find<List>("list") != nullptr);
  pool = std::move(other);
  // Its destructor aborts what is open.
  const std::string path = directory + "/left.pool";
  {
    auto left = volip::pool::create(path, 8 << 20);
    volip_pstart(left.handle());
    volip_pstart(left.handle());
    volip::root<long>("number", 1);
  }
  CHECK(volip_section_pool() == nullptr && !volip::pool::open(path).find<long>("number"));
  pool.close();
  CHECK(pool.handle() == nullptr);
}

int main(int count, char **arguments) {
  if (count < 2)
    return 64;
  const std::string directory = arguments[1];
  check_containers(directory + "/containers.pool");
  auto pool = volip::pool::create(directory + "/face.pool", 16 << 20);
  check_sections(pool);
  check_section_of_a_destructor(pool);
  check_roots(pool);
  check_errors(directory, pool);
  std::printf("%d failures\n", failures);
  return failures != 0;
}
