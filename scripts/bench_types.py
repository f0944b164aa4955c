"""Every weight type with ggml's kernels and with Chaski's: what 1 and 16 rows cost, and how far the logits are apart. Used by
`bench-kernels.sh --types`.

Each type is a model requantized to it, which is deleted afterwards. A run with `--only` adds to the records of runs before it, so that
the whole can be measured in pieces; the table is made of all records.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

# The small model's widths are not multiples of 256, the block size of the large list.
SMALL = ["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl", "mxfp4"]
LARGE = ["q6_K", "q5_K", "q4_K", "q3_K", "q2_K", "iq4_xs"]
MANY = 256


def run(command, kernels="default"):
    env = dict(os.environ)
    env.pop("CHASKI_KERNELS", None)
    if kernels != "default":
        env["CHASKI_KERNELS"] = kernels
    ran = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env)
    if ran.returncode != 0:
        sys.exit(f"error: {' '.join(map(str, command))} failed with {kernels}: {ran.stderr.strip()}")
    return ran.stdout


def times(options, model):
    """Milliseconds of every sample, by kernels and rows; and the machine."""
    samples = {"ggml": {}, "default": {}}
    for _ in range(options.rounds):
        for kernels, of in samples.items():
            report = json.loads(run([options.chaski, "bench", "--curve", "--widths", "1,16", "-m", model, "-r", 3, "-o", "json",
                                     "-t", options.threads], kernels))
            for row in report["curve"]:
                of.setdefault(str(row["n_rows"]), []).extend(row["samples_ms"])
    return samples, report["machine"]


def distances(options, model, folder, one_row_positions):
    """Distances between logits: by name, mean KL divergence, share of equal greedy tokens, and positions."""
    def logits(model, kernels, rows, positions):
        out = folder / f"{kernels}-{rows}-{Path(model).stem}.logits"
        n_vocab = run([options.examples / "accuracy", "logits", model, options.text, positions, rows, out], kernels).strip()
        return out, n_vocab

    def compare(a, b):
        line = run([options.examples / "accuracy", "compare", a, b, n_vocab])
        found = re.match(r"(\d+) positions: KL mean (\S+), .*argmax equal (\S+)%", line)
        return {"positions": int(found[1]), "kl": float(found[2]), "equal": float(found[3])}

    many, n_vocab = logits(model, "ggml", MANY, options.positions)
    ours, _ = logits(model, "default", MANY, options.positions)
    one, _ = logits(model, "ggml", 1, one_row_positions)
    found = {"ours": compare(many, ours), "ggml_one_row": compare(many, one)}
    one.unlink()
    # The same weights as floats, which both kinds of kernels approximate.
    exact_model = folder / "exact.gguf"
    run([options.examples / "requantize", model, exact_model, "f32"])
    exact, _ = logits(exact_model, "ggml", MANY, one_row_positions)
    exact_model.unlink()
    found |= {"exact_ours": compare(exact, ours), "exact_ggml": compare(exact, many)}
    for path in (many, ours, exact):
        path.unlink()
    return found


def measure(options, name):
    large = name in LARGE
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        folder = Path(folder)
        model = folder / f"{name}.gguf"
        base = options.large if large else options.small
        run([options.examples / "requantize", base, model, name])
        record = {"type": name, "model": Path(base).stem, "commit": options.commit, "bytes": model.stat().st_size}
        record["times"], record["machine"] = times(options, model)
        record["distances"] = distances(options, model, folder, options.one_row_positions)
    return record


def table(options, records):
    text = [f"# Every weight type, commit {options.commit}", "",
            f"`scripts/bench-kernels.sh --types --rounds {options.rounds} --positions {options.positions} --one-row-positions "
            f"{options.one_row_positions} -t {options.threads}` on {records[0]['machine']}. Models: a quantized one, quantized again with every matrix of one "
            "type (blocks of 256 columns do not fit the small one).", "",
            "Time of 1 and of 16 rows at 256 positions in ms: medians, both kernels in turn, in brackets the least and the most.", "",
            "| type | model | 1 row, ggml | Chaski | ggml / Chaski | 16 rows, ggml | Chaski | ggml / Chaski |",
            "|---|---|---:|---:|---:|---:|---:|---:|"]
    for record in records:
        cells = [record["type"], record["model"]]
        for rows in ("1", "16"):
            ggml, ours = (record["times"][kernels][rows] for kernels in ("ggml", "default"))
            cells += [f"{statistics.median(of):.1f} ({min(of):.1f} – {max(of):.1f})" for of in (ggml, ours)]
            cells.append(f"{statistics.median(ggml) / statistics.median(ours):.2f}")
        text.append("| " + " | ".join(cells) + " |")
    text += ["", "Mean KL divergence and equal greedy decisions, in brackets the positions. `ggml, 1 row`: ggml's kernels for one row against its own for "
             f"{MANY}. `exact`: ggml's kernels on the same weights as F32, so that only the products differ.", "",
             f"| type | Chaski – ggml, {MANY} rows | ggml, 1 row – {MANY} rows | exact – Chaski | exact – ggml |", "|---|---:|---:|---:|---:|"]
    for record in records:
        cells = [record["type"]]
        for name in ("ours", "ggml_one_row", "exact_ours", "exact_ggml"):
            d = record["distances"][name]
            cells.append(f"{d['kl']:.1e}, {d['equal']:.2f}% ({d['positions']})")
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--chaski", "--examples", "--small", "--large", "--text", "--commit", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--positions", type=int, default=2000)
    parser.add_argument("--one-row-positions", type=int, default=500)
    parser.add_argument("--only", default=",".join(SMALL + LARGE))
    parser.add_argument("--scratch", help="where the models are written for a while: up to 8 GB")
    parser.add_argument("-t", "--threads", type=int, default=2)
    options = parser.parse_args()
    options.examples = Path(options.examples)
    raw = Path(options.out + ".jsonl")
    records = [json.loads(line) for line in raw.read_text().splitlines()] if raw.exists() else []
    for name in options.only.split(","):
        if name not in SMALL + LARGE:
            sys.exit(f"error: {name} is none of {', '.join(SMALL + LARGE)}")
        print(name, file=sys.stderr)
        records = [record for record in records if record["type"] != name] + [measure(options, name)]
        records.sort(key=lambda record: (SMALL + LARGE).index(record["type"]))
        raw.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        Path(options.out + ".md").write_text(table(options, records), encoding="utf-8")
    print(options.out + ".md")


if __name__ == "__main__":
    main()
