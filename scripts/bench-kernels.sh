#!/usr/bin/env bash
# What n rows in one batch cost, with chaski's kernels and with ggml's, measured in turn: bench/results/DATE-COMMIT-MODEL-kernels.md
# (the table), .jsonl (every sample) and .svg (both curves). Run it on an idle machine: what else runs shows in the spread.
#
# usage: scripts/bench-kernels.sh [MODEL_NAME] [--rounds N] [--depth POSITIONS] [--kernels avx2,avx512,ggml] [-t THREADS]
. "$(dirname "$0")/lib.sh"

case ${1:-} in
    -h | --help) usage && exit ;;
esac

name=qwen2.5-coder-1.5b-instruct
case ${1:-} in
    '' | -*) ;;
    *) name=$1 && shift ;;
esac

cd "$root"
scripts/setup.sh
model=$(scripts/get-model.sh "$name")
scripts/build.sh >&2
commit=$(git rev-parse --short HEAD)
[ -z "$(git status --porcelain -- src crates Cargo.lock)" ] || commit=$commit-modified
mkdir -p bench/results
python3 scripts/bench_kernels.py --chaski "$CARGO_TARGET_DIR/release/chaski" --model "$model" --commit "$commit" \
    --out "bench/results/$(date -u +%F)-$commit-$name-kernels" "$@"
