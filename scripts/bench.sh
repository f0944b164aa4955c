#!/usr/bin/env bash
# Measures one model of the manifest and keeps the raw figures, in bench/results: DATE-COMMIT-MODEL.md (tables, machine,
# peak memory), .jsonl (every answer's figures) and .curve.json (the measured cost curve). Run it on an idle machine: what else runs shows in the spread.
#
# usage: scripts/bench.sh [MODEL_NAME [arguments of chaski bench]]
. "$(dirname "$0")/lib.sh"

case ${1:-} in
    -h | --help) usage && exit ;;
    -*) die "unknown argument '$1'" "scripts/bench.sh --help" 2 ;;
esac
cd "$root"
name=${1:-qwen2.5-coder-1.5b-instruct}
[ $# -eq 0 ] || shift

scripts/setup.sh
model=$(scripts/get-model.sh "$name")
scripts/build.sh >&2
chaski=$CARGO_TARGET_DIR/release/chaski

commit=$(git rev-parse --short HEAD)
[ -z "$(git status --porcelain -- src Cargo.lock)" ] || commit=$commit-modified
out=bench/results/$(date -u +%F)-$commit-$name
mkdir -p bench/results

# Peak resident memory of one whole run with a drafter, in MiB.
peak_mib() {
    python3 - "$chaski" "$model" "$1" <<'PYTHON'
import json, resource, subprocess, sys

chaski, model, drafter = sys.argv[1:]
with open("bench/prompts.jsonl", encoding="utf-8") as prompts:
    prompt = next(line["prompt"] for line in map(json.loads, prompts) if line["id"] == "edit-1")
command = [chaski, "run", "-m", model, "--temp", "0", "-n", "160", "-q", "--drafter", drafter, "-p", prompt]
subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
unit = 1 if sys.platform == "darwin" else 1024
print(round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 2**20))
PYTHON
}

{
    printf '# %s, commit %s, %s\n\n' "$name" "$commit" "$(date -u +%F)"
    # shellcheck disable=SC2016 # backquotes of Markdown
    printf '`scripts/bench.sh %s`; every answer is in %s.jsonl.\n\n' "$name${*:+ $*}" "$(basename "$out")"
    "$chaski" bench -m "$model" --raw-output "$out.jsonl" "$@"
    # shellcheck disable=SC2016
    printf '\nPeak memory of `chaski run` on prompt edit-1, 160 tokens:\n\n| drafter | MiB |\n|---|---:|\n'
    for drafter in none auto aded; do
        printf '| %s | %s |\n' "$drafter" "$(peak_mib "$drafter")"
    done
} >"$out.md.part"
mv "$out.md.part" "$out.md"
# The final cost curve: the one that the schedule used.
curves=${XDG_CACHE_HOME:-$HOME/.cache}/chaski/curves
curve=$(grep -lF "$(basename "$model")" "$curves"/*.json 2>/dev/null | xargs -r ls -t | head -1)
[ -z "$curve" ] || cp "$curve" "$out.curve.json"
printf '%s\n' "$out.md"
