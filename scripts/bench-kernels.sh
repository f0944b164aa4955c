#!/usr/bin/env bash
# What n rows in one batch cost, with chaski's kernels and with ggml's, measured in turn: bench/results/DATE-COMMIT-MODEL-kernels.md
# (the table), .jsonl (every sample) and .svg (both curves). Run it on an idle machine: what else runs shows in the spread.
#
# usage: scripts/bench-kernels.sh [MODEL_NAME] [--rounds N] [--depth POSITIONS] [--kernels avx2,avx512,ggml] [-t THREADS]
#        scripts/bench-kernels.sh --types [--only q4_K,q8_0] [--rounds N] [--positions N] [--one-row-positions N] [-t THREADS]
#            every weight type, in models requantized for it: 1 and 16 rows, and how far the logits are from those of ggml's
#            kernels: bench/results/DATE-COMMIT-types-kernels.md and .jsonl
#        MODEL_NAME may be a file, such as one that `cargo run --example mixture` writes
. "$(dirname "$0")/lib.sh"

case ${1:-} in
    -h | --help) usage && exit ;;
esac

name=qwen2.5-coder-1.5b-instruct types=
case ${1:-} in
    --types) types=1 && shift ;;
    '' | -*) ;;
    *.gguf)
        model=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
        name=$(basename "$1" .gguf) && shift
        ;;
    *) name=$1 && shift ;;
esac

cd "$root"
scripts/setup.sh
scripts/build.sh >&2
commit=$(git rev-parse --short HEAD)
[ -z "$(git status --porcelain -- src crates Cargo.lock)" ] || commit=$commit-modified
mkdir -p bench/results
if [ -n "$types" ]; then
    environment=$(scripts/build.sh --print-env)
    eval "$environment"
    cargo build --release --locked --workspace -p chaski-kernels --examples >&2
    small=$(scripts/get-model.sh qwen2.5-coder-0.5b-instruct)
    large=$(scripts/get-model.sh qwen2.5-coder-1.5b-instruct)
    exec python3 scripts/bench_types.py --chaski "$CARGO_TARGET_DIR/release/chaski" --examples "$CARGO_TARGET_DIR/release/examples" \
        --small "$small" --large "$large" --text README.md --commit "$commit" \
        --out "bench/results/$(date -u +%F)-$commit-types-kernels" "$@"
fi
: "${model:=$(scripts/get-model.sh "$name")}"
python3 scripts/bench_kernels.py --chaski "$CARGO_TARGET_DIR/release/chaski" --model "$model" --commit "$commit" \
    --out "bench/results/$(date -u +%F)-$commit-$name-kernels" "$@"
