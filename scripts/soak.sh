#!/usr/bin/env bash
# Compares answers in random ways with plain decoding, bit by bit: prompts, seeds, samplers, drafters, widths, threads, chunks, types of the
# cache, texts side by side. Prints how many cases there were and how many differ, and for each of those how to repeat it; exit
# code 1 if there are any.
#
# usage: scripts/soak.sh [--seconds N] [--seed N] [--cases N] [-m MODEL.gguf]     600 seconds from seed 1 on SmolLM2-135M-Instruct
. "$(dirname "$0")/lib.sh"

seconds=600 seed=1 cases='' model=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit ;;
        --seconds) seconds=${2:?a number of seconds} && shift 2 ;;
        --seed) seed=${2:?a number} && shift 2 ;;
        --cases) cases=${2:?a number} && shift 2 ;;
        -m) model=${2:?a file} && shift 2 ;;
        *) die "unknown argument '$1'" "scripts/soak.sh --help" 2 ;;
    esac
done
model=${model:-${CHASKI_TEST_MODEL:-$("$root/scripts/get-model.sh" smollm2-135m-instruct)}}
[ -f "$model" ] || die "$model: no such file"
model=$(cd "$(dirname "$model")" && pwd)/$(basename "$model")

cd "$root"
# Settle llama.cpp's build settings first; otherwise it is built again.
environment=$(scripts/build.sh --print-env)
eval "$environment"
scripts/build.sh --drop-stale

log=$(mktemp)
trap 'rm -f "$log"' EXIT
set +e
CHASKI_TEST_MODEL=$model CHASKI_SOAK_SECONDS=$seconds CHASKI_SOAK_SEED=$seed CHASKI_SOAK_CASES=$cases \
    cargo test --release --workspace --locked --test same_bytes -- --ignored --exact soak::soak --nocapture 2>&1 |
    tee "$log" | grep --line-buffered -E '^(DIFFERENT|repeat|[0-9]+ s:|[0-9]+ cases)'
status=${PIPESTATUS[0]}
set -e
grep -q '^[0-9]* cases in' "$log" || { tail -n 40 "$log" >&2 && die "the soak did not run to its end"; }
[ "$status" = 0 ] || exit 1
