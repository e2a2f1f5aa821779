// A client of memcached's text protocol over a unix socket.

import Glibc

final class Client {
  private let descriptor: Int32
  private var buffer: [UInt8] = []
  private var start = 0
  private var isOpen = true

  init(path: String) throws {
    descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let bytes = Array(path.utf8)
    guard descriptor >= 0, bytes.count < MemoryLayout.size(ofValue: address.sun_path) else {
      throw Failure(description: "no socket for \(path)")
    }
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
    let length = socklen_t(MemoryLayout<sockaddr_un>.size)
    let result = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(descriptor, $0, length) }
    }
    guard result == 0 else {
      Glibc.close(descriptor)
      isOpen = false
      throw Failure(description: "\(path) does not answer")
    }
  }

  deinit { close() }

  func close() {
    if isOpen { Glibc.close(descriptor) }
    isOpen = false
  }

  /// False when the server is gone.
  func send(_ bytes: [UInt8]) -> Bool {
    var done = 0
    while done < bytes.count {
      let count = bytes[done...].withUnsafeBytes {
        Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
      }
      guard count > 0 else { return false }
      done += count
    }
    return true
  }

  private func fill() -> Bool {
    if start > 0 { buffer.removeSubrange(..<start) }
    start = 0
    var piece = [UInt8](repeating: 0, count: 65536)
    let count = recv(descriptor, &piece, piece.count, 0)
    guard count > 0 else { return false }
    buffer += piece[..<count]
    return true
  }

  /// A line without its end, or nil when the server is gone.
  func line() -> String? {
    var searched = start
    while true {
      if let end = buffer[searched...].firstIndex(of: 10) {
        let text = String(decoding: buffer[start..<max(start, end - 1)], as: UTF8.self)
        start = end + 1
        return text
      }
      searched = buffer.count - start
      guard fill() else { return nil }
    }
  }

  /// Some bytes, or nil when the server is gone.
  func bytes(_ count: Int) -> [UInt8]? {
    while buffer.count - start < count {
      guard fill() else { return nil }
    }
    defer { start += count }
    return Array(buffer[start..<start + count])
  }

  static func setRequest(_ key: String, _ value: [UInt8]) -> [UInt8] {
    Array("set \(key) 0 0 \(value.count)\r\n".utf8) + value + [13, 10]
  }

  /// The values of some keys, all asked for at once; nil where there is none.
  func get(_ keys: [String]) throws -> [[UInt8]?] {
    guard send(Array(keys.map { "get \($0)\r\n" }.joined().utf8)) else { throw Self.gone }
    return try keys.map(value(of:))
  }

  private static let gone = Failure(description: "memcached is gone")

  private func value(of key: String) throws -> [UInt8]? {
    guard let head = line() else { throw Self.gone }
    if head == "END" { return nil }
    guard head.hasPrefix("VALUE \(key) "), let count = Int(head.split(separator: " ")[3]),
      let value = bytes(count + 2), line() == "END"
    else { throw Failure(description: "not what the protocol says: \(head)") }
    return Array(value.dropLast(2))
  }
}
