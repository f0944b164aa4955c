#!/usr/bin/env bash
# Compares chaski with llama.cpp's own speculation: the same prompts through llama-server, plain and with every --spec-type
# that needs no second model, and through `chaski bench`; with --draft-model also its draft-simple, and chaski's auto with
# the same draft model (auto-md). All in one run, in turn for each prompt, so that a machine that slows down slows all.
# Prints one table, and keeps it and every answer's figures in bench/results (DATE-COMMIT-MODEL-peers.md and .jsonl). Run
# it on an idle machine. A model is a name of models/models.toml or a .gguf file.
#
# Every mode has a server of its own, so that none learns from another: with all of them a 1.5B model takes some 20 GB.
# --modes narrows that. ngram-mod and ngram-cache remember what they saw: with -r above 1 they have seen the answers.
#
# usage: scripts/bench-peers.sh --server PATH/llama-server [MODEL] [--draft-model MODEL] [--modes A,B] [--kinds A,B]
#            [--ids A,B] [-n TOKENS] [-r TIMES] [-t THREADS] [-c CONTEXT] [--prompts FILE] [--server-args "-fa off"]
#        scripts/bench-peers.sh --list-modes
. "$(dirname "$0")/lib.sh"

case ${1:-} in
    -h | --help) usage && exit ;;
    --list-modes) exec python3 "$root/scripts/bench_peers.py" --list-modes ;;
esac

server=llama-server
name=qwen2.5-coder-1.5b-instruct
draft_model=()
rest=()
while [ $# -gt 0 ]; do
    case $1 in
        --server) server=${2:-} ;;
        --draft-model) draft_model=("${2:-}") ;;
        -*) rest+=("$1" "${2:-}") ;;
        *) name=$1 && shift && continue ;;
    esac
    [ $# -gt 1 ] || die "$1 needs a value" "scripts/bench-peers.sh --help" 2
    shift 2
done

server=$(find_server "$server")

started_in=$PWD
cd "$root"
scripts/setup.sh
# model_file MODEL: prints its path.
model_file() {
    case $1 in
        /*.gguf) printf '%s\n' "$1" ;;
        *.gguf) printf '%s\n' "$started_in/$1" ;;
        *) scripts/get-model.sh "$1" ;;
    esac
}
model=$(model_file "$name")
if [ ${#draft_model[@]} -gt 0 ]; then
    draft_file=$(model_file "${draft_model[0]}")
    rest+=(--draft-model "$draft_file")
fi
scripts/build.sh >&2

commit=$(git rev-parse --short HEAD)
[ -z "$(git status --porcelain -- src Cargo.lock)" ] || commit=$commit-modified
out=bench/results/$(date -u +%F)-$commit-$(basename "$name" .gguf)-peers
mkdir -p bench/results
python3 scripts/bench_peers.py --server "$server" --chaski "$CARGO_TARGET_DIR/release/chaski" --model "$model" \
    --raw-output "$out.jsonl" ${rest[@]+"${rest[@]}"} >"$out.md.part"
mv "$out.md.part" "$out.md"
cat "$out.md"
say "kept as $out.md and .jsonl"
