// ProgramFile: whether a program can be taken into guest mode, told from its file.
//
// The library is loaded by the dynamic loader, so there must be one, it must be glibc's of x86-64,
// and it must not be told to be careful (setuid, setgid, file capabilities).

import CLibelf
import Glibc

struct ProgramFile {
  let path: String

  /// As the kernel follows scripts to their interpreters.
  private static let interpretersMax = 5
  private static let loader = "ld-linux-x86-64.so.2"

  /// A program as a shell finds it.
  static func find(_ name: String) throws -> String {
    if name.contains("/") { return name }
    let places = environment("PATH") ?? "/usr/local/bin:/usr/bin:/bin"
    for place in places.split(separator: ":", omittingEmptySubsequences: false) {
      let path = place.isEmpty ? name : "\(place)/\(name)"
      var status = stat()
      let isFile = stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFREG
      if isFile && access(path, X_OK) == 0 { return path }
    }
    throw Refusal("\(name) is not a program in PATH.")
  }

  /// Throws why the program is refused.
  func check() throws {
    var path = path
    for _ in 0..<Self.interpretersMax {
      guard let next = try Self.checkOne(path) else { return }
      path = next
    }
    throw Refusal("\(self.path) is a script of a script of a script ...")
  }

  /// Returns the interpreter of a script.
  private static func checkOne(_ path: String) throws -> String? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw Refusal("\(path) cannot be read: \(errorText(errno)).") }
    defer { close(descriptor) }
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
      throw Refusal("\(path) is not a program.")
    }
    if let interpreter = interpreter(text(descriptor, offset: 0, byteCountMax: 256)) {
      return interpreter
    }
    guard status.st_mode & (S_ISUID | S_ISGID) == 0 else {
      throw refusal(path, "is setuid or setgid: the loader preloads nothing into it")
    }
    // The size alone: a file without them has no such attribute.
    guard fgetxattr(descriptor, "security.capability", nil, 0) < 0 else {
      throw refusal(path, "has file capabilities: the loader preloads nothing into it")
    }
    try checkElf(path, descriptor)
    return nil
  }

  private static func refusal(_ path: String, _ reason: String) -> Refusal {
    Refusal("\(path) \(reason); it cannot run in guest mode.")
  }

  private static func checkElf(_ path: String, _ descriptor: Int32) throws {
    guard elf_version(UInt32(EV_CURRENT)) != EV_NONE else {
      throw Refusal("libelf is older than this program.")
    }
    let elf = elf_begin(descriptor, ELF_C_READ, nil)
    defer { elf_end(elf) }
    var header = GElf_Ehdr()
    // SAFETY: elf is this file's descriptor or NULL, which libelf answers with NULL.
    guard elf != nil, elf_kind(elf) == ELF_K_ELF, gelf_getehdr(elf, &header) != nil else {
      throw refusal(path, "is neither an ELF program nor a script")
    }
    guard gelf_getclass(elf) == ELFCLASS64, header.e_machine == EM_X86_64 else {
      throw refusal(path, "is not a 64-bit program of x86-64")
    }
    guard header.e_type == ET_EXEC || header.e_type == ET_DYN else {
      throw refusal(path, "is not a program")
    }
    guard let loader = loader(of: elf, descriptor) else {
      throw refusal(path, "is statically linked")
    }
    guard loader.hasSuffix("/\(self.loader)") else {
      throw refusal(path, "is loaded by \(loader), not by glibc's loader")
    }
  }

  private static func loader(of elf: OpaquePointer?, _ descriptor: Int32) -> String? {
    var count = 0
    guard elf_getphdrnum(elf, &count) == 0 else { return nil }
    for index in 0..<count {
      var segment = GElf_Phdr()
      // SAFETY: the index is below the count that libelf gave.
      guard gelf_getphdr(elf, Int32(index), &segment) != nil, segment.p_type == PT_INTERP,
        segment.p_offset < UInt64(Int64.max)
      else { continue }
      let byteCount = Int(min(segment.p_filesz, UInt64(PATH_MAX)))
      let bytes = text(descriptor, offset: Int(segment.p_offset), byteCountMax: byteCount)
      return String(bytes.prefix { $0 != "\0" })
    }
    return nil
  }

  /// The first word after #!, if the text begins so.
  private static func interpreter(_ text: String) -> String? {
    guard text.hasPrefix("#!") else { return nil }
    let line = text.dropFirst(2).prefix { $0 != "\n" && $0 != "\r\n" }
    return line.split(whereSeparator: { $0 == " " || $0 == "\t" }).first.map(String.init)
  }

  private static func text(_ descriptor: Int32, offset: Int, byteCountMax: Int) -> String {
    var bytes = [UInt8](repeating: 0, count: byteCountMax)
    // SAFETY: at most the array's own size is read into it.
    let count = bytes.withUnsafeMutableBytes { pread(descriptor, $0.baseAddress, $0.count, offset) }
    return String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self)
  }
}
