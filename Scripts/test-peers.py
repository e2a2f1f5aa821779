#!/usr/bin/env python3
"""Databases that map their files, under failure-atomic msync: killed at random moments, reopened,
and checked by their own checkers. Nobody here wrote them.

  test-peers.py [--build DIR] [--kills N] [--seed N] [--place host|guest|native] [PEER ...]

Each peer ends in one line: its name, where it ran, kills, lost, inconsistent. What a database said
was durable and is not there is lost; what its checker complains of is inconsistent. The exit status
is 1 if there is any of either, or if a peer never committed anything.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Bench:
    def __init__(self, build, place, folder, generator):
        self.volip = os.path.abspath(os.path.join(build, "volip"))
        self.place, self.folder, self.generator = place, folder, generator
        # Killed, not cut off from power: that needs no synchronisation with the disk.
        self.environment = dict(os.environ, VOLIP_PERSISTENCE="cache-line")

    def command(self, pattern, program):
        if self.place == "native":
            return program
        options = ["--no-vm"] if self.place == "host" else []
        return [self.volip, "run", *options, "--atomic-msync", pattern, "--", *program]

    def run_and_kill(self, pattern, program, ready, text=""):
        """Kills a program some time after it has said `ready`; returns what it said."""
        said = f"{self.folder}/said"
        with open(said, "w") as output:
            process = subprocess.Popen(
                self.command(pattern, program), cwd=self.folder, env=self.environment,
                stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, text=True)
        writer = threading.Thread(target=self.write, args=(process, text))
        writer.start()
        limit = time.monotonic() + 600
        while ready not in open(said).read() and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(self.generator.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        writer.join()
        return open(said).read()

    @staticmethod
    def write(process, text):
        try:
            process.stdin.write(text)
            process.stdin.flush()
        except BrokenPipeError:
            pass

    def ask(self, pattern, program):
        return subprocess.run(
            self.command(pattern, program), cwd=self.folder, env=self.environment,
            capture_output=True, text=True, timeout=120)


def kyoto(bench, kills, program, manager, name):
    """Kyoto Cabinet's own test of transactions, and its own checker, which is not to repair."""
    bad = committed = 0
    for _ in range(kills):
        said = bench.run_and_kill(name, [program, "tran", "-it", "1000", "-hard", name, "300"],
                                  ready="count:")
        checked = bench.ask(name, [manager, "check", "-onr", name])
        # A file that was not closed is longer than what is in it, natively too.
        complaints = [line for line in checked.stderr.split("\n")
                      if "failed" in line and "DB::size failed" not in line]
        if complaints or (checked.returncode != 0 and "DB::size failed" not in checked.stderr):
            bad += 1
            print(checked.stdout + checked.stderr, file=sys.stderr)
        committed += said.count("count:")
    return 0, bad, committed


def last_number(text):
    numbers = [int(line) for line in text.split("\n")[:-1] if line.isdigit()]
    return numbers[-1] if numbers else 0


def lmdb(bench, kills):
    """LMDB writing through its map: commits are msync calls. mdb_dump reads all of it."""
    writer = f"{bench.folder}/lmdb-writer"
    subprocess.run(
        ["cc", "-O1", "-o", writer, f"{ROOT}/Tests/Peers/lmdb-writer.c", "-llmdb"], check=True)
    os.mkdir(f"{bench.folder}/lmdb")
    lost = bad = best = 0
    for _ in range(kills):
        best = max(best, last_number(bench.run_and_kill("data.mdb", [writer, "lmdb"], "\n")))
        shown = bench.ask("data.mdb", [writer, "lmdb", "show"])
        dumped = bench.ask("data.mdb", ["mdb_dump", "-n", "lmdb/data.mdb"])
        if shown.returncode != 0 or dumped.returncode != 0:
            bad += 1
            print(shown.stderr + dumped.stderr, file=sys.stderr)
            continue
        lost += last_number(shown.stdout) < best
        best = last_number(shown.stdout)
    return lost, bad, best


SQL = """PRAGMA journal_mode=OFF; PRAGMA synchronous=FULL; PRAGMA mmap_size=67108864;
PRAGMA cache_size=10;
CREATE TABLE IF NOT EXISTS a(k INTEGER PRIMARY KEY, v INTEGER, t TEXT);
CREATE TABLE IF NOT EXISTS b(k INTEGER PRIMARY KEY, v INTEGER);
CREATE INDEX IF NOT EXISTS i ON a(v);
"""


def sqlite(bench, kills):
    """SQLite without a journal: each transaction is one fdatasync, all or nothing by us alone.
    With a cache of ten pages it writes all the time, so that natively most kills tear one."""
    lost = bad = best = 0
    for _ in range(kills):
        changes = "".join(
            f"BEGIN; UPDATE a SET v={n}; UPDATE b SET v={n};"
            f"INSERT OR REPLACE INTO a SELECT value,{n},printf('%.*c',value*7%400,'x')"
            f" FROM generate_series({n % 50},{n % 50 + 1000});"
            f"INSERT OR REPLACE INTO b SELECT value,{n} FROM generate_series(0,40);"
            f"COMMIT; SELECT 'committed', {n};\n" for n in range(best + 1, best + 1500))
        said = bench.run_and_kill(
            "base.sqlite", ["sqlite3", "base.sqlite"], f"committed|{best + 1}\n", SQL + changes)
        # Its settings are numbers, too: all that it says if it is killed before the first commit.
        said = said.rpartition("\n")[0].split("\n")
        numbers = [int(line[10:]) for line in said if line.startswith("committed|")]
        best = max([best, *numbers])
        asked = bench.ask("base.sqlite", [
            "sqlite3", "base.sqlite", "PRAGMA integrity_check;",
            "SELECT count(DISTINCT v), coalesce(max(v),0) FROM (SELECT v FROM a UNION ALL"
            " SELECT v FROM b);"])
        answers = asked.stdout.split("\n")
        is_empty = "no such table" in asked.stderr and best == 0
        is_whole = answers[0] == "ok" and (is_empty or answers[1].split("|")[0] in ["0", "1"])
        if not is_whole:
            bad += 1
            print(asked.stdout[:300] + asked.stderr, file=sys.stderr)
            for name in os.listdir(bench.folder):
                if name.startswith("base.sqlite"):
                    os.unlink(f"{bench.folder}/{name}")
            best = 0
            continue
        found = 0 if is_empty else int(answers[1].split("|")[1])
        lost += found < best
        best = found
    return lost, bad, best


PEERS = {
    "kyoto-hash": lambda b, n: kyoto(b, n, "kchashtest", "kchashmgr", "peer.kch"),
    "kyoto-tree": lambda b, n: kyoto(b, n, "kctreetest", "kctreemgr", "peer.kct"),
    "lmdb": lmdb,
    "sqlite": sqlite,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", default=f"{ROOT}/.build/release")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--place", choices=["host", "guest", "native"],
                        help="native: without us, to see the checkers complain")
    parser.add_argument("--folder", default=None, help="on the file system to use")
    parser.add_argument("peers", nargs="*", metavar="PEER", choices=[[], *PEERS])
    options = parser.parse_args()
    print(f"seed {options.seed}")
    places = [options.place] if options.place else ["host"] + ["guest"] * os.path.exists("/dev/kvm")
    failed = False
    for place in places:
        for name in options.peers or PEERS:
            folder = tempfile.mkdtemp(prefix="volip-peer-", dir=options.folder)
            generator = random.Random(f"{options.seed} {place} {name}")
            bench = Bench(options.build, place, folder, generator)
            lost, bad, committed = PEERS[name](bench, options.kills)
            shutil.rmtree(folder)
            print(f"{name} {place} kills {options.kills} lost {lost} inconsistent {bad} "
                  f"committed {committed}", flush=True)
            failed |= lost > 0 or bad > 0 or committed == 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
