#!/usr/bin/env python3
"""What the collections promise, as ratios within one short run, with slack for a noisy machine.

Usage: ratios.py [--bench PATH] [--turns N]

PersistentDictionary beside libpmemobj's transactions, the collections beside the standard
library's, and two threads in lanes beside one. Slack: half of what `make bench` has to show
(Performance.md), or twice. A ratio that is missed is measured again, `turns` times at most; exit
status 1 if one is missed every time.
"""

import argparse
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
HASHMAP = ["hashmap", "--quick", "--json", "--no-pools", "--no-volatile"]
COLLECTIONS = ["collections", "--quick", "--json"]
LANES = ["lanes", "--quick", "--json", "--batch", "100"]
# Updates by batch, and the mix: at least so many times libpmemobj.
AT_LEAST = {("update", 1): 1.5, ("update", 100): 3.5, ("update", 1000): 4, ("update", 10000): 4,
            ("mix95", 1): 0.85}
# At most so many times the standard library's time.
AT_MOST = {"insert": 4, "lookup": 2, "iterate": 2.2}
TWO_THREADS_AT_LEAST = 0.85


def measure(bench, command):
    output = subprocess.run([bench, *command], check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def hashmap(bench):
    rates = {}
    for figure in measure(bench, HASHMAP):
        rates[figure["system"], figure["case"], figure["batch"]] = figure["median"]
    for (case, batch), floor in AT_LEAST.items():
        ours, theirs = (rates[system, case, batch] for system in ("dictionary", "pmdk"))
        yield f"{case} {batch} to libpmemobj", ours / theirs, floor, ours / theirs >= floor


def collections(bench):
    for figure in measure(bench, COLLECTIONS):
        ceiling = AT_MOST.get(figure["case"])
        if figure["unit"] == "times standard" and ceiling:
            ratio = figure["median"]
            yield f"{figure['case']} to standard", ratio, ceiling, ratio <= ceiling


def lanes(bench):
    for figure in measure(bench, LANES):
        if figure["unit"] == "times":
            ratio = figure["median"]
            yield figure["case"], ratio, TWO_THREADS_AT_LEAST, ratio >= TWO_THREADS_AT_LEAST


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", default=str(HERE / ".build/release/volip-bench"))
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    is_missed = False
    for part, count in ((hashmap, len(AT_LEAST)), (collections, len(AT_MOST)), (lanes, 1)):
        for turn in range(arguments.turns):
            rows = list(part(arguments.bench))
            if len(rows) != count:
                sys.exit(f"{part.__name__}: {len(rows)} figures instead of {count}")
            if all(row[3] for row in rows):
                break
        for name, ratio, limit, holds in rows:
            print(f"{name:28} {ratio:6.2f}  limit {limit:g}  {'holds' if holds else 'MISSED'}")
            is_missed = is_missed or not holds
    sys.exit(1 if is_missed else 0)


main()
