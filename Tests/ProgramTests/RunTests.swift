import CLibelf
import Foundation
import TestSupport
import Testing

/// `volip run` on programs that nobody here wrote. `make test-programs` runs many more.
@Suite(.guest) struct RunTests {
  private func run(
    _ command: [String], options: [String] = [], environment: [String: String] = [:]
  ) async throws -> Helper.Outcome {
    try await Helper.run("volip", ["run"] + options + ["--"] + command, environment: environment)
  }

  @Test func aShellWithPipesDoesWhatItDoesWithoutUs() async throws {
    let script = "for i in 1 2 3; do echo $i; done | sed s/2/two/ | sort -r; exit 3"
    let outcome = try await run(["sh", "-c", script])
    #expect(outcome.output == "two\n3\n1\n", "\(outcome.errors)")
    #expect(outcome.status == .exited(3))
  }

  @Test func aProgramWithAnInterpreterRuns() async throws {
    try #require(access("/usr/bin/perl", X_OK) == 0, "perl is part of every Debian")
    let outcome = try await run(["perl", "-e", "print join(' ', sort map { $_ * 2 } 1..3), qq(\n)"])
    #expect(outcome.output == "2 4 6\n", "\(outcome.errors)")
    #expect(outcome.status == .exited(0))
  }

  @Test func theProgramIsInTheGuest() async throws {
    let outcome = try await run(["sh", "-c", "echo"], options: ["--trace", "syscalls"])
    #expect(outcome.errors.contains("] write(0x1, "), "\(outcome.errors)")
  }

  @Test func deathByASignalIsSeenOutside() async throws {
    let outcome = try await run(["sh", "-c", "kill -9 $$"])
    #expect(outcome.status == .signaled(9), "\(outcome.errors)")
  }

  @Test func executedProgramsAreTakenAlongUnlessToldOtherwise() async throws {
    let script = "sh -c 'grep -c olip.*so /proc/$$/maps; env | grep -c -E \"^VOLIP_N|PRELOAD\"'"
    let taken = try await run(["sh", "-c", script])
    let counts = taken.output.split(separator: "\n").compactMap { Int($0) }
    #expect(counts.count == 2 && counts[0] > 0 && counts[1] == 1, "\(taken)")
    let left = try await run(["sh", "-c", script], options: ["--native-children"])
    #expect(left.output == "0\n0\n", "\(left.errors)")
  }

  /// Descriptors are numbered as without us, and none of ours can be closed.
  @Test func theProgramsDescriptorsAreItsOwn() async throws {
    let script = """
      open(my $file, "<", "/dev/null"); print fileno($file), "\n";
      for my $number (3..5000) { POSIX::close($number) }
      open($file, "<", "/dev/null"); print fileno($file), "\n";
      """
    let outcome = try await run(["perl", "-MPOSIX", "-e", script])
    #expect(outcome.output == "3\n3\n", "\(outcome.errors)")
    #expect(outcome.status == .exited(0))
  }

  /// Signals that were on their way when the program changed its mind ended it: those that find
  /// SIG_IGN on arrival, and those that the kernel drops when they are sent again.
  @Test func aSignalThatIsIgnoredByTheTimeItArrivesIsIgnored() async throws {
    let script = """
      $SIG{USR1} = 'IGNORE';
      my $parent = $$;
      my $sender = fork;
      if (!$sender) {
        kill(USR1 => $parent), select(undef, undef, undef, 0.001) while getppid == $parent;
        exit;
      }
      my ($count, $changes) = (0, 0);
      until ($count > 0 && $changes >= 2000) {
        $SIG{USR1} = sub { $count++ };
        1 for 1..20;
        $SIG{USR1} = 'IGNORE';
        $changes++;
      }
      kill KILL => $sender;
      waitpid($sender, 0);
      print "received\n";
      """
    let outcome = try await run(["perl", "-e", script])
    #expect(outcome.output == "received\n", "\(outcome.errors)")
    #expect(outcome.status == .exited(0))
  }

  @Test func aProgramThatInstallsASeccompFilterIsStoppedWithASentence() async throws {
    // seccomp(SECCOMP_SET_MODE_FILTER, 0, NULL) only asks; a filter of no instructions does not.
    let script = """
      $| = 1; my $filter = pack("x16");
      print syscall(317, 1, 0, 0), " ", $! + 0, "\n";
      syscall(317, 1, 0, $filter);
      print "still here\n";
      """
    let outcome = try await run(["perl", "-e", script])
    #expect(outcome.output == "-1 14\n", "\(outcome.errors)")
    #expect(outcome.status == .signaled(6))
    #expect(outcome.errors.contains("seccomp filter cannot run in guest mode"))
    let strict = "my $none = pack('x16'); syscall(157, 22, 2, $none); print 'here'"  // by prctl
    let other = try await run(["perl", "-e", strict])
    #expect(other.output.isEmpty && other.status == .signaled(6), "\(other)")
  }

  /// It would look at the run loop. A tracer in the guest, too, if what it starts is not native.
  @Test func aTracedProgramDoesNotRun() async throws {
    let program = [Helper.productDirectory + "/volip-plain-program", "traced-execution"]
    let outcome = try await run(program)
    #expect(outcome.output == "executed: exit 5, signal 0\n", "\(outcome.errors)")
    #expect(outcome.errors.contains("volip: sh cannot run in guest mode: a debugger or tracer"))
    let native = try await run(program, options: ["--native-children"])
    #expect(native.output == "on the host\nexecuted: exit 0, signal 0\n", "\(native.errors)")
  }

  @Test func aProgramThatCannotBeTakenIntoTheGuestDoesNotRun() async throws {
    // The device opens for `volip run` and not any more for the program.
    let outcome = try await run(
      ["/usr/bin/env", "VOLIP_KVM_DEVICE=/nowhere", "sh", "-c", "echo on the host"])
    #expect(outcome.output.isEmpty)
    #expect(outcome.status == .exited(5))
    #expect(outcome.errors.contains("volip: sh cannot run in guest mode: "), "\(outcome.errors)")
    #expect(outcome.errors.split(separator: "\n").count == 1)
  }
}

/// What is refused before anything starts; no /dev/kvm is needed to say so.
@Suite struct RefusalTests {
  let directory = TemporaryDirectory()

  private func refusal(of program: String, _ environment: [String: String] = [:]) async throws
    -> Helper.Outcome
  {
    let outcome = try await Helper.run("volip", ["run", "--", program], environment: environment)
    #expect(outcome.output.isEmpty)
    #expect(outcome.errors.split(separator: "\n").count == 1)
    return outcome
  }

  /// The head of an ELF file with nothing in it: a static program to everybody who looks.
  private func elf(bits64: Bool = true, machine: UInt8 = 62) -> [UInt8] {
    let identification: [UInt8] = [0x7f, 0x45, 0x4c, 0x46, bits64 ? 2 : 1, 1, 1]
    var bytes = identification + [UInt8](repeating: 0, count: 128 - identification.count)
    (bytes[16], bytes[18], bytes[20]) = (2, machine, 1)
    (bytes[52], bytes[54], bytes[58]) = bits64 ? (64, 56, 64) : (0, 0, 0)
    return bytes
  }

  private func make(_ bytes: [UInt8], mode: mode_t = 0o755) -> String {
    let path = directory.file("program")
    FileBytes.write(bytes, to: path)
    chmod(path, mode)
    return path
  }

  @Test func aStaticProgramIsRefused() async throws {
    let outcome = try await refusal(of: make(elf()))
    #expect(outcome.errors.contains("is statically linked"), "\(outcome.errors)")
    #expect(outcome.status == .exited(1))
  }

  @Test func a32BitProgramIsRefused() async throws {
    let outcome = try await refusal(of: make(elf(bits64: false, machine: 3)))
    #expect(outcome.errors.contains("is not a 64-bit program of x86-64"), "\(outcome.errors)")
  }

  @Test func aSetuidProgramIsRefused() async throws {
    let outcome = try await refusal(of: make(elf(), mode: 0o4755))
    #expect(outcome.errors.contains("is setuid or setgid"), "\(outcome.errors)")
  }

  @Test func aProgramWithFileCapabilitiesIsRefused() async throws {
    let program = make(elf())
    // Revision 2 with CAP_NET_RAW permitted and effective.
    let capabilities: [UInt8] = [1, 0, 0, 2, 0, 0x20] + [UInt8](repeating: 0, count: 14)
    guard setxattr(program, "security.capability", capabilities, capabilities.count, 0) == 0 else {
      return print("skipped: file capabilities: \(String(cString: strerror(errno)))")
    }
    let outcome = try await refusal(of: program)
    #expect(outcome.errors.contains("has file capabilities"), "\(outcome.errors)")
    #expect(outcome.status == .exited(1))
  }

  @Test func aScriptIsRefusedForItsInterpreter() async throws {
    let program = make(elf())
    let script = directory.file("script")
    FileBytes.write(Array("#! \(program) -x\n".utf8), to: script)
    let outcome = try await refusal(of: script)
    #expect(outcome.errors.contains("\(program) is statically linked"), "\(outcome.errors)")
  }

  @Test func whatIsNoProgramIsRefused() async throws {
    let outcome = try await refusal(of: make(Array("words\n".utf8)))
    #expect(outcome.errors.contains("is neither an ELF program nor a script"))
    #expect(try await refusal(of: directory.file("nothing")).status == .exited(1))
  }

  @Test func withoutADeviceNothingStarts() async throws {
    let outcome = try await refusal(of: "/bin/true", ["VOLIP_KVM_DEVICE": "/nowhere"])
    #expect(outcome.errors.contains("/dev/kvm does not exist."), "\(outcome.errors)")
    #expect(outcome.status == .exited(5))
  }

  @Test func runWithoutAProgramIsWrongUsage() async throws {
    let outcome = try await Helper.run("volip", ["run"])
    #expect(outcome.status == .exited(64))
  }
}
