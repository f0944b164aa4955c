#!/usr/bin/env bash
# Memory of `chaski batch` along a long job: short questions with short answers, and the resident memory of its two processes
# at every tenth of the lines. Prints a table and keeps it in bench/results (DATE-COMMIT-MODEL-batch-memory.md).
#
# usage: scripts/batch-memory.sh [MODEL_NAME] [LINES]      default: smollm2-135m-instruct 10000
. "$(dirname "$0")/lib.sh"

case ${1:-} in
    -h | --help) usage && exit ;;
esac
name=${1:-smollm2-135m-instruct}
lines=${2:-10000}

cd "$root"
scripts/setup.sh
model=$(scripts/get-model.sh "$name")
scripts/build.sh >&2
chaski=$CARGO_TARGET_DIR/release/chaski

folder=$(mktemp -d)
trap 'kill "$job" 2>/dev/null; rm -rf "$folder"' EXIT
for n in $(seq "$lines"); do
    printf '{"prompt": "What is %d plus %d?", "max_tokens": %d}\n' "$n" $((n * 7 % 1000)) $((4 + n % 9))
done >"$folder/prompts.jsonl"

# Resident memory of the watcher and the worker.
rss_mib() {
    local pid kib total=0
    for pid in "$job" $(pgrep -P "$job"); do
        kib=$(awk '/^VmRSS:/ { print $2 }' "/proc/$pid/status" 2>/dev/null || true)
        total=$((total + ${kib:-0}))
    done
    printf '%d' $((total / 1024))
}

commit=$(git rev-parse --short HEAD)
[ -z "$(git status --porcelain -- src Cargo.lock)" ] || commit=$commit-modified
out=bench/results/$(date -u +%F)-$commit-$name-batch-memory.md
mkdir -p bench/results
{
    printf '# %s: memory of a batch\n\nscripts/batch-memory.sh %s %s\n\n' "$(basename "$model")" "$name" "$lines"
    printf '| lines done | seconds | resident MiB |\n|---:|---:|---:|\n'
} >"$out"
start=$SECONDS
"$chaski" batch -m "$model" -i "$folder/prompts.jsonl" -o "$folder/results.jsonl" --temp 0 --seed 1 -q &
job=$!
next=$((lines / 10))
while kill -0 "$job" 2>/dev/null; do
    sleep 0.5
    [ -f "$folder/results.jsonl" ] || continue
    done=$(wc -l <"$folder/results.jsonl")
    mib=$(rss_mib)
    if [ "$done" -ge "$next" ] && [ "$mib" -gt 0 ]; then
        printf '| %d | %d | %d |\n' "$done" $((SECONDS - start)) "$mib" | tee -a "$out" >&2
        next=$((next + lines / 10))
    fi
done
wait "$job"
[ "$(wc -l <"$folder/results.jsonl")" = "$lines" ] || die "the job lost lines" "this is a bug"
cat "$out"
say "kept as $out"
