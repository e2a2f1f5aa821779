#!/usr/bin/env python3
"""Programs that nobody here wrote, natively and under `volip run`: same results, and how long.

Usage: test-programs.py [--volip PATH] [--timeout SECONDS] [--no-cpython] [NAME...]

Prints a line for each program as it is done. Exit status 1 if one differs. A program that is not
installed is skipped with the reason. CPython's own tests are compared test by test.
"""

import argparse
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
PYTHON = "/usr/bin/python3"  # not a version manager's shell script
ATTEMPTS = 3  # tests that differ are run again alone: natively, too, some fail now and then
CPYTHON_TESTS = (
    "test_thread test_threading test_signal test_subprocess test_mmap test_os test_io test_socket "
    "test_selectors test_fork1 test_multiprocessing_fork test_sqlite3"
).split()

# Where the hypervisor below does not answer, this one waits for ever, natively as well.
CPYTHON_IGNORED = {"test_socket": ["-i", "ThreadedVSOCKSocketStreamTest"]}

COMPUTE = """
def collatz(n):
    count = 0
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        count += 1
    return count
print(max((collatz(n), n) for n in range(1, 160000)))
"""
THREADS = """
import threading
total, lock = 0, threading.Lock()
def work():
    global total
    for _ in range(5000):
        with lock:
            total += 1
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(total)
"""
SUBPROCESS = """
import subprocess, sys
print(subprocess.run(["tr", "a-z", "A-Z"], input=b"words", capture_output=True).stdout)
print(subprocess.run(["sh", "-c", "exit 3"]).returncode)
print(subprocess.run(["sh", "-c", "kill -9 $$"]).returncode)
print(subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True).stdout)
"""
SQL = """create table t(id integer primary key, a int, b text);
with recursive c(x) as (select 1 union all select x + 1 from c where x < 100000)
insert into t select x, x * 7919 % 10007, 'row ' || x from c;
create index i on t(a);
update t set b = b || '!' where a < 500;
select count(*), sum(a), max(b) from t;
select a, count(*) from t group by a order by 2 desc, 1 limit 5;
"""
C_FILE = """#include <stdio.h>
int main(void) { for (int i = 0; i < 3; i++) printf("%d\\n", i * i); return 0; }
"""


class Skipped(Exception):
    pass


class Case:
    """One way of running programs: natively, or with `volip run --` before them."""

    def __init__(self, prefix, directory, timeout):
        self.prefix = prefix
        self.directory = directory
        self.timeout = timeout

    def run(self, command, stdin=""):
        result = subprocess.run(
            self.prefix + command, input=stdin, cwd=self.directory, timeout=self.timeout,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace")
        return f"{result.stdout}[{result.returncode}]"

    def serve(self, command, port, work):
        """Runs a server while `work` talks to it; ends it by SIGTERM."""
        with open(os.path.join(self.directory, "log"), "w") as log:
            server = subprocess.Popen(
                self.prefix + command, cwd=self.directory, stdout=log, stderr=log)
        try:
            wait_for(port)
            result = work()
            server.send_signal(signal.SIGTERM)
            return f"{result}[{server.wait(20)}]"
        finally:
            server.kill()
            server.wait()


def wait_for(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nobody listens on port {port}")


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def need(*names):
    for name in names:
        if shutil.which(name) is None:
            raise Skipped(f"{name} is not installed")
    return [shutil.which(name) for name in names]


def python(case, script):
    need(PYTHON)
    return case.run([PYTHON, "-c", script])


def gcc(case):
    need("gcc")
    with open(os.path.join(case.directory, "a.c"), "w") as file:
        file.write(C_FILE)
    return case.run(["gcc", "-O2", "-o", "a", "a.c"]) + case.run(["./a"])


def git(case):
    need("git")
    cloned = case.run(["git", "clone", "-q", "--no-hardlinks", str(ROOT), "clone"])
    listed = case.run(["git", "-C", "clone", "fsck", "--full", "--no-progress"])
    head = case.run(["git", "-C", "clone", "rev-parse", "HEAD^{tree}"])
    shutil.rmtree(os.path.join(case.directory, "clone"), ignore_errors=True)
    return cloned + listed + head


def redis(case, pipeline):
    need("redis-server", "redis-benchmark", "redis-cli")
    port = free_port()
    client = ["-h", "127.0.0.1", "-p", str(port)]

    def work():
        text = case.run(["redis-benchmark", *client, "-q", "-n", "5000", "-c", "20", "-P",
                         str(pipeline), "-t", "set,get", "-r", "1000"])
        rates = re.findall(r"(\w+): ([\d.]+) requests per second", text)
        if [name for name, _ in rates] != ["SET", "GET"]:
            return text
        case.rate = [float(rate) for _, rate in rates]
        return case.run(["redis-cli", *client, "set", "key", "value"]) + case.run(
            ["redis-cli", *client, "get", "key"])

    command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]
    return case.serve(command, port, work)


def memcached(case):
    need("memcached")
    port = free_port()

    def work():
        count = 1500
        stored = found = 0
        with socket.create_connection(("127.0.0.1", port)) as it, it.makefile("rwb") as file:
            start = time.monotonic()
            for i in range(count):
                file.write(b"set k%d 0 0 5\r\n%05d\r\n" % (i, i))
                file.flush()
                stored += file.readline() == b"STORED\r\n"
                file.write(b"get k%d\r\n" % i)
                file.flush()
                lines = [file.readline() for _ in range(3)]
                found += lines[1] == b"%05d\r\n" % i
            case.rate = [2 * count / (time.monotonic() - start)]
        return f"{stored} stored, {found} found "

    return case.serve(["memcached", "-u", "root", "-l", "127.0.0.1", "-p", str(port), "-t", "2"],
                      port, work)


def nginx(case):
    need("nginx", "wrk")
    port = free_port()
    paths = "".join(f"{name}_temp_path {case.directory}/{name};" for name in
                    ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    with open(os.path.join(case.directory, "nginx.conf"), "w") as file:
        file.write(f"""daemon off; master_process off; error_log stderr; pid {case.directory}/pid;
            events {{}} http {{ access_log off; {paths}
            server {{ listen 127.0.0.1:{port}; root {case.directory}; }} }}""")
    with open(os.path.join(case.directory, "page"), "w") as file:
        file.write("a page\n" * 500)

    def work():
        page = f"http://127.0.0.1:{port}/page"
        text = case.run(["wrk", "-t1", "-c4", "-d2s", page])
        case.rate = [float(rate) for rate in re.findall(r"Requests/sec: +([\d.]+)", text)]
        return ("some " if case.rate and case.rate[0] > 0 else text) + " ".join(
            re.findall(r"Socket errors: .*|Non-2xx.*", text))

    return case.serve(["nginx", "-c", f"{case.directory}/nginx.conf"], port, work)


def cpython(case, python, module, names=()):
    """The results of a module's tests by name; of some of them only, if `names` says which."""
    need(python)
    if subprocess.run([python, "-c", f"import test.{module}"], capture_output=True).returncode != 0:
        raise Skipped(f"{python} has no test.{module}")
    report = os.path.join(case.directory, "report.xml")
    if os.path.exists(report):
        os.remove(report)
    chosen = [word for name in names for word in ("-m", name)]
    ignored = CPYTHON_IGNORED.get(module, [])
    text = case.run([python, "-m", "test", "--junit-xml", report, *ignored, *chosen, module])
    if not os.path.exists(report):
        return text[-2000:]
    results = {}
    for test in xml.etree.ElementTree.parse(report).iter("testcase"):
        kinds = [child.tag for child in test if child.tag in ("failure", "error", "skipped")]
        results[test.get("name")] = kinds[0] if kinds else test.get("result", "ok")
    case.log = text
    case.count = len(results)
    return results


def swift_program(case):
    """Dispatch, threads, async tasks, Foundation's Process and files."""
    program = ROOT / ".build/release/volip-guest-program"
    if not program.exists():
        raise Skipped(f"{program} is not built")
    return case.run([str(program)])


PROGRAMS = {
    "sh": lambda case: case.run(
        ["sh", "-c", "for i in 1 2 3; do echo $i; done | sed s/2/two/ | sort -r; exit 3"]),
    "signal": lambda case: case.run(["sh", "-c", "trap 'echo caught' TERM; kill $$; kill -9 $$"]),
    "perl": lambda case: case.run(
        [*need("perl"), "-e", "my %h; $h{$_ % 97} += $_ for 1..300000; print join(',', "
         "map {\"$_=$h{$_}\"} (sort {$a <=> $b} keys %h)[0..4]), qq(\\n)"]),
    "python-compute": lambda case: python(case, COMPUTE),
    "python-threads": lambda case: python(case, THREADS),
    "python-subprocess": lambda case: python(case, SUBPROCESS),
    "gcc": gcc,
    "sqlite3": lambda case: case.run([*need("sqlite3"), ":memory:"], SQL),
    "sqlite3-file": lambda case: [
        case.run([*need("sqlite3"), "base"], SQL), os.remove(f"{case.directory}/base")][0],
    "git-clone": git,
    "redis": lambda case: redis(case, 1),
    "redis-pipelined": lambda case: redis(case, 16),
    "memcached": memcached,
    "nginx": nginx,
    "swift": swift_program,
}

# What Debian calls the packages of all of that.
PACKAGES = ("gcc git libc6-dev libpython3.11-testsuite memcached nginx perl python3 redis-server "
            "redis-tools sqlite3 wrk").split()


def install_missing():
    """As root on Debian; elsewhere programs that are missing are skipped with the reason."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return
    known = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"],
                           stdout=subprocess.PIPE, encoding="utf-8").stdout.splitlines()
    missing = [name for name in PACKAGES if f"{name} installed" not in known]
    if not missing:
        return
    print(f"Installing {' '.join(missing)}", file=sys.stderr, flush=True)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    if subprocess.run(install, env=environment, **quiet).returncode != 0:
        subprocess.run(["apt-get", "update", "-qq"], **quiet)
        if subprocess.run(install, env=environment, **quiet).returncode != 0:
            print(f"Cannot install {' '.join(missing)}", file=sys.stderr, flush=True)


def difference(native, guest):
    """Lines that say what differs, and the names of the tests that do."""
    if isinstance(native, dict) and isinstance(guest, dict):
        names = [name for name in sorted(set(native) | set(guest))
                 if native.get(name) != guest.get(name)]
        return [f"{name}: native {native.get(name)}, guest {guest.get(name)}"
                for name in names], names
    if native == guest:
        return [], []
    return ["native: " + str(native)[-1500:], "guest:  " + str(guest)[-1500:]], []


def measure(prefix, function, timeout, names=()):
    with tempfile.TemporaryDirectory() as directory:
        case = Case(prefix, directory, timeout)
        case.rate, case.log, case.count = [], "", None
        start = time.monotonic()
        try:
            result = function(case, names) if names else function(case)
        except subprocess.TimeoutExpired as error:
            result = f"not done after {error.timeout} s"
        except RuntimeError as error:
            result = f"{error}; {open(os.path.join(directory, 'log')).read()}"
        return result, time.monotonic() - start, case


def compare(name, function, prefix, timeout):
    try:
        native, native_time, native_case = measure([], function, timeout)
        if str(native).startswith("not done"):
            raise Skipped(f"natively {native}")
        guest, guest_time, guest_case = measure(prefix, function, timeout)
        differences, names = difference(native, guest)
        again = len(names)
        for _ in range(1, ATTEMPTS):
            if names:
                differences, names = difference(
                    measure([], function, timeout, names)[0],
                    measure(prefix, function, timeout, names)[0])
    except Skipped as reason:
        print(f"| {name} | | | | skipped: {reason} |", flush=True)
        return True
    verdict = "same" if not differences else "DIFFERENT"
    if native_case.count is not None:
        verdict += f", {native_case.count} tests" + (f", {again} of them again" if again else "")
    if native_case.rate and guest_case.rate:
        figures = ["/".join(f"{rate:.0f}" for rate in case.rate) + " per s"
                   for case in (native_case, guest_case)]
        ratio = sum(guest_case.rate) / sum(native_case.rate)
    else:
        figures = [f"{native_time:.2f} s", f"{guest_time:.2f} s"]
        ratio = native_time / guest_time
    print(f"| {name} | {figures[0]} | {figures[1]} | {ratio:.2f}x | {verdict} |", flush=True)
    for line in differences:
        print(f"    {line}", file=sys.stderr, flush=True)
    if differences and guest_case.log and os.environ.get("VOLIP_TEST_LOG"):
        pathlib.Path(os.environ["VOLIP_TEST_LOG"], f"{name}.log").write_text(guest_case.log)
    return not differences


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volip", default=str(ROOT / ".build/release/volip"))
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("--no-cpython", action="store_true")
    parser.add_argument("--python", default=PYTHON, help="whose own tests are run")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    install_missing()
    programs = dict(PROGRAMS)
    for module in CPYTHON_TESTS:
        programs["cpython " + module] = (
            lambda case, names=(), module=module: cpython(case, options.python, module, names))
    print("| program | native | guest | guest speed | result |\n| --- | --- | --- | --- | --- |")
    is_same = True
    for name, function in programs.items():
        if options.names and name.removeprefix("cpython ") not in options.names:
            continue
        if options.no_cpython and name.startswith("cpython"):
            continue
        prefix = [os.path.abspath(options.volip), "run", "--"]
        is_same &= compare(name, function, prefix, options.timeout)
    sys.exit(0 if is_same else 1)


main()
