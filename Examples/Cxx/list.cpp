// The list of Examples/C/list.c as a std::list, unmodified.
//
//   list POOL COUNT   pushes COUNT numbers, each in a section of its own, and prints each when it
//                     is durable; COUNT 0 goes on until it is killed
//   list POOL         prints how many there are, and whether the list is whole
//
//   c++ -std=c++17 list.cpp $(pkg-config --cflags --libs volip) -o list
#include <cstdlib>
#include <iostream>
#include <list>
#include <volip.hpp>

using List = std::list<long, volip::allocator<long>>;

// The numbers go down from the count to 1, each in a block, and beside them is the root's block.
static bool is_whole(const volip::pool &pool, const List &list) {
  long expected = static_cast<long>(list.size());
  for (long value : list)
    if (value != expected--)
      return false;
  std::uint64_t blocks;
  volip::error::check(volip_check(pool.handle(), &blocks, nullptr));
  return blocks == list.size() + 1;
}

static void push(const volip::pool &pool) {
  volip::section section(pool);
  auto &list = volip::root<List>("list");
  list.push_front(static_cast<long>(list.size()) + 1);
}

int main(int count, char **arguments) {
  if (count < 2) {
    std::cerr << "usage: list POOL [COUNT]\n";
    return 64;
  }
  try {
    auto pool = volip::pool::map(arguments[1], 64 << 20);
    if (count > 2) {
      long left = std::atol(arguments[2]);
      do {
        push(pool);
        std::cout << pool.find<List>("list")->size() << std::endl;
      } while (--left != 0);
    } else if (const List *list = pool.find<List>("list")) {
      std::cout << list->size() << (is_whole(pool, *list) ? " whole\n" : " torn\n");
    } else {
      std::cout << "0 whole\n";
    }
  } catch (const volip::error &error) {
    std::cerr << "list: " << error.what() << "\n";
    return 1;
  }
}
