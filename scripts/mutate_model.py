"""Runs damaged copies of a model; see scripts/mutate-model.sh."""

import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

TIMEOUT_S = 60
# Share of mutations in the header, and share of cuts.
SHARE_HEADER, SHARE_CUT = 0.85, 0.1
# Most of a header is vocabulary; the fields before and after it matter more.
N_FIRST, N_LAST = 2048, 24576


def header_bytes(data):
    """Roughly where the weights start: after the name of the last tensor."""
    return max(data.find(b"output_norm.weight"), data.rfind(b".weight", 0, len(data) // 2)) + 64


def mutate(path, original, n_header, rng):
    """Damages the file at `path`. Returns what it did, and how `restore` undoes it."""
    size = len(original)
    if rng.random() < SHARE_CUT:
        n = rng.randrange(n_header if rng.random() < 0.5 else size)
        with open(path, "r+b") as file:
            file.truncate(n)
        return f"cut to {n} bytes", (n, size)
    header = rng.choice([(0, N_FIRST), (0, n_header), (max(0, n_header - N_LAST), n_header)])
    at = rng.randrange(*header) if rng.random() < SHARE_HEADER else rng.randrange(size)
    old = original[at]
    new = rng.choice([old ^ (1 << rng.randrange(8)), rng.randrange(256), 0, 0xFF])
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(bytes([new]))
    return f"byte {at}: {old:#04x} -> {new:#04x}", (at, at + 1)


def restore(path, original, damaged):
    with open(path, "r+b") as file:
        file.seek(damaged[0])
        file.write(original[damaged[0] : damaged[1]])


def verdict(chaski, path, home):
    """Runs the model. Returns how the run ended, and what is wrong with that, if anything."""
    command = [chaski, "run", "-m", path, "-p", "hi", "-n", "1", "-c", "256", "-t", "1", "-q", "--no-learn", "--no-prompt-cache"]
    env = {"HOME": home, "PATH": "/usr/bin:/bin"}
    try:
        ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, env=env, check=False)
    except subprocess.TimeoutExpired:
        return "hang", f"no end after {TIMEOUT_S} s"
    stderr = ran.stderr.decode("utf-8", "replace")
    lines = [line for line in stderr.splitlines() if not line.startswith(("hint: ", "notice: "))]
    if ran.returncode < 0:
        return f"signal {-ran.returncode}", stderr[-2000:]
    if any(ord(char) < 32 and char != "\n" for char in stderr):
        return "control characters", stderr[-2000:]
    if ran.returncode == 0:
        return ("answered", None) if not lines else ("extra output", stderr[-2000:])
    if len(lines) != 1 or not lines[0].startswith("error: ") or ran.stdout:
        return "extra output", stderr[-2000:]
    return "refused", None


def main():
    chaski, model, runs, seed, kept = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])
    original, rng = model.read_bytes(), random.Random(seed)
    n_header = header_bytes(original)
    counts, n_bad = Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.gguf"
        path.write_bytes(original)
        for run in range(runs):
            how, damaged = mutate(path, original, n_header, rng)
            ended, wrong = verdict(chaski, str(path), folder)
            counts[ended] += 1
            if wrong is not None:
                n_bad += 1
                kept.mkdir(parents=True, exist_ok=True)
                if n_bad <= 5:
                    shutil.copy(path, kept / f"{model.stem}-{seed}-{run}.gguf")
                print(f"run {run}: {how}: {ended}\n{wrong}", file=sys.stderr, flush=True)
            restore(path, original, damaged)
    summary = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
    print(f"{runs} mutants of {model.name} (seed {seed}, header of {n_header} bytes): {summary}")
    sys.exit(1 if n_bad else 0)


main()
