// Accounts in a std::map. What a transfer does is there whole or not at all, also where an
// exception ends it.
//
//   bank POOL COUNT   makes COUNT transfers, and prints each one's number when it is durable;
//                     COUNT 0 goes on until it is killed
//   bank POOL         prints how many there were, and whether any money came or went
//
//   c++ -std=c++17 bank.cpp $(pkg-config --cflags --libs volip) -o bank
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <volip.hpp>

template <class T> using In = volip::allocator<T>;
using String = std::basic_string<char, std::char_traits<char>, In<char>>;
using Accounts = std::map<String, long, std::less<String>, In<std::pair<const String, long>>>;

struct Bank {
  Accounts accounts;
  long transfers = 0;
};

struct Overdrawn {};

static constexpr int accounts = 100;
static constexpr long first_balance = 10;

static String name(unsigned number) {
  const std::string text = "the account of customer " + std::to_string(number % accounts);
  return String(text.begin(), text.end());
}

static void open_accounts(const volip::pool &pool) {
  volip::section section(pool);
  auto &bank = volip::root<Bank>("bank");
  for (int i = static_cast<int>(bank.accounts.size()); i < accounts; i++)
    bank.accounts[name(i)] = first_balance;
}

static void transfer(const volip::pool &pool, Bank &bank) {
  volip::section section(pool);
  const unsigned random = static_cast<unsigned>(++bank.transfers) * 2654435761u;
  bank.accounts[name(random >> 16)] += 3;
  long &balance = bank.accounts[name(random >> 8)];
  balance -= 3;
  if (balance < 0)
    throw Overdrawn();  // takes back what the other account got, and the count
  if (random % 7 == 0) {  // somebody gets a new account: another node
    bank.accounts.erase(name(random >> 8));
    bank.accounts[name(random >> 8)] = balance;
  }
}

static bool is_whole(const Bank &bank) {
  long sum = 0;
  for (const auto &[name, balance] : bank.accounts)
    sum += balance >= 0 ? balance : -1000000;
  return bank.accounts.size() == accounts && sum == accounts * first_balance;
}

int main(int count, char **arguments) {
  if (count < 2) {
    std::cerr << "usage: bank POOL [COUNT]\n";
    return 64;
  }
  try {
    auto pool = volip::pool::map(arguments[1], 64 << 20);
    open_accounts(pool);
    Bank &bank = *pool.find<Bank>("bank");
    if (count == 2) {
      std::cout << bank.transfers << (is_whole(bank) ? " whole\n" : " torn\n");
      return 0;
    }
    long left = std::atol(arguments[2]);
    do {
      try {
        transfer(pool, bank);
      } catch (const Overdrawn &) {
        volip::section section(pool);  // it counts, but moves nothing
        bank.transfers++;
      }
      std::cout << bank.transfers << std::endl;
    } while (--left != 0);
  } catch (const volip::error &error) {
    std::cerr << "bank: " << error.what() << "\n";
    return 1;
  }
}
