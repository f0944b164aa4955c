#!/usr/bin/env bash
# Trains what the drafter believes before it saw anything of a text: crates/chaski-draft/src/draft/shipped.json. Records both Qwen models'
# answers to bench/training-prompts.jsonl in target/traces (200 tokens each, an hour on a laptop; answers that are there
# already are not written again), greedily, and the 0.5B's once more at temperature 0.8; then reads them several times.
# Base files of the models (models/FILE.chaski, beside FILE.gguf) take part where they exist.
#
# usage: scripts/train-drafter.sh [-t THREADS]
. "$(dirname "$0")/lib.sh"

case ${1:-} in
    -h | --help) usage && exit ;;
    '' | -t) ;;
    *) die "unknown argument: $1" "scripts/train-drafter.sh --help" 2 ;;
esac
threads=()
if [ "${1:-}" = -t ]; then threads=(-t "${2:?-t needs a value}"); fi

cd "$root"
prompts=bench/training-prompts.jsonl
traces=$CARGO_TARGET_DIR/traces
scripts/setup.sh
scripts/build.sh
mkdir -p "$traces"

# ids FILE: prints the ids of its lines; cuts off an incomplete last line.
ids() {
    python3 - "$1" <<'PY'
import json, os, sys
path = sys.argv[1]
if os.path.exists(path):
    with open(path, "r+b") as file:
        # An answer interrupted while it was written is generated again.
        file.truncate(file.read().rfind(b"\n") + 1)
        file.seek(0)
        for line in file:
            print(json.loads(line)["id"])
PY
}

# prompt ID: prints its text, byte for byte.
prompt() {
    python3 - "$prompts" "$1" <<'PY'
import json, sys
for line in open(sys.argv[1], encoding="utf-8"):
    record = json.loads(line)
    if record["id"] == sys.argv[2]:
        sys.stdout.buffer.write(record["prompt"].encode())
PY
}

# record MODEL_FILE TRACES ARGUMENT...
record() {
    local model=$1 file=$traces/$2 all done_already n=0 id
    shift 2
    all=$(ids "$prompts")
    done_already=$(ids "$file")
    for id in $all; do
        n=$((n + 1))
        if grep -qxF -- "$id" <<<"$done_already"; then continue; fi
        say "$(basename "$file"): $id ($n of $(wc -w <<<"$all" | tr -d ' '))"
        prompt "$id" | CHASKI_LEARN=off "$CARGO_TARGET_DIR/release/chaski" run -m "$model" -f - -n 200 --drafter none \
            --trace "$file" --trace-id "$id" -q ${threads[@]+"${threads[@]}"} "$@" >/dev/null
    done
}

small=$(scripts/get-model.sh qwen2.5-coder-0.5b-instruct)
large=$(scripts/get-model.sh qwen2.5-coder-1.5b-instruct)
record "$small" small.jsonl --temp 0
record "$small" small-sampled.jsonl --temp 0.8 -s 7
record "$large" large.jsonl --temp 0

# Both models share one vocabulary, so the larger model's base serves both.
base=()
for model in "$small" "$large"; do
    if [ -e "${model%.gguf}.chaski" ]; then base=(--base "${model%.gguf}.chaski"); fi
done
"$CARGO_TARGET_DIR/release/chaski" drafter replay --train crates/chaski-draft/src/draft/shipped.json ${base[@]+"${base[@]}"} \
    "$traces/small.jsonl" "$traces/small-sampled.jsonl" "$traces/large.jsonl"
say 'crates/chaski-draft/src/draft/shipped.json is written; scripts/build.sh compiles it in, and chaski drafter replay judges it'
