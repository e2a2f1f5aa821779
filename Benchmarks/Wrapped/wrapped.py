#!/usr/bin/env python3
"""What epochs, recovery and msync cost programs that nobody changed.

  wrapped.py [--build DIR] [--folder DIR] [pages|recovery|kyoto ...]

pages: the commit of an epoch in which 100 or 1,000 pages were written. recovery: a killed memcached
with a full cache of 1 GiB, until it answers again; natively after a clean stop beside it. kyoto:
Kyoto Cabinet's hard transactions beside plain changes and a hard synchronize, natively (which a
crash tears) and under --atomic-msync, in FOLDER: on the file system to measure.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PLACES = ["host"] + ["guest"] * os.access("/dev/kvm", os.W_OK)
UNSYNCHRONISED = dict(os.environ, VOLIP_PERSISTENCE="cache-line")


def compiled(name, folder, *arguments):
    source = next(f"{HERE}/{file}" for file in os.listdir(HERE) if file.startswith(name + "."))
    compiler = "g++" if source.endswith(".cc") else "cc"
    subprocess.run([compiler, "-O2", "-Wall", "-o", f"{folder}/{name}", source, *arguments],
                   check=True)
    return f"{folder}/{name}"


def wrapped(options, place, *arguments):
    return [f"{options.build}/volip", "run", *["--no-vm"] * (place == "host"), *arguments, "--"]


def pages(options):
    print(f"{'place':<6} {'pages':>6} {'lines':>6} {'exits':>6} {'mean us':>8}")
    for place in PLACES:
        for count in (100, 1000):
            folder = tempfile.mkdtemp(prefix="volip-pages-", dir="/dev/shm")
            program = compiled("pages", folder)
            command = wrapped(options, place, "--pmap", "file", "--commit-every", "at-wait")
            process = subprocess.Popen(
                [*command, program, f"{folder}/file", str(count), str(options.seconds)],
                env=UNSYNCHRONISED)
            # Until all pages were touched once: that is not the commit's cost.
            time.sleep(options.seconds * (0.5 if place == "host" else 0.7))
            interval = options.seconds * 0.2
            found = json.loads(subprocess.run(
                [f"{options.build}/volip", "stat", str(process.pid), "--json", "--interval",
                 str(interval)], check=True, capture_output=True, text=True).stdout)
            process.wait()
            print(f"{place:<6} {found['pagesPerEpoch']:6.0f} {found['linesPerEpoch']:6.0f} "
                  f"{found['exitsPerEpoch']:6.1f} {found['microsecondsPerEpoch']:8.0f}",
                  flush=True)
            shutil.rmtree(folder)


def ready(server):
    said = []
    for line in server.stdout:
        words = line.split()
        if words and words[0] == "ready":
            return int(words[1]), words[2], int(words[3])
        said.append(line)
    sys.exit("memcached did not start:\n" + "".join(said))


def recovery(options):
    """1 GiB of items with values of 1,000 bytes."""
    folder = tempfile.mkdtemp(prefix="volip-recovery-", dir="/dev/shm")
    load = f"{folder}/load"
    subprocess.run(["cc", "-O2", "-o", load, f"{ROOT}/Benchmarks/Memcached/load.c", "-lm"],
                   check=True)
    fill = ["fill", "--keys", str(options.keys), "--bytes", "1000"]
    for place in options.places:
        server = subprocess.Popen(
            [f"{options.build}/memcached-demo", "--supervise", "--megabytes", "1024", "--acks",
             "immediate", *["--host"] * (place == "host")], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True)
        process, socket, _ = ready(server)
        subprocess.run([load, socket, *fill], check=True)
        times = []
        for _ in range(options.rounds):
            time.sleep(0.3)
            os.kill(process, signal.SIGKILL)
            process, socket, milliseconds = ready(server)
            times.append(milliseconds)
        print(f"{place} restart_ms {statistics.median(times):.0f} of {times}", flush=True)
        server.stdin.close()
        server.wait()
    cache = ["memcached", "-s", f"{folder}/socket", "-e", f"{folder}/cache", "-m", "1024",
             "-o", "no_lru_crawler"]
    cache += ["-u", "root"] * (os.getuid() == 0)
    times = []
    for number in range(options.rounds + 1):
        start = time.monotonic()
        process = subprocess.Popen(cache, stderr=subprocess.DEVNULL)
        subprocess.run([load, f"{folder}/socket", "fill", "--keys", "1"], check=True)
        times.append(int((time.monotonic() - start) * 1000))
        if number == 0:
            subprocess.run([load, f"{folder}/socket", *fill], check=True)
        process.send_signal(signal.SIGUSR1)
        process.wait()
        time.sleep(1.1)  # its clock must have gone on
        if os.path.exists(f"{folder}/socket"):
            os.unlink(f"{folder}/socket")
    print(f"native, after a clean stop restart_ms {statistics.median(times[1:]):.0f} of "
          f"{times[1:]}")
    shutil.rmtree(folder)


def kyoto(options):
    folder = tempfile.mkdtemp(prefix="volip-kyoto-", dir=options.folder)
    program = compiled("kyoto", folder, "-lkyotocabinet")
    print(f"{'records':>7} {'way':<28} {'commits/s':>9} {'median us':>9} {'x':>5}")
    ways = [(f"native {kind}", kind, None) for kind in ("transaction", "synchronize")]
    ways += [(f"{place} synchronize", "synchronize", place) for place in options.places]
    for records in (1, 10, 100):
        rates = {name: [] for name, _, _ in ways}
        for _ in range(options.rounds):
            for name, kind, place in ways:
                for file in os.listdir(folder):
                    if file.startswith("base.kch"):
                        os.unlink(f"{folder}/{file}")
                command = wrapped(options, place, "--atomic-msync", "base.kch") if place else []
                answer = subprocess.run(
                    [*command, program, f"{folder}/base.kch", kind, str(records),
                     str(options.seconds)], check=True, capture_output=True, text=True).stdout
                rates[name].append([float(word) for word in answer.split()])
        first = statistics.median(rate for rate, _ in rates["native transaction"])
        for name, found in rates.items():
            rate = statistics.median(rate for rate, _ in found)
            print(f"{records:7} {name:<28} {rate:9.1f} "
                  f"{statistics.median(us for _, us in found):9.1f} {rate / first:5.2f}",
                  flush=True)
    shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", default=f"{ROOT}/.build/release")
    parser.add_argument("--folder", default=None, help="on the file system to use")
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keys", type=int, default=850000)
    parser.add_argument("--places", type=lambda text: text.split(","), default=PLACES)
    parser.add_argument("what", nargs="*", choices=[[], "pages", "recovery", "kyoto"])
    options = parser.parse_args()
    for name in options.what or ["pages", "recovery", "kyoto"]:
        {"pages": pages, "recovery": recovery, "kyoto": kyoto}[name](options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
