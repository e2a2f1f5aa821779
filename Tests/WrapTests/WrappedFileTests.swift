import TestSupport
import Testing

/// Calls on a wrapped file answer what they answer on a plain one, and what they leave is durable
/// after an epoch, though the program is killed.
@Suite(.serialized) struct WrappedFileTests {
  static let cases = [
    "read", "pread", "readv", "preadv", "write", "pwrite", "writev", "pwritev", "sendfile",
    "copy_file_range", "fstat", "ftruncate", "fallocate", "appends", "kernel-writes", "mappings",
    "descriptors",
  ]

  private static let content = (0..<1 << 20).map { UInt8(truncatingIfNeeded: 97 + $0 % 23) }

  @Test(arguments: cases, Place.all)
  func aWrappedFileIsAsAPlainOne(_ name: String, _ place: Place) async throws {
    let plain = TemporaryDirectory()
    FileBytes.write(Self.content, to: plain.file("file"))
    let native = try await Helper.run(
      "volip-wrap-program", ["file", name, plain.file("file")])
    let wrapped = Wrapped(place: place)
    FileBytes.write(Self.content, to: wrapped.file)
    let outcome = try await wrapped.run(["file", name, wrapped.file])
    #expect(native.status == .signaled(9) && outcome.status == .signaled(9))
    #expect(!native.output.isEmpty && outcome.output == native.output, "\(outcome.errors)")
    let bytes = try await wrapped.bytes()
    let expected = FileBytes.read(plain.file("file"))
    #expect(bytes.count == expected.count)
    let difference = zip(bytes, expected).enumerated().first { $1.0 != $1.1 }?.offset
    #expect(difference == nil)
  }

  /// What a call changes is in the epoch of the stores before and after it, whenever it is killed.
  @Test(
    arguments: [
      "write", "pwrite", "writev", "pwritev", "sendfile", "copy_file_range", "ftruncate",
      "fallocate",
    ], Place.all)
  func aCallIsInTheEpochOfTheStoresAroundIt(_ call: String, _ place: Place) async throws {
    var generator = SeededGenerator.forTest("calls in epochs")
    let wrapped = Wrapped(place: place)
    let time = Int.random(in: 20_000..<80_000, using: &generator)
    let outcome = try await wrapped.run(["calls", wrapped.file, call, "\(time)"])
    #expect(outcome.status == .signaled(9), "\(outcome.errors)")
    let words = try await wrapped.words("called", [call])
    #expect(
      words.count == 3 && words[0] > 0 && words[0] == words[1] && words[0] == words[2], "\(words)")
  }

  /// The pool has the bytes from its first moment; the plain file keeps its own.
  @Test(arguments: Place.all)
  func aPoolIsMadeOfTheFileOnce(_ place: Place) async throws {
    let wrapped = Wrapped(place: place)
    FileBytes.write([9, 0, 0, 0, 0, 0, 0, 0] + .init(repeating: 0, count: 100), to: wrapped.file)
    #expect(try await wrapped.words() == [9, 0, 0, 0])
    FileBytes.write([5], to: wrapped.file)
    #expect(try await wrapped.words() == [9, 0, 0, 0])
    #expect(try await wrapped.bytes()[0] == 9)
  }

  /// The next file of a name does not begin with the bytes of the one before.
  @Test(arguments: Place.all)
  func aFileThatIsDeletedTakesItsPoolAlong(_ place: Place) async throws {
    let wrapped = Wrapped(place: place)
    let outcome = try await wrapped.run(["replaces", wrapped.file])
    #expect(outcome.output == "not renamed\n0\n0\nnot there\n", "\(outcome.errors)")
    #expect(try await wrapped.words() == [0, 2, 0, 0])
  }

  @Test func aPoolThatHoldsNoFileIsRefused() async throws {
    let wrapped = Wrapped(place: .host)
    FileBytes.write([1, 2, 3], to: wrapped.file)
    FileBytes.write(.init(repeating: 7, count: 10000), to: wrapped.pool)
    let outcome = try await wrapped.run(["show", wrapped.file])
    #expect(outcome.status != .exited(0))
    #expect(outcome.errors.contains("volip: ") && outcome.errors.contains("file.pool"))
    let extracted = try await Helper.run(
      "volip", ["extract", wrapped.pool, wrapped.directory.file("out")])
    #expect(extracted.status == .exited(6))
  }
}
