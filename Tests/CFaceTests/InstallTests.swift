import Foundation
import TestSupport
import Testing

/// `make install`, and what it leaves under the prefix.
@Suite struct InstallTests {
  @Test func whatIsInstalledIsThere() async throws {
    let prefix = try await Installation.shared.prefix
    let files = [
      "bin/volip", "lib/libvolip.so", "lib/libvolip.so.0", "lib/libvolip.so.0.1.0",
      "lib/libVolipPreload.so", "lib/libVolipWrap.so", "lib/pkgconfig/volip.pc", "include/volip.h",
      "include/volip.hpp",
    ]
    for file in files {
      #expect(FileManager.default.isReadableFile(atPath: "\(prefix)/\(file)"), "\(file)")
    }
  }

  @Test func belowDestdirThePathsAreThoseOfThePrefix() async throws {
    let directory = TemporaryDirectory()
    defer { try? FileManager.default.removeItem(atPath: directory.file("stage")) }
    let outcome = try await Installation.run(
      "make",
      [
        "-C", Installation.root, "--old-file=installable", "install", "PREFIX=/opt/volip",
        "BUILD=\(Helper.productDirectory)", "DESTDIR=\(directory.file("stage"))",
      ])
    #expect(outcome.status == .exited(0), "\(outcome.errors)")
    let package = directory.file("stage/opt/volip/lib/pkgconfig/volip.pc")
    #expect(try String(contentsOfFile: package, encoding: .utf8).contains("prefix=/opt/volip\n"))
  }

  @Test func theLibraryShowsItsHeaderAndNothingElse() async throws {
    let installation = try await Installation.shared
    let library = "\(installation.prefix)/lib/libvolip.so"
    let outcome = try await installation.run(
      "nm", ["--dynamic", "--extern-only", "--defined-only", "--format=posix", library])
    let symbols = Set(
      outcome.output.split(separator: "\n").map {
        String($0.prefix { $0 != " " && $0 != "@" })
      }.filter { $0 != "VOLIP_0" })
    let header = try String(
      contentsOfFile: "\(installation.prefix)/include/volip.h", encoding: .utf8)
    let declared = Set(
      header.matches(of: #/^[a-z].*?\b(volip_\w+)\(/#.anchorsMatchLineEndings())
        .map { String($0.output.1) })
    #expect(declared.count > 25)
    #expect(symbols == declared)
  }

  /// A machine that runs programs has no Swift.
  @Test func theLibraryWantsNothingOfSwift() async throws {
    let installation = try await Installation.shared
    let outcome = try await installation.run(
      "readelf", ["-d", "\(installation.prefix)/lib/libvolip.so"])
    #expect(outcome.output.contains("Library soname: [libvolip.so.0]"))
    let needed = outcome.output.matches(of: /Shared library: \[(.*?)\.so/).map { $0.output.1 }
    #expect(
      Set(needed) == [
        "libpmem", "libelf", "libc", "libm", "libstdc++", "libgcc_s", "ld-linux-x86-64",
      ])
    #expect(!outcome.output.contains("swift"), "\(outcome.output)")
  }

  @Test func theReleasedCommandWantsNothingOfSwift() async throws {
    let command = Installation.root + "/.build/release/volip"
    guard FileManager.default.fileExists(atPath: command) else {
      return print("skipped: there is no release build of volip")
    }
    let outcome = try await Installation.run("readelf", ["-d", command])
    #expect(outcome.output.contains("NEEDED") && !outcome.output.contains("swift"))
  }

  @Test func commandAndHeaderHaveTheSameVersion() async throws {
    let installation = try await Installation.shared
    let outcome = try await installation.run("\(installation.prefix)/bin/volip", ["--version"])
    let header = try String(
      contentsOfFile: "\(installation.prefix)/include/volip.h", encoding: .utf8)
    let version = outcome.output.trimmingCharacters(in: .newlines)
    #expect(header.contains("#define VOLIP_VERSION \"\(version)\""), "\(outcome.output)")
  }

  @Test(.guest) func theInstalledCommandFindsWhatItPreloads() async throws {
    let installation = try await Installation.shared
    let outcome = try await installation.run(
      "\(installation.prefix)/bin/volip", ["run", "--", "/bin/sh", "-c", "echo $LD_PRELOAD"])
    let library = "\(installation.prefix)/bin/../lib/libVolipPreload.so\n"
    #expect(outcome.output == library, "\(outcome.errors)")
  }
}
