#!/usr/bin/env bash
# Compares the memory that `chaski models fit` predicts with the peak of real runs: each model reads a prompt that fills
# its context but for some positions, and answers a few tokens. The peak is that of resident pages (ru_maxrss, as VmHWM),
# mapped ones included. Prints a table, and writes bench/results/memory-fit.tsv; fails where they differ by more than 10%.
#
# usage: scripts/memory-fit.sh [-c "2048 8192"] [MODEL.gguf...]     default: the models of models/
. "$(dirname "$0")/lib.sh"

contexts='2048 8192'
models=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit ;;
        -c) contexts=${2:?a list of numbers} && shift ;;
        -*) die "unknown argument '$1'" "scripts/memory-fit.sh --help" 2 ;;
        *) models+=("$1") ;;
    esac
    shift
done
cd "$root"
[ ${#models[@]} -gt 0 ] || models=(models/*.gguf)
eval "$(scripts/build.sh --print-env)"
chaski=$CARGO_TARGET_DIR/release/chaski
[ -x "$chaski" ] || die "there is no $chaski" "scripts/build.sh makes it"
exec python3 "$root/scripts/memory_fit.py" "$chaski" "$contexts" "${models[@]}"
