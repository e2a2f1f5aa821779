// What the demo asks the system for.

import Glibc

/// The command beside this program.
func volipPath() throws -> String {
  guard let own = realpath("/proc/self/exe", nil) else {
    throw Failure(description: "/proc/self/exe cannot be read")
  }
  defer { free(own) }
  let path = String(cString: own)
  return path[...(path.lastIndex(of: "/") ?? path.startIndex)] + "volip"
}

/// Starts a program with standard output and errors in a file.
func spawn(_ path: String, _ arguments: [String], output: String) throws -> pid_t {
  var actions = posix_spawn_file_actions_t()
  posix_spawn_file_actions_init(&actions)
  defer { posix_spawn_file_actions_destroy(&actions) }
  let flags = O_WRONLY | O_CREAT | O_TRUNC
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, output, flags, 0o600)
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO)
  let copies = arguments.map { strdup($0) } + [nil]
  defer { for copy in copies { free(copy) } }
  var process: pid_t = 0
  let error = posix_spawn(&process, path, &actions, nil, copies, environ)
  guard error == 0 else {
    throw Failure(description: "\(path) cannot be started: \(String(cString: strerror(error)))")
  }
  return process
}

func readText(_ path: String) throws -> String {
  let descriptor = open(path, O_RDONLY | O_CLOEXEC)
  guard descriptor >= 0 else { throw Failure(description: "\(path) cannot be read") }
  defer { close(descriptor) }
  var bytes: [UInt8] = []
  var buffer = [UInt8](repeating: 0, count: 4096)
  while case let count = read(descriptor, &buffer, buffer.count), count > 0 {
    bytes += buffer[..<count]
  }
  return String(decoding: bytes, as: UTF8.self)
}

func writeText(_ text: String, _ path: String) throws {
  let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
  guard descriptor >= 0 else { throw Failure(description: "\(path) cannot be written") }
  defer { close(descriptor) }
  guard write(descriptor, text, text.utf8.count) == text.utf8.count else {
    throw Failure(description: "\(path) cannot be written")
  }
}

/// For people, beside the results.
func say(_ text: String) {
  _ = write(STDERR_FILENO, text, text.utf8.count)
}

/// Microseconds of a clock that never goes back.
func now() -> Int {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return time.tv_sec * 1_000_000 + time.tv_nsec / 1000
}

/// A directory of this run's own, in memory if there is a place, removed at the end.
final class RunDirectory {
  let path: String

  init() throws {
    let parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp"
    var template = Array("\(parent)/memcached-demo-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else {
      throw Failure(description: "no directory in \(parent)")
    }
    path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
  }

  deinit {
    for name in ["socket", "cache", "cache.pool", "cache.meta", "log"] { unlink("\(path)/\(name)") }
    rmdir(path)
  }
}
