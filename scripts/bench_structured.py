"""Measures answers that must match a JSON schema: `chaski batch` over 200 records (the job `extract` of bench_batch.py), and
`chaski run` over the first of them, with and without drafts in turn. Checks each answer: valid JSON, exactly the required
keys, and their types. Used by bench-structured.sh.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_batch import extract_prompts

FIELDS = {"name": str, "city": str, "order": str, "date": str, "item": str, "count": int}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 60},
        "city": {"type": "string", "maxLength": 40},
        "order": {"type": "string", "pattern": "^[0-9]{5}$"},
        "date": {"type": "string", "format": "date"},
        "item": {"type": "string", "maxLength": 40},
        "count": {"type": "integer", "minimum": 1, "maximum": 99},
    },
    "required": list(FIELDS),
    "additionalProperties": False,
}


def is_valid(text):
    try:
        value = json.loads(text)
    except ValueError:
        return False
    types = isinstance(value, dict) and list(value) == list(FIELDS)
    types = types and all(type(value[name]) is kind for name, kind in FIELDS.items())
    return types and re.fullmatch("[0-9]{5}", value["order"]) is not None and 1 <= value["count"] <= 99


def call(command):
    start = time.monotonic()
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ran.returncode != 0:
        sys.exit(f"error: {' '.join(command[:2])} failed: {ran.stderr.strip()}")
    return ran.stdout, time.monotonic() - start


def batch(options, prompts, is_drafted, folder):
    """Runs one whole command. Returns tokens, seconds, and the number of valid answers."""
    lines, results = Path(folder, "in.jsonl"), Path(folder, f"out-{is_drafted}-{time.monotonic_ns()}.jsonl")
    form = {"type": "json_schema", "json_schema": {"name": "order", "schema": SCHEMA}}
    lines.write_text("".join(json.dumps({"prompt": prompt, "response_format": form}) + "\n" for prompt in prompts))
    command = [options.chaski, "batch", "-m", options.model, "-i", str(lines), "-o", str(results), "-n", "160",
               "--temp", "0", "-t", str(options.threads), "-q"]
    _, seconds = call(command + ([] if is_drafted else ["--no-drafts"]))
    bodies = [json.loads(line)["response"]["body"] for line in open(results, encoding="utf-8")]
    valid = sum(is_valid(body["choices"][0]["message"]["content"]) for body in bodies)
    return sum(body["usage"]["completion_tokens"] for body in bodies), seconds, valid, len(bodies)


def runs(options, prompts, is_drafted, folder):
    """Runs one command per prompt. Times only decoding, because loading takes longer."""
    Path(folder, "schema.json").write_text(json.dumps(SCHEMA))
    tokens = seconds = valid = 0
    for prompt in prompts:
        command = [options.chaski, "run", "-m", options.model, "-p", prompt, "--json-schema-file", f"{folder}/schema.json",
                   "-n", "160", "--temp", "0", "-t", str(options.threads), "--json", "-q", "--no-learn",
                   "--drafter", "auto" if is_drafted else "none"]
        answer = json.loads(call(command)[0])
        tokens += answer["timings"]["predicted_n"]
        seconds += answer["timings"]["predicted_ms"] / 1e3
        valid += is_valid(answer["text"])
    return tokens, seconds, valid, len(prompts)


def main(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--chaski", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--n-prompts", type=int, default=200)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("-r", "--repetitions", type=int, default=3)
    parser.add_argument("-t", "--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    prompts = extract_prompts(options.n_prompts)
    is_all_valid = True
    ratios = {"batch": [], "run": []}
    print("| command | drafts | documents | valid | tokens | seconds | tokens/s |")
    print("|---|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, work, some in [("batch", batch, prompts), ("run", runs, prompts[:options.runs])]:
            for repetition in range(options.repetitions):
                rates = {}
                for is_drafted in [True, False] if repetition % 2 else [False, True]:
                    tokens, seconds, valid, n = work(options, some, is_drafted, folder)
                    is_all_valid &= valid == n
                    rates[is_drafted] = tokens / seconds
                    drafts = "yes" if is_drafted else "no"
                    print(f"| {name} | {drafts} | {n} | {valid} | {tokens} | {seconds:.1f} | {tokens / seconds:.1f} |", flush=True)
                ratios[name].append(rates[True] / rates[False])
    print("\nWith drafts over without, the median of neighbours, the least and the greatest: " + "; ".join(
        f"{name} {statistics.median(of):.3f} ({min(of):.3f} to {max(of):.3f})" for name, of in ratios.items()))
    return 0 if is_all_valid else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
