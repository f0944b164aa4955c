"""Runs models with full contexts and compares peak memory with the prediction; see scripts/memory-fit.sh."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST_DIFFERENCE = 0.10
# Context left for the answer, in tokens.
N_LEFT = 40
N_PREDICT = 16


def text(n_bytes):
    """The first `n_bytes` bytes of the project's own prose, repeated if necessary."""
    words = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("ARCHITECTURE.md", "README.md"))
    return (words * (n_bytes // len(words) + 1))[:n_bytes]


def peak(command):
    """Runs a command. Returns its status, its stderr, and its peak resident memory in bytes."""
    with tempfile.TemporaryFile("w+") as stderr:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        stderr.seek(0)
        unit = 1 if sys.platform == "darwin" else 1024
        return child.returncode, stderr.read(), usage.ru_maxrss * unit


def measured(chaski, model, n_ctx):
    common = [chaski, "run", "-m", model, "--raw", "--no-prompt-cache", "--no-learn", "-c", str(n_ctx)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as prompt:
        # The error for a prompt that is too long tells its number of tokens.
        n_bytes = 8 * n_ctx
        prompt.write(text(n_bytes))
        prompt.flush()
        _, refusal, _ = peak([*common, "-f", prompt.name, "-n", "1"])
        n_tokens = int(re.search(r"the prompt has (\d+) tokens", refusal).group(1))
        prompt.seek(0)
        prompt.truncate()
        prompt.write(text(int(n_bytes * (n_ctx - N_LEFT) / n_tokens * 0.98)))
        prompt.flush()
        code, stderr, bytes_ = peak([*common, "-f", prompt.name, "-n", str(N_PREDICT)])
    if code != 0:
        sys.exit(f"error: {Path(model).name}: {stderr}")
    n_prompt = int(re.search(r"prompt: (\d+)", stderr).group(1))
    return n_prompt, bytes_


def main():
    chaski, contexts, models = sys.argv[1], [int(n) for n in sys.argv[2].split()], sys.argv[3:]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [f"# scripts/memory-fit.sh -c '{sys.argv[2]}', commit {commit.stdout.strip()}; MiB"]
    lines.append("model\tn_ctx\tn_prompt\tweights\tcopies\tcache\tcompute\tprogram\tpredicted\tpeak\tdifference")
    print(lines[-1], flush=True)
    is_far = False
    for model in models:
        fit = subprocess.run([chaski, "models", "fit", "--json", model], capture_output=True, check=True)
        fits = json.loads(fit.stdout)["fits"]
        for n_ctx in contexts:
            known = [fit for fit in fits if fit["n_ctx"] == n_ctx]
            if not known:
                continue
            predicted = known[0]
            n_prompt, bytes_ = measured(chaski, model, n_ctx)
            parts = [predicted[name] >> 20 for name in ("weights", "copies", "cache", "compute", "program", "total_bytes")]
            difference = predicted["total_bytes"] / bytes_ - 1
            is_far |= abs(difference) > MOST_DIFFERENCE
            row = [Path(model).name, n_ctx, n_prompt, *parts, bytes_ >> 20, f"{difference:+.1%}"]
            lines.append("\t".join(map(str, row)))
            print(lines[-1], flush=True)
    (ROOT / "bench/results").mkdir(parents=True, exist_ok=True)
    (ROOT / "bench/results/memory-fit.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit("error: some predictions are off by more than 10%" if is_far else 0)


main()
