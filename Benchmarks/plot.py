#!/usr/bin/env python3
"""Draws the hash map table as a bar chart: volip-bench hashmap --json | plot.py -o hashmap.svg

Reads JSON lines from files or standard input, takes the hashmap figures from them, and writes a
PNG or SVG, by the name's ending. Needs matplotlib (pip install matplotlib).
"""

import argparse
import fileinput
import json

import matplotlib

matplotlib.use("Agg")  # no display needed
import matplotlib.pyplot as plt


def column(figure):
    return f"upd{figure['batch']}" if figure["case"] == "update" else figure["case"]


def row(figure):
    if figure["tracker"] == "none":
        return figure["system"]
    return f"{figure['system']}, {figure['tracker']}, retain {figure['retain']}"


def read(files):
    lines = (line.strip() for line in fileinput.input(files))
    figures = (json.loads(line) for line in lines if line.startswith("{"))
    return [figure for figure in figures if figure["bench"] == "hashmap"]


def draw(figures, output):
    columns = list(dict.fromkeys(map(column, figures)))
    rows = list(dict.fromkeys(map(row, figures)))
    width = 0.8 / len(rows)
    _, axes = plt.subplots(figsize=(11, 5))
    for place, name in enumerate(rows):
        mine = {column(figure): figure for figure in figures if row(figure) == name}
        present = [c for c in columns if c in mine]
        positions = [columns.index(c) + (place - (len(rows) - 1) / 2) * width for c in present]
        medians = [mine[c]["median"] / 1000 for c in present]
        below = [(mine[c]["median"] - mine[c]["min"]) / 1000 for c in present]
        above = [(mine[c]["max"] - mine[c]["median"]) / 1000 for c in present]
        axes.bar(positions, medians, width, yerr=[below, above], capsize=2, label=name)
    axes.set_yscale("log")
    axes.set_ylabel("thousand updates/s (mix95: operations)")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_title("Hash map, uniform random updates, one thread: median, min and max")
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3)
    axes.grid(axis="y", alpha=0.3)
    plt.tight_layout()
    plt.savefig(output, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="JSON lines; standard input when none are given")
    parser.add_argument("-o", "--output", default="hashmap.svg", help="name ending in .png or .svg")
    arguments = parser.parse_args()
    figures = read(arguments.files)
    if not figures:
        parser.error("no hashmap figures in the input")
    draw(figures, arguments.output)


if __name__ == "__main__":
    main()
