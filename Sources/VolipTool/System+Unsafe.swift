// What the verbs ask the system for, with C strings kept inside.

import Glibc

func environment(_ name: String) -> String? {
  // SAFETY: the C string is copied at once.
  getenv(name).map { String(cString: $0) }
}

func errorText(_ errorNumber: Int32) -> String {
  // SAFETY: the C string is copied at once.
  String(cString: strerror(errorNumber))
}

func printError(_ line: String) {
  let text = line + "\n"
  _ = write(STDERR_FILENO, text, text.utf8.count)
}

/// A path from the root on; one that does not exist, or is a pattern, is taken as it is.
func absolutePath(_ path: String) -> String {
  guard !path.hasPrefix("/") else { return path }
  // SAFETY: getcwd's result is a C string of its own, copied and freed here.
  guard let directory = getcwd(nil, 0) else { return path }
  defer { free(directory) }
  return String(cString: directory) + "/" + path
}

/// The file of this very program, links resolved.
func ownPath() -> String {
  // SAFETY: realpath's result is a C string of its own, copied and freed here.
  guard let path = realpath("/proc/self/exe", nil) else { return "" }
  defer { free(path) }
  return String(cString: path)
}

private func withArguments<Result>(
  _ arguments: [String], _ body: ([UnsafeMutablePointer<CChar>?]) -> Result
) -> Result {
  // SAFETY: the copies live until the body has returned.
  let copies = arguments.map { strdup($0) } + [nil]
  defer { for copy in copies { free(copy) } }
  return body(copies)
}

/// Puts a program in this process's place. Returns an errno if that fails.
func execute(_ path: String, _ arguments: [String]) -> Int32 {
  withArguments(arguments) {
    execv(path, $0)
    return errno
  }
}

/// Runs a program to its end. Returns its standard output and wait status, or nil if it could not
/// be started.
func output(of path: String, _ arguments: [String]) -> (text: String, status: Int32)? {
  var pipes: [Int32] = [0, 0]
  guard pipe(&pipes) == 0 else { return nil }
  defer { close(pipes[0]) }
  var actions = posix_spawn_file_actions_t()
  posix_spawn_file_actions_init(&actions)
  defer { posix_spawn_file_actions_destroy(&actions) }
  posix_spawn_file_actions_adddup2(&actions, pipes[1], STDOUT_FILENO)
  for end in pipes where end != STDOUT_FILENO { posix_spawn_file_actions_addclose(&actions, end) }
  var child: pid_t = 0
  // SAFETY: environ is this process's own, which nobody changes meanwhile.
  let error = withArguments([path] + arguments) {
    posix_spawn(&child, path, &actions, nil, $0, environ)
  }
  close(pipes[1])
  guard error == 0 else { return nil }
  var bytes: [UInt8] = []
  var buffer = [UInt8](repeating: 0, count: 4096)
  while true {
    // SAFETY: at most the array's own size is read into it.
    let count = buffer.withUnsafeMutableBytes { read(pipes[0], $0.baseAddress, $0.count) }
    if count < 0 && errno == EINTR { continue }
    guard count > 0 else { break }
    bytes += buffer[..<count]
  }
  var status: Int32 = 0
  while waitpid(child, &status, 0) < 0 && errno == EINTR {}
  return (String(decoding: bytes, as: UTF8.self), status)
}
