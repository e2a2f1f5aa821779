// A small order book: what wants to buy and to sell, by price, and what was traded.

import VolipMem

struct Totals: BitwiseCopyable, Persistable {
  var ordered = 0
  var traded = 0
}

struct OrderBook: ~Copyable {
  typealias Side = PersistentSortedDictionary<Int, Int>
  /// Quantities by price; bids by the negative price, so that the best comes first on both sides.
  let bids: Side
  let asks: Side
  let totals: Ref<Totals>

  /// Trades with what is on the other side at this price or better; the rest waits.
  func order(
    _ quantity: Int, at price: Int, isBid: Bool, in section: inout Section
  ) throws(PoolError) {
    var left = quantity
    while left > 0, let best = isBid ? asks.first : bids.first, best.key <= (isBid ? price : -price)
    {
      let amount = min(left, best.value)
      left -= amount
      try add(-amount, at: best.key, isBid: !isBid, in: &section)
      totals.update(in: &section) { $0.traded += amount }
    }
    if left > 0 { try add(left, at: isBid ? -price : price, isBid: isBid, in: &section) }
    totals.update(in: &section) { $0.ordered += quantity }
  }

  private func add(
    _ quantity: Int, at key: Int, isBid: Bool, in section: inout Section
  ) throws(PoolError) {
    let now = ((isBid ? bids[key] : asks[key]) ?? 0) + quantity
    switch (isBid, now) {
    case (true, 0): try bids.removeValue(forKey: key, in: &section)
    case (true, _): try bids.updateValue(now, forKey: key, in: &section)
    case (false, 0): try asks.removeValue(forKey: key, in: &section)
    case (false, _): try asks.updateValue(now, forKey: key, in: &section)
    }
  }
}

extension OrderBook: Example {
  init(in section: inout Section) throws(PoolError) {
    let bids = try Side(in: &section)
    let asks = try Side(in: &section)
    self.init(bids, asks, try Ref(Totals(), in: &section))
  }

  private init(_ bids: consuming Side, _ asks: consuming Side, _ totals: Ref<Totals>) {
    self.bids = bids
    self.asks = asks
    self.totals = totals
  }

  func step(_ random: inout some RandomNumberGenerator, in section: inout Section) throws {
    let isBid = Bool.random(using: &random)
    let price = Int.random(in: 900...1100, using: &random) + (isBid ? -20 : 20)
    try order(Int.random(in: 1...100, using: &random), at: price, isBid: isBid, in: &section)
  }

  var contradiction: String? {
    if let bid = bids.first, let ask = asks.first, -bid.key >= ask.key {
      return "a bid at \(-bid.key) and an ask at \(ask.key)"
    }
    let waiting = bids.values.reduce(0, +) + asks.values.reduce(0, +)
    let totals = totals.value
    return totals.ordered == waiting + 2 * totals.traded ? nil : "\(totals), \(waiting) waiting"
  }

  func destroy(in section: inout Section) throws(PoolError) {
    try bids.destroy(in: &section)
    try asks.destroy(in: &section)
    try totals.free(in: &section)
  }

  func copy(in section: inout Section) throws(PoolError) -> OrderBook {
    let bids = try bids.copy(in: &section)
    let asks = try asks.copy(in: &section)
    return OrderBook(bids, asks, try Ref(totals.value, in: &section))
  }

  static var layout: String { "OrderBook(\(Side.layout))" }
}
