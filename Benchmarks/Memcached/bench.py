#!/usr/bin/env python3
"""memcached with commits: throughput and tail latency against the time between two commits.

  bench.py [--build DIR] [--quick] [--periods MS,...] [--rounds N] [--only CASE,...] [--add]

Debian's memcached, natively, natively with -e, and wrapped with commits every 0.1 to 100 ms on the
host (PAGEMAP_SCAN) and in guest mode (dirty bits); sets and 95 % reads, depth 1 and 64, zipf 0.99
and uniform. Medians of the rounds: all servers of a place are there and wait, and each is measured
for a fraction of a second in each round, so that what else the machine does hits all alike. The
client has a processor of its own, and the server the others if it has threads for no more (in guest
mode all: the thread that makes its system calls wants one). Prints
a table, with pages, lines, exits and page faults for each epoch, and draws memcached.svg if
matplotlib (Debian: python3-matplotlib) is there. A case is native, native-e, host:MS or guest:MS;
with --add what earlier runs found counts, too; --only none measures nothing.
"""

import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
# What a write to an armed page and an exit would cost on real virtualization, microseconds.
TRAP, EXIT = 0.5, 1.5


class Server:
    """One memcached, filled."""

    def __init__(self, options, place, system, period, threads):
        self.folder = tempfile.mkdtemp(prefix="volip-memcached-", dir="/dev/shm")
        self.options = options
        self.socket = f"{self.folder}/socket"
        command = ["memcached", "-s", self.socket, "-m", "64", "-t", str(threads)]
        if os.getuid() == 0:
            command += ["-u", "root"]
        if system != "native":
            command += ["-e", f"{self.folder}/cache", "-o", "no_lru_crawler"]
        self.is_wrapped = system in ("host", "guest")
        if self.is_wrapped:
            run = [f"{options.build}/volip", "run", "--pmap", f"{self.folder}/cache"]
            run += ["--commit-every", f"{period * 1000:g}us"]
            command = run + (["--no-vm"] if system == "host" else []) + ["--"] + command
        self.statistics = None
        processors = sorted(os.sched_getaffinity(0))
        self.client = {processors[-1]}
        own = processors[:-1] if place == "host" and threads < len(processors) else processors
        self.process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, own)), *command], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env=dict(os.environ, VOLIP_PERSISTENCE="cache-line"))
        subprocess.run([options.load, self.socket, "fill", "--keys", str(options.keys)], check=True)

    def statistics_file(self):
        """What `volip stat` reads, too."""
        folder = f"/proc/{self.process.pid}/fd"
        return next(f"{folder}/{name}" for name in os.listdir(folder)
                    if "volip-statistics" in os.readlink(f"{folder}/{name}"))

    def counts(self):
        """Epochs and their work so far."""
        if not self.is_wrapped:
            return {}
        self.statistics = self.statistics or self.statistics_file()
        with open(self.statistics, "rb") as file:
            words = struct.unpack("9Q", file.read(72))
        with open(f"/proc/{self.process.pid}/stat") as file:
            faults = int(file.read().rpartition(")")[2].split()[7])
        names = ("epochs", "empty", "skipped", "pages", "lines", "microseconds", "exits")
        return {"faults": faults, **dict(zip(names, words[2:]))}

    def measure(self, workload):
        before = self.counts()
        arguments = [text for name, value in workload.items() for text in (f"--{name}", str(value))]
        answer = subprocess.run(
            [self.options.load, self.socket, "run", "--keys", str(self.options.keys), "--seconds",
             str(self.options.seconds), *arguments],
            preexec_fn=lambda: os.sched_setaffinity(0, self.client), check=True,
            capture_output=True, text=True).stdout.split()
        after = self.counts()
        figures = dict(zip(("rate", "p50", "p99", "refused"), map(float, answer)))
        if after:
            count = max(after["epochs"] - before["epochs"], 1)
            for name in ("pages", "lines", "exits", "faults", "microseconds"):
                figures[name] = (after[name] - before[name]) / count
            figures["skipped"] = after["skipped"] - before["skipped"]
            figures["epochs"] = count / self.options.seconds
        return figures

    def stop(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder)


def cases(options, place):
    found = [("native", 0), ("native-e", 0)] + [(place, period) for period in options.periods]
    if options.only is not None:
        found = [(system, period) for system, period in found
                 if (f"{system}:{period:g}" if period else system) in options.only]
    return found


def measure_place(options, place, raw):
    servers = [(system, period, Server(options, place, system, period, options.threads))
               for system, period in cases(options, place)]
    for workload in options.workloads:
        for number in range(-1, options.rounds):
            for system, period, server in servers:
                figures = server.measure(workload)
                if number < 0:  # pages are touched for the first time
                    continue
                found = {"system": system, "period": period, "threads": options.threads,
                         **workload, "place": place, **figures}
                raw.write(json.dumps(found) + "\n")
        raw.flush()
        print(f"{place}: {workload}", file=sys.stderr, flush=True)
    for _, _, server in servers:
        server.stop()


def measure_all(options, raw):
    for place in ["host"] + ["guest"] * os.access("/dev/kvm", os.W_OK):
        if place in options.places:
            measure_place(options, place, raw)


KEYS = ("system", "period", "threads", "depth", "sets", "zipf")


def medians(path):
    groups = {}
    with open(path) as file:
        for line in file:
            found = json.loads(line)
            groups.setdefault(tuple(found[key] for key in KEYS), []).append(found)
    figures = []
    for key, runs in groups.items():
        figure = dict(zip(KEYS, key))
        for name in runs[0]:
            if name not in (*KEYS, "place"):
                figure[name] = statistics.median(run[name] for run in runs)
        # Native beside it, not that of another time.
        places = {run["place"] for run in runs}
        native = [run["rate"] for run in groups.get(("native", 0, *key[2:]), [])
                  if run["place"] in places]
        explain(figure, statistics.median(native) if native else None)
        figures.append(figure)
    return figures


def explain(figure, native):
    """What an epoch costs beyond the native time of its requests, for each of its pages; and the
    ratio to native where a first write and an exit cost what they do on real virtualization."""
    if native is None:
        return
    figure["ratio"] = figure["rate"] / native
    if not figure.get("epochs"):
        return
    requests = figure["rate"] / figure["epochs"]
    alone = requests / native * 1e6
    figure["lost"] = requests / figure["rate"] * 1e6 - alone
    if figure["pages"]:
        figure["lost_page"] = figure["lost"] / figure["pages"]
    # In guest mode nobody counts traps: at most one for each page that is compared.
    traps = figure["faults"] if figure["system"] == "host" else figure["pages"]
    cost = figure["microseconds"] + traps * TRAP + figure["exits"] * EXIT
    figure["real"] = alone / (alone + cost)


COLUMNS = [("system", "system", "<8"), ("ms", "period", ">5g"), ("ops/s", "rate", ">8.0f"),
           ("native", "ratio", ">6.2f"), ("p50 us", "p50", ">7.1f"), ("p99 us", "p99", ">7.1f"),
           ("epochs/s", "epochs", ">8.0f"), ("pages", "pages", ">6.0f"),
           ("lines", "lines", ">6.0f"), ("exits", "exits", ">6.1f"),
           ("faults", "faults", ">6.1f"), ("commit us", "microseconds", ">9.0f"),
           ("lost us", "lost", ">8.0f"), ("a page", "lost_page", ">6.2f"),
           ("skipped", "skipped", ">7.0f"), ("refused", "refused", ">7.0f"),
           ("at 0.5/1.5", "real", ">10.2f")]


def print_table(figures):
    order = {"native": 0, "native-e": 1, "host": 2, "guest": 3}
    figures.sort(key=lambda f: (f["threads"], f["depth"], -f["sets"], -f["zipf"],
                                order[f["system"]], f["period"]))
    last = None
    for figure in figures:
        group = tuple(figure[key] for key in KEYS[2:])
        if group != last:
            print("\n-t {}, depth {}, {} % sets, zipf {}".format(*group))
            print(" ".join(format(title, kind[0] + kind[1:].rstrip("gf").split(".")[0])
                           for title, _, kind in COLUMNS))
        last = group
        print(" ".join(
            format(figure[name], kind) if name in figure and figure[name] != 0 or name == "system"
            else " " * int(kind[1:].rstrip("gf").split(".")[0]) for _, name, kind in COLUMNS))


def draw(figures, path):
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed (python3-matplotlib)", file=sys.stderr)
        return
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    import matplotlib.pyplot as plt
    first = {key: pick(figure[key] for figure in figures)
             for key, pick in (("threads", min), ("zipf", max))}
    drawn = [f for f in figures if all(f[key] == value for key, value in first.items())]
    columns = [(1, 100), (1, 5), (64, 100), (64, 5)]
    panels, axes = plt.subplots(2, 4, figsize=(16, 7), squeeze=False)
    for column, (depth, sets) in enumerate(columns):
        here = [f for f in drawn if (f["depth"], f["sets"]) == (depth, sets)]
        for row, (name, unit) in enumerate([("rate", "operations a second"), ("p99", "p99, us")]):
            panel = axes[row][column]
            for system, style in (("host", "o-"), ("guest", "s--")):
                line = sorted((f for f in here if f["system"] == system),
                              key=lambda f: f["period"])
                panel.plot([f["period"] for f in line], [f[name] for f in line], style,
                           label=f"commits, {system}")
                if row == 0:
                    for f in line:
                        panel.annotate(f"{f['pages']:.0f} p, {f['exits']:.0f} e",
                                       (f["period"], f[name]), fontsize=6, ha="center",
                                       xytext=(0, 5), textcoords="offset points")
            for system, style in (("native", "k-"), ("native-e", "k:")):
                for figure in (f for f in here if f["system"] == system):
                    panel.axhline(figure[name], color=style[0], linestyle=style[1:], label=system)
            panel.set_xscale("log")
            panel.set_ylim(bottom=0)
            panel.set_xlabel("ms between commits")
            panel.set_ylabel(unit)
            panel.set_title(f"{sets} % sets, depth {depth}")
            panel.grid(alpha=0.3)
    axes[0][0].legend(fontsize="small")
    panels.suptitle("memcached -t {threads}, zipf {zipf}; p: pages, e: exits of an epoch".format(
        **first))
    panels.tight_layout()
    panels.savefig(path)


def main():
    def numbers(text):
        return [float(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", default=f"{ROOT}/.build/release")
    parser.add_argument("--quick", action="store_true", help="few keys, one short round")
    parser.add_argument("--periods", type=numbers, default=[0.1, 0.5, 1, 5, 10, 100],
                        help="milliseconds")
    parser.add_argument("--zipf", type=numbers, default=[0.99, 0], help="0: uniform")
    parser.add_argument("--depth", type=numbers, default=[1, 64])
    parser.add_argument("--sets", type=numbers, default=[100, 5], help="percent")
    parser.add_argument("--places", type=lambda text: text.split(","), default=["host", "guest"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--keys", type=int, default=500000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", type=lambda text: text.split(","), help="cases")
    parser.add_argument("--add", action="store_true", help="to what earlier runs found")
    parser.add_argument("-o", "--output", default=f"{ROOT}/Benchmarks/results")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.keys, options.zipf = 3, 50000, [0.99]
    options.workloads = [{"depth": int(depth), "sets": int(sets), "zipf": zipf}
                         for depth in options.depth for sets in options.sets
                         for zipf in options.zipf]
    os.makedirs(options.output, exist_ok=True)
    options.load = f"{options.output}/memcached-load"
    subprocess.run(["cc", "-O2", "-Wall", "-o", options.load, f"{HERE}/load.c", "-lm"], check=True)
    path = f"{options.output}/memcached.json"
    with open(path, "a" if options.add else "w") as raw:
        measure_all(options, raw)
    figures = medians(path)
    print_table(figures)
    draw(figures, f"{options.output}/memcached.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
