#!/usr/bin/env bash
# Damages a real model and runs it, many times: single bytes, mostly in the header, and cuts. Each run must end by itself
# within its time, and either answer or say in one `error:` line what is wrong: no signal, no hang, nothing else printed.
# What fails is kept in target/mutants, to be run again.
#
# usage: scripts/mutate-model.sh [-n RUNS] [-s SEED] [--chaski PROGRAM] [MODEL.gguf]   default: 1000, 1, what was built, the
#                                                                                     test model
. "$(dirname "$0")/lib.sh"

runs=1000 seed=1 model='' chaski=$CARGO_TARGET_DIR/release/chaski
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit ;;
        -n) runs=${2:?a number} && shift ;;
        -s) seed=${2:?a number} && shift ;;
        --chaski) chaski=${2:?a program} && shift ;;
        -*) die "unknown argument '$1'" "scripts/mutate-model.sh --help" 2 ;;
        *) model=$1 ;;
    esac
    shift
done
[ -n "$model" ] || model=$("$root/scripts/get-model.sh" smollm2-135m-instruct)
[ -x "$chaski" ] || die "there is no $chaski" "scripts/build.sh makes it"
exec python3 "$root/scripts/mutate_model.py" "$chaski" "$model" "$runs" "$seed" "$CARGO_TARGET_DIR/mutants"
