#!/usr/bin/env python3
"""memcached with commits: throughput and tail latency against the time between two commits.

  bench.py [--build DIR] [--quick] [--periods MS,...] [--rounds N] [-o FOLDER]

Debian's memcached, natively, natively with -e, and wrapped with commits every 0.1 to 100 ms on the
host (PAGEMAP_SCAN) and in guest mode (dirty bits); sets and 95 % reads, depth 1 and 64, zipf 0.99.
Medians of the rounds, which go through all cases in turn. Prints a table, with pages and lines for
each epoch, commit times and skipped epochs; writes memcached.json, and memcached.svg if matplotlib
(Debian: python3-matplotlib) is there. No two cases run at the same time.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


class Server:
    """One memcached, filled."""

    def __init__(self, options, load, system, period, threads):
        self.folder = tempfile.mkdtemp(prefix="volip-memcached-", dir="/dev/shm")
        self.load = load
        self.socket = f"{self.folder}/socket"
        command = ["memcached", "-s", self.socket, "-m", "64", "-t", str(threads)]
        if os.getuid() == 0:
            command += ["-u", "root"]
        if system != "native":
            command += ["-e", f"{self.folder}/cache"]
        if system in ("host", "guest"):
            run = [f"{options.build}/volip", "run", "--pmap", f"{self.folder}/cache"]
            run += ["--commit-every", f"{period * 1000:g}us"]
            command = run + (["--no-vm"] if system == "host" else []) + ["--"] + command
        self.log = open(f"{self.folder}/log", "w+")
        self.process = subprocess.Popen(
            command, stdout=self.log, stderr=self.log,
            env=dict(os.environ, VOLIP_PERSISTENCE="cache-line"))
        self.is_wrapped = system in ("host", "guest")
        subprocess.run([load, self.socket, "fill", "--keys", str(options.keys)], check=True)

    def counts(self):
        """Epochs and their work so far, as the program prints them on SIGUSR2."""
        if not self.is_wrapped:
            return None
        size = self.log.tell()
        self.process.send_signal(signal.SIGUSR2)
        for _ in range(200):
            time.sleep(0.01)
            self.log.seek(size)
            text = self.log.read()
            found = re.findall(r"epochs (\d+), empty (\d+), skipped (\d+), pages (\d+), "
                               r"lines (\d+), commit_us_mean (\d+)", text)
            if found:
                epochs, empty, skipped, pages, lines, mean = map(int, found[-1])
                return {"epochs": epochs, "empty": empty, "skipped": skipped, "pages": pages,
                        "lines": lines, "us": mean * epochs}
        return None

    def measure(self, options, workload):
        before = self.counts()
        answer = subprocess.run(
            [self.load, self.socket, "run", "--keys", str(options.keys), "--seconds",
             str(options.seconds), "--depth", str(workload["depth"]), "--sets",
             str(workload["sets"]), "--zipf", str(workload["zipf"])],
            check=True, capture_output=True, text=True).stdout.split()
        after = self.counts()
        figures = dict(zip(("rate", "p50", "p99"), map(float, answer)))
        if before and after:
            epochs = max(after["epochs"] - before["epochs"], 1)
            for name in ("pages", "lines", "us"):
                figures[name] = (after[name] - before[name]) / epochs
            figures["skipped"] = after["skipped"] - before["skipped"]
            figures["epochs"] = (after["epochs"] - before["epochs"]) / options.seconds
        return figures

    def stop(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder)


def cases(options):
    systems = [("native", 0), ("native -e", 0)]
    places = ["host"] + ["guest"] * os.access("/dev/kvm", os.W_OK)
    return systems + [(place, period) for place in places for period in options.periods]


def measure_all(options, load):
    workloads = [{"depth": depth, "sets": sets, "zipf": zipf}
                 for depth in (1, 64) for sets in (100, 5) for zipf in options.zipf]
    results = {}
    for number in range(options.rounds):
        for system, period in cases(options):
            server = Server(options, load, system, period, options.threads)
            for workload in workloads:
                key = (system, period, *workload.values())
                results.setdefault(key, []).append(server.measure(options, workload))
            server.stop()
            print(f"round {number + 1}: {system} {period or ''}", file=sys.stderr, flush=True)
    figures = []
    for (system, period, depth, sets, zipf), rounds in results.items():
        merged = {name: statistics.median(r.get(name, 0) for r in rounds) for name in rounds[0]}
        figures.append({"system": system, "period": period, "depth": depth, "sets": sets,
                        "zipf": zipf, **merged})
    return figures


def print_table(figures):
    print(f"{'depth':>5} {'sets':>4} {'zipf':>4} {'system':<10} {'ms':>5} {'ops/s':>8} "
          f"{'native':>6} {'p50 us':>8} {'p99 us':>8} {'epochs/s':>8} {'pages':>6} {'lines':>6} "
          f"{'us':>6} {'skipped':>7}")
    for figure in sorted(figures, key=lambda f: (f["depth"], -f["sets"], -f["zipf"])):
        native = next(f["rate"] for f in figures if f["system"] == "native" and all(
            f[name] == figure[name] for name in ("depth", "sets", "zipf")))
        wrapped = (f"{figure['epochs']:8.0f} {figure['pages']:6.0f} {figure['lines']:6.0f} "
                   f"{figure['us']:6.0f} {figure['skipped']:7.0f}" if "epochs" in figure else "")
        print(f"{figure['depth']:5} {figure['sets']:4} {figure['zipf']:4} "
              f"{figure['system']:<10} {figure['period'] or '':>5} {figure['rate']:8.0f} "
              f"{figure['rate'] / native:5.2f}x {figure['p50']:8.1f} {figure['p99']:8.1f} "
              f"{wrapped}")


def draw(figures, path):
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed (python3-matplotlib)", file=sys.stderr)
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    first = max(figure["zipf"] for figure in figures)
    drawn = [figure for figure in figures if figure["zipf"] == first]
    panels, axes = plt.subplots(2, 4, figsize=(16, 7), squeeze=False)
    for column, (depth, sets) in enumerate([(1, 100), (1, 5), (64, 100), (64, 5)]):
        here = [f for f in drawn if (f["depth"], f["sets"]) == (depth, sets)]
        for row, (name, unit) in enumerate([("rate", "operations a second"), ("p99", "p99, us")]):
            panel = axes[row][column]
            for system, style in (("host", "o-"), ("guest", "s--")):
                line = sorted((f for f in here if f["system"] == system),
                              key=lambda f: f["period"])
                panel.plot([f["period"] for f in line], [f[name] for f in line], style,
                           label=f"commits, {system}")
            for system, style in (("native", "k-"), ("native -e", "k:")):
                for figure in (f for f in here if f["system"] == system):
                    panel.axhline(figure[name], color=style[0], linestyle=style[1:], label=system)
            panel.set_xscale("log")
            panel.set_ylim(bottom=0)
            panel.set_xlabel("ms between commits")
            panel.set_ylabel(unit)
            panel.set_title(f"{sets} % sets, depth {depth}")
            panel.grid(alpha=0.3)
    axes[0][0].legend(fontsize="small")
    panels.tight_layout()
    panels.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", default=f"{ROOT}/.build/release")
    parser.add_argument("--quick", action="store_true", help="few keys, one short round")
    parser.add_argument("--periods", type=lambda text: [float(part) for part in text.split(",")],
                        default=[0.1, 0.5, 1, 5, 10, 100], help="milliseconds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--keys", type=int, default=500000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", default=f"{ROOT}/Benchmarks/results")
    options = parser.parse_args()
    options.zipf = [0.99, 0]
    if options.quick:
        options.rounds, options.seconds, options.keys, options.zipf = 1, 0.5, 50000, [0.99]
    os.makedirs(options.output, exist_ok=True)
    load = f"{options.output}/memcached-load"
    subprocess.run(["cc", "-O2", "-Wall", "-o", load, f"{HERE}/load.c", "-lm"], check=True)
    figures = measure_all(options, load)
    print_table(figures)
    with open(f"{options.output}/memcached.json", "w") as file:
        for figure in figures:
            file.write(json.dumps(figure) + "\n")
    draw(figures, f"{options.output}/memcached.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
