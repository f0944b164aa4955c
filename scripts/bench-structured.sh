#!/usr/bin/env bash
# Answers of a JSON schema, with drafts and without: how many are valid, and how fast. Prints a table; exit code 1 if an
# answer is not valid. Run it on an idle machine.
#
# usage: scripts/bench-structured.sh [MODEL_NAME] [--n-prompts N] [--runs N] [-r REPETITIONS] [-t THREADS]
. "$(dirname "$0")/lib.sh"

case ${1:-} in
    -h | --help) usage && exit ;;
esac

name=qwen2.5-coder-0.5b-instruct
case ${1:-} in
    '' | -*) ;;
    *) name=$1 && shift ;;
esac

cd "$root"
scripts/setup.sh
model=$(scripts/get-model.sh "$name")
scripts/build.sh >&2
printf '# %s: answers of a JSON schema\n\n%s, commit %s\n\n' "$(basename "$model")" \
    "$("$CARGO_TARGET_DIR/release/chaski" --version | head -n 1)" "$(git rev-parse --short HEAD)"
python3 scripts/bench_structured.py --chaski "$CARGO_TARGET_DIR/release/chaski" --model "$model" "$@"
