#!/usr/bin/env python3
"""Compares the speed of two builds of chaski, such as a tuned and a portable one: `chaski bench --curve` and `--rows` with each in
turn, the first one first in every second round. Prints a table: medians, and the median over the rounds of second / first, of
the same round. The exit code is 1 if the second build takes longer than allowed (`--slower`, per cent; the geometric mean of all rows).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path


def measure(binary, options):
    """Milliseconds by name (`4 rows`, `pp512`, `tg64`), and the machine in the program's words."""
    env = {name: value for name, value in os.environ.items() if name != "CHASKI_KERNELS"}
    figures = {}
    for arguments in (
        ["--curve", "--widths", "1,4,8,16,64", "--depth", "256"],
        ["--rows", "--pp", str(options.pp), "--tg", str(options.tg)],
    ):
        command = [binary, "bench", *arguments, "-m", options.model, "-r", "1", "-t", str(options.threads), "-o", "json"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        if done.returncode:
            sys.exit(f"error: {' '.join(command)}: {done.stderr.strip()}")
        report = json.loads(done.stdout)
        for row in report.get("curve") or report["rows"]:
            figures[row.get("test") or f"{row['n_rows']} rows"] = row["samples_ms"][0]
    return figures, report["machine"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("builds", nargs=2, metavar="CHASKI", help="the two programs; the first is the reference")
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--pp", type=int, default=512, help="tokens of the prompt to read [512]")
    parser.add_argument("--tg", type=int, default=64, help="tokens to generate [64]")
    parser.add_argument("--slower", type=float, default=3, help="how many per cent longer the second may take [3]")
    parser.add_argument("--raw-output", type=Path, help="write every measurement to this file, one JSON object per line")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    samples, machines, raw = ({}, {}), ["", ""], []
    for round_ in range(options.rounds):
        for build in (0, 1) if round_ % 2 == 0 else (1, 0):
            figures, machines[build] = measure(options.builds[build], options)
            raw.append(json.dumps({"build": build + 1, "round": round_ + 1, "machine": machines[build], "ms": figures}))
            for name, ms in figures.items():
                samples[build].setdefault(name, []).append(ms)
        print(f"round {round_ + 1} of {options.rounds}", file=sys.stderr, flush=True)
    if options.raw_output:
        options.raw_output.write_text("\n".join(raw) + "\n", encoding="utf-8")
    print(f"{Path(options.model).name}, {options.rounds} rounds, {options.threads} threads; medians, in brackets the least and the most.\n")
    print(f"- first: {machines[0]}\n- second: {machines[1]}\n\n| | first, ms | second, ms | second / first |\n|---|---:|---:|---:|")
    ratios = []
    for name in samples[0]:
        first, second = samples[0][name], samples[1][name]
        ratios.append(statistics.median(b / a for a, b in zip(first, second)))
        cells = [f"{statistics.median(ms):.2f} ({min(ms):.2f} – {max(ms):.2f})" for ms in (first, second)]
        print(f"| {name} | {cells[0]} | {cells[1]} | {ratios[-1]:.3f} |")
    mean = statistics.geometric_mean(ratios)
    print(f"| geometric mean | | | {mean:.3f} |")
    if mean > 1 + options.slower / 100:
        sys.exit(f"error: the second build takes {100 * (mean - 1):.1f}% longer; {options.slower:g}% is allowed")


if __name__ == "__main__":
    main()
