#!/usr/bin/env bash
# Makes the aligned base files of the default model and both Qwen models: models/FILE.chaski beside each, where `run` and
# `bench` look for it, a few MB each. Each model
# writes its own text, which takes from minutes to hours; interrupted, the script goes on where it was. Models that share
# their vocabulary share what they wrote: each base has its siblings' counts as well, at a lower weight.
#
# usage: scripts/make-bases.sh
# TOKENS (default 200000)          tokens that each model writes
# MAX_SIZE (default 4M)            size of each base at most
# SIBLING_WEIGHT (default 0.5)     what a sibling's counts are multiplied by; 0 leaves siblings out
. "$(dirname "$0")/lib.sh"

case ${1:-} in
    '') ;;
    -h | --help) usage && exit ;;
    *) die "unknown argument '$1'" "scripts/make-bases.sh --help" 2 ;;
esac
cd "$root"
: "${TOKENS:=200000}" "${MAX_SIZE:=4M}" "${SIBLING_WEIGHT:=0.5}"

scripts/setup.sh
scripts/build.sh >&2
chaski=$CARGO_TARGET_DIR/release/chaski
own=$CARGO_TARGET_DIR/bases
mkdir -p "$own"

# The model's own tokens, unpruned: pruning follows the merge.
write_own() { # NAME
    local model
    model=$(scripts/get-model.sh "$1")
    say "$1: $TOKENS tokens"
    "$chaski" drafter align -m "$model" -o "$own/$1.chaski" --tokens "$TOKENS" --max-size 64M --keep-log
}

# Merges a model's own file with its siblings' into its base.
make_base() { # NAME [SIBLING...]
    local weights=1 files=("$own/$1.chaski") sibling out
    out=$(scripts/get-model.sh "$1")
    out=${out%.gguf}.chaski
    if [ "$SIBLING_WEIGHT" != 0 ]; then
        for sibling in "${@:2}"; do
            weights=$weights,$SIBLING_WEIGHT
            files+=("$own/$sibling.chaski")
        done
    fi
    "$chaski" drafter merge -o "$out" --max-size "$MAX_SIZE" --weights "$weights" "${files[@]}"
    printf '%s\n' "$out"
}

small=smollm2-135m-instruct
qwens='qwen2.5-coder-0.5b-instruct qwen2.5-coder-1.5b-instruct'
for name in $small $qwens; do write_own "$name"; done
make_base "$small"
# shellcheck disable=SC2086 # names have no spaces
set -- $qwens
# merge fails on files of different vocabularies.
make_base "$1" "$2"
make_base "$2" "$1"
