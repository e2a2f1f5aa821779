import Glibc

// Cases of calls on sockets, and of waiting for descriptors.

private let unix = Int(AF_UNIX)
private let stream = 1
private let datagram = 2

/// Addresses without a file, 20 bytes long.
private struct SocketAddress {
  static let byteCount = 20
  let address: Int

  init(_ letter: Character) {
    let name = Array("volip-\(getpid())-".utf8) + Array(repeating: letter.asciiValue!, count: 17)
    address = bytes([UInt8(unix), 0, 0] + name.prefix(Self.byteCount - 3))
  }
}

private func bound(_ type: Int, _ letter: Character) -> Int {
  let socket = call("socket", unix, type, 0)
  _ = call("bind", socket, SocketAddress(letter).address, SocketAddress.byteCount)
  return socket
}

/// A listening socket with a client in its queue.
private func listening(_ letters: (Character, Character)) -> (listener: Int, client: Int) {
  let (listener, client) = (bound(stream, letters.0), bound(stream, letters.1))
  _ = call("listen", listener, 5)
  _ = call("connect", client, SocketAddress(letters.0).address, SocketAddress.byteCount)
  return (listener, client)
}

/// A socket that has some messages of 5,000 bytes waiting.
private func receiving(_ letters: (Character, Character), messages: Int) -> Int {
  let (receiver, sender) = (bound(datagram, letters.0), bound(datagram, letters.1))
  var yes: Int32 = 1
  setsockopt(Int32(receiver), SOL_SOCKET, SO_PASSCRED, &yes, 4)
  let message = bytes([UInt8](repeating: 9, count: 5000))
  for _ in 0..<messages {
    _ = call(
      "sendto", sender, message, 5000, 0, SocketAddress(letters.0).address, SocketAddress.byteCount)
  }
  return receiver
}

/// A word of 32 bits for a length; the bytes behind it are not the call's.
private func length(_ slot: CallSlot, _ value: Int32) -> Int { slot.output(holding: value) }

private func acceptCase(_ name: String, _ letters: (Character, Character)) -> CallCase {
  let (first, second) = letters
  return CallCase(name) { slot in
    let listener = listening((first, second)).listener
    let (out, count) = (slot.output(SocketAddress.byteCount), length(slot, 110))
    return { call(name, listener, out, count, 0) }
  }
}

private func nameCase(_ name: String, _ letters: (Character, Character)) -> CallCase {
  let (first, second) = letters
  return CallCase(name) { slot in
    let client = listening((first, second)).client
    let (out, count) = (slot.output(SocketAddress.byteCount), length(slot, 110))
    return { call(name, client, out, count) }
  }
}

private typealias MessageHeader = (
  name: Int, nameLength: Int, vector: Int, vectorCount: Int, control: Int, controlLength: Int,
  flags: Int
)

private let messages: [CallCase] = [
  CallCase("recvfrom") { slot in
    let socket = receiving(("g", "h"), messages: 1)
    let (out, name) = (slot.output(5000), slot.output(SocketAddress.byteCount))
    let count = length(slot, 110)
    return { call("recvfrom", socket, out, 5000, 0, name, count) }
  },
  CallCase("recvmsg") { slot in
    let socket = receiving(("i", "j"), messages: 1)
    let vector = words(slot.output(100), 100, slot.output(4900), 4900)
    // Control data: the sender's credentials.
    let header: MessageHeader = (
      slot.output(SocketAddress.byteCount), 110, vector, 2, slot.output(32, changed: 28), 32, -1
    )
    let out = slot.output(holding: header)
    return { call("recvmsg", socket, out, 0) }
  },
  CallCase("recvmmsg") { slot in
    let socket = receiving(("k", "l"), messages: 2)
    let vectors = (words(slot.output(5000), 5000), words(slot.output(5000), 5000))
    let none: MessageHeader = (0, 0, vectors.0, 1, 0, 0, -1)
    let second: MessageHeader = (0, 0, vectors.1, 1, 0, 0, -1)
    let out = slot.output(holding: (none, -1, second, -1))
    let timeout = slot.output(holding: (1, 0))
    return { call("recvmmsg", socket, out, 2, 0, timeout) }
  },
  CallCase("sendmmsg") { slot in
    let receiver = receiving(("m", "n"), messages: 0)
    _ = receiver
    let sender = bound(datagram, "o")
    let vector = words(bytes([1, 2, 3]), 3)
    let header: MessageHeader = (
      SocketAddress("m").address, SocketAddress.byteCount, vector, 1, 0, 0, 0
    )
    let out = slot.output(holding: (header, -1, header, -1))
    return { call("sendmmsg", sender, out, 2, 0) }
  },
]

private let others: [CallCase] = [
  acceptCase("accept", ("a", "b")), acceptCase("accept4", ("c", "d")),
  nameCase("getsockname", ("e", "f")), nameCase("getpeername", ("p", "q")),
  CallCase("socketpair") { slot in
    let out = slot.output(8)
    return { call("socketpair", unix, stream, 0, out) }
  },
  CallCase("getsockopt") { slot in
    let socket = call("socket", unix, stream, 0)
    let (out, count) = (slot.output(12), length(slot, 100))
    return { call("getsockopt", socket, Int(SOL_SOCKET), Int(SO_PEERCRED), out, count) }
  },
]

// MARK: Waiting

private func readable() -> Int { pipeHolding(1) }

/// Three descriptors of which one is ready, and the number above all: sets of 128 bytes.
private func selectSets(_ slot: CallSlot) -> (count: Int, read: Int, write: Int, except: Int) {
  let (empty, ready) = (pipeHolding(0), readable())
  _ = call("dup2", empty, 1020)
  func set(_ descriptors: [Int]) -> Int {
    let out = slot.output(128)
    memset(pointer(out), 0, 128)
    for each in descriptors {
      pointer(out + each / 8).assumingMemoryBound(to: UInt8.self).pointee |= 1 << UInt8(each % 8)
    }
    return out
  }
  return (1021, set([empty, ready, 1020]), set([empty, 1020]), set([empty, 1020]))
}

private func selectCase(_ name: String) -> CallCase {
  CallCase(name) { slot in
    let sets = selectSets(slot)
    let timeout = slot.output(holding: (1, 0))
    return { call(name, sets.count, sets.read, sets.write, sets.except, timeout, 0) }
  }
}

private func pollCase(_ name: String) -> CallCase {
  CallCase(name) { slot in
    // struct pollfd: descriptor, events, and what happened.
    func entry() -> Int { readable() | Int(POLLIN) << 32 }
    let out = slot.output(holding: (entry(), entry(), entry()))
    let timeout = name == "ppoll" ? slot.output(holding: (1, 0)) : 0
    return { call(name, out, 3, timeout, 0, 8) }
  }
}

private func epollCase(_ name: String) -> CallCase {
  CallCase(name) { slot in
    let set = call("epoll_create1", 0)
    for _ in 0..<2 { _ = call("epoll_ctl", set, 1, readable(), words(1, 0x1234_5678)) }
    let out = slot.output(24)
    return { call(name, set, out, 2, 0, 0, 8) }
  }
}

private let waiting: [CallCase] =
  ["select", "pselect6"].map { selectCase($0) } + ["poll", "ppoll"].map { pollCase($0) }
  + ["epoll_wait", "epoll_pwait", "epoll_pwait2"].map { epollCase($0) }

let socketCases = messages + others + waiting
