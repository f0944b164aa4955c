"""The cost of n rows with several kernels, in turn: each round starts `chaski bench --curve` and `--rows` once with each. Used by
bench-kernels.sh.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

# Names of the kernels in the picture.
LABELS = {"default": "Chaski"}

SHOWN = [1, 2, 3, 4, 6, 8, 12, 16, 32, 64]


def measure(options, kernels, what):
    command = [options.chaski, "bench", what, "-m", options.model, "-r", "1", "-o", "json", "-t", str(options.threads)]
    if what == "--curve":
        command += ["--depth", str(options.depth)]
    env = dict(os.environ)
    env.pop("CHASKI_KERNELS", None)
    if kernels != "default":
        env["CHASKI_KERNELS"] = kernels
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env)
    if ran.returncode != 0:
        sys.exit(f"error: {' '.join(command)} failed with {kernels}: {ran.stderr.strip()}")
    return json.loads(ran.stdout)


def figures(report):
    """Milliseconds by name: `c1`, `c2`, ... for batches of n rows; `pp512`, `tg128` for prefill and decoding."""
    out = {}
    for row in report.get("curve") or report["rows"]:
        out[row.get("test") or f"c{row['n_rows']}"] = row["samples_ms"][0]
    return out


def picture(title, curves):
    """All curves as an SVG."""
    width, height, left, bottom = 640, 360, 50, 40
    most = max(c for points in curves.values() for _, c in points)
    x = lambda n: left + (n - 1) / 31 * (width - left - 20)
    y = lambda c: height - bottom - (c - 0) / most * (height - bottom - 40)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
             f'<rect width="{width}" height="{height}" fill="white"/><text x="{left}" y="20">{title}</text>']
    for n in (1, 4, 8, 16, 32):
        parts.append(f'<text x="{x(n):.0f}" y="{height - 20}" text-anchor="middle">{n}</text>')
    parts.append(f'<text x="{width / 2:.0f}" y="{height - 4}" text-anchor="middle">rows in one batch</text>')
    for c in range(0, int(most) + 1, max(1, int(most) // 6)):
        parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{y(c):.1f}" y2="{y(c):.1f}" stroke="#ddd"/>'
                     f'<text x="{left - 8}" y="{y(c) + 4:.1f}" text-anchor="end">{c}</text>')
    for (name, points), colour in zip(curves.items(), ("#d62728", "#1f77b4", "#2ca02c", "#9467bd")):
        line = " ".join(f"{x(n):.1f},{y(c):.1f}" for n, c in points)
        n, c = points[-1]
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
                     f'<text x="{x(n) - 6:.0f}" y="{y(c) - 8:.0f}" text-anchor="end" fill="{colour}">{LABELS.get(name, name)}</text>')
    return "\n".join(parts + ["</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--chaski", "--model", "--commit", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--depth", type=int, default=256)
    parser.add_argument("--kernels", default="ggml,default")
    parser.add_argument("-t", "--threads", type=int, default=2)
    options = parser.parse_args()
    kinds = options.kernels.split(",")
    samples, machine = {kernels: {} for kernels in kinds}, {}
    with open(options.out + ".jsonl", "w", encoding="utf-8") as raw:
        for round_ in range(options.rounds):
            for kernels in kinds:
                for what in ("--curve", "--rows"):
                    report = measure(options, kernels, what)
                    machine[kernels] = report["machine"]
                    raw.write(json.dumps({"round": round_, "kernels": kernels, **report}) + "\n")
                    for name, ms in figures(report).items():
                        samples[kernels].setdefault(name, []).append(ms)
                print(f"round {round_ + 1}/{options.rounds}: {kernels}", file=sys.stderr)
    text = [f"# {Path(options.model).name}: rows in one batch, commit {options.commit}", "",
            f"`scripts/bench-kernels.sh --rounds {options.rounds} --depth {options.depth} --kernels {options.kernels} "
            f"-t {options.threads}`; medians, in brackets the least and the most.", ""]
    text += [f"- {kernels}: {machine[kernels]}" for kernels in kinds] + [""]
    median = {kernels: {name: statistics.median(ms) for name, ms in of.items()} for kernels, of in samples.items()}
    first = kinds[0]
    text += ["| |" + "".join(f" {kernels}, ms | c(n) |" for kernels in kinds) + f" {first} / last |",
             "|---|" + "---:|---:|" * len(kinds) + "---:|"]
    for name in [f"c{n}" for n in SHOWN] + ["pp512", "tg128"]:
        if name not in median[first]:
            continue
        cells = f"| {name[1:] + ' rows' if name[0] == 'c' else name} |"
        for kernels in kinds:
            ms, of = median[kernels][name], samples[kernels][name]
            ratio = f"{ms / median[kernels]['c1']:.2f}" if name[0] == "c" else ""
            cells += f" {ms:.1f} ({min(of):.1f} – {max(of):.1f}) | {ratio} |"
        text.append(cells + f" {median[first][name] / median[kinds[-1]][name]:.2f} |")
    Path(options.out + ".md").write_text("\n".join(text) + "\n", encoding="utf-8")
    curves = {kernels: [(n, of[f"c{n}"] / of["c1"]) for n in range(1, 33) if f"c{n}" in of] for kernels, of in median.items()}
    title = f"c(n), {Path(options.model).stem}, {options.depth} positions"
    Path(options.out + ".svg").write_text(picture(title, curves), encoding="utf-8")
    print(options.out + ".md")


if __name__ == "__main__":
    main()
