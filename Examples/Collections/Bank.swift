// The bank of the slides: money moves between accounts, and none is made or lost.

import VolipMem

struct Account: BitwiseCopyable, Persistable {
  var balance: Int
  var transfers: Int
}

struct Bank: ~Copyable {
  let accounts: PersistentArray<Account>

  /// Moves money; the section makes both changes one.
  func transfer(_ amount: Int, from: Int, to: Int, in section: inout Section) {
    accounts.update(at: from, in: &section) {
      $0.balance -= amount
      $0.transfers += 1
    }
    accounts.update(at: to, in: &section) { $0.balance += amount }
  }

  var total: Int {
    var sum = 0
    accounts.forEach { sum += $0.balance }
    return sum
  }
}

extension Bank: Example {
  init(in section: inout Section) throws(PoolError) {
    accounts = try PersistentArray(
      repeatElement(Account(balance: 100, transfers: 0), count: 1000), in: &section)
  }

  func step(_ random: inout some RandomNumberGenerator, in section: inout Section) throws {
    for _ in 0..<Int.random(in: 1...20, using: &random) {
      let from = Int.random(in: accounts.indices, using: &random)
      let to = Int.random(in: accounts.indices, using: &random)
      transfer(Int.random(in: 1...50, using: &random), from: from, to: to, in: &section)
    }
  }

  var contradiction: String? {
    total == 100 * accounts.count ? nil : "the bank has \(total)"
  }

  // What a persistent value owns, field by field.

  func destroy(in section: inout Section) throws(PoolError) {
    try accounts.destroy(in: &section)
  }

  func copy(in section: inout Section) throws(PoolError) -> Bank {
    Bank(accounts: try accounts.copy(in: &section))
  }

  static var layout: String { "Bank(\(PersistentArray<Account>.layout))" }
}
