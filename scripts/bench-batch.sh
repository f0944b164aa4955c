#!/usr/bin/env bash
# Times a batch: `chaski batch`, `chaski run` in a loop (over the first prompts only), and llama-server with a client that
# keeps all its slots busy, in turn in each repetition. Prints a table, and keeps it and every figure in bench/results
# (DATE-COMMIT-MODEL-batch-JOB.md and .jsonl). Run it on an idle machine.
#
# usage: scripts/bench-batch.sh [MODEL_NAME] [--job chat|extract] [--server PATH/llama-server] [--slots 16,32] [--loop N]
#            [--n-prompts N] [--parallel N] [-c CONTEXT_OF_A_PROMPT] [-r TIMES] [-t THREADS]
. "$(dirname "$0")/lib.sh"

case ${1:-} in
    -h | --help) usage && exit ;;
esac

name=qwen2.5-coder-1.5b-instruct
job=chat
rest=()
server=
while [ $# -gt 0 ]; do
    case $1 in
        --job) job=${2:-} && rest+=("$1" "$job") ;;
        --server) server=${2:-} ;;
        -*) rest+=("$1" "${2:-}") ;;
        *) name=$1 && shift && continue ;;
    esac
    [ $# -gt 1 ] || die "$1 needs a value" "scripts/bench-batch.sh --help" 2
    shift 2
done
if [ -n "$server" ]; then
    server=$(find_server "$server")
    rest+=(--server "$server")
fi

cd "$root"
scripts/setup.sh
model=$(scripts/get-model.sh "$name")
scripts/build.sh >&2

commit=$(git rev-parse --short HEAD)
[ -z "$(git status --porcelain -- src Cargo.lock)" ] || commit=$commit-modified
out=bench/results/$(date -u +%F)-$commit-$name-batch-$job
mkdir -p bench/results
{
    printf '# %s: a batch (%s)\n\n' "$(basename "$model")" "$job"
    printf '%s\n\n' "$("$CARGO_TARGET_DIR/release/chaski" --version | head -n 1)"
    printf 'scripts/bench-batch.sh %s %s\n\n' "$name" "${rest[*]-}" | sed 's| [^ ]*/llama-server| PATH/llama-server|'
    python3 scripts/bench_batch.py --chaski "$CARGO_TARGET_DIR/release/chaski" --model "$model" \
        --raw-output "$out.jsonl" ${rest[@]+"${rest[@]}"}
} >"$out.md.part"
mv "$out.md.part" "$out.md"
cat "$out.md"
say "kept as $out.md and .jsonl"
