#!/usr/bin/env python3
"""Draws what volip-bench measured: plot.py results/latest.json -o results

Reads JSON lines and writes an SVG for each of these that it finds figures for: hashmap.svg (updates
by batch size, every system), trackers.svg (what a tracker's pieces cost), commit.svg (time of pend
by dirty pages). Needs matplotlib (Debian: python3-matplotlib).
"""

import argparse
import collections
import json
import pathlib
import sys

try:
    import matplotlib
except ImportError:
    sys.exit("no pictures: matplotlib is not installed (python3-matplotlib)")
matplotlib.use("Agg")  # no display needed
import matplotlib.pyplot as plt


def label(figure):
    if figure["tracker"] == "none":
        return figure["system"]
    retain = "" if figure["retain"] in ("none", "0") else ", retained"
    return f"{figure['mode']}, {figure['tracker']}{retain}"


def lines(axes, figures, scale):
    """A line for each system, over batch sizes, with the least and the most of each point."""
    systems = collections.defaultdict(list)
    for figure in figures:
        systems[label(figure)].append(figure)
    for name, points in systems.items():
        points.sort(key=lambda figure: figure["batch"])
        x = [figure["batch"] for figure in points]
        axes.fill_between(x, [figure["min"] / scale for figure in points],
                          [figure["max"] / scale for figure in points], alpha=0.12)
        style = "--" if name.startswith("guest") else "-"
        axes.plot(x, [figure["median"] / scale for figure in points], style, marker="o",
                  markersize=4, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))


def hashmap(figures, path):
    _, axes = plt.subplots(figsize=(10, 5))
    lines(axes, [figure for figure in figures if figure["case"] == "update"], 1000)
    axes.set_xlabel("updates a section")
    axes.set_ylabel("thousand updates a second")
    axes.set_title("Updates of a hash map, uniform keys, one thread: median, min and max")
    save(path)


def commit(figures, path):
    _, axes = plt.subplots(figsize=(10, 5))
    lines(axes, [figure for figure in figures if figure["case"] == "pend"], 1)
    axes.set_xlabel("pages that the section wrote, one line of 64 bytes in each")
    axes.set_ylabel("us")
    axes.set_title("Time of pend, every page armed again")
    save(path)


def trackers(figures, path):
    parts = ["first write a page", "harvest a page", "re-arm and flush a page"]
    figures = [figure for figure in figures if figure["case"] in parts]
    most = max(figure["batch"] for figure in figures)
    figures = [figure for figure in figures if figure["batch"] == most]
    names = list(dict.fromkeys(map(label, figures)))
    _, axes = plt.subplots(figsize=(10, 4))
    for place, part in enumerate(parts):
        medians = {label(f): f["median"] / 1000 for f in figures if f["case"] == part}
        axes.barh([i + (place - 1) * 0.26 for i in range(len(names))],
                  [medians.get(name, 0) for name in names], 0.24, label=part)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("us")
    axes.set_title(f"What a written page costs, {most} pages a section")
    axes.legend(fontsize="small")
    axes.grid(axis="x", alpha=0.3)
    save(path)


def save(path):
    plt.tight_layout()
    plt.savefig(path)
    plt.close()
    print(f"drawn: {path}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=pathlib.Path, help="JSON lines")
    parser.add_argument("-o", "--output", type=pathlib.Path, default=pathlib.Path("."))
    arguments = parser.parse_args()
    benches = collections.defaultdict(list)
    for file in arguments.files:
        for line in file.read_text().splitlines():
            if line.startswith("{"):
                figure = json.loads(line)
                benches[figure["bench"]].append(figure)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for bench, draw in (("hashmap", hashmap), ("primitives", trackers), ("commit", commit)):
        if benches[bench]:
            name = {"primitives": "trackers"}.get(bench, bench)
            draw(benches[bench], arguments.output / f"{name}.svg")


if __name__ == "__main__":
    main()
