#!/bin/sh
# Answers prompts.jsonl in N shards with GNU parallel, several at a time, and joins them in results.jsonl. Run it in the
# folder of prompts.jsonl. If anything stops it, run it again: it continues.
#
# usage: MODEL=/path/to/model.gguf parallel.sh N [OPTION OF PARALLEL]...
#
#   parallel.sh 4 --jobs 2                                       on this machine
#   parallel.sh 8 --jobs 1 --sshlogin a,b,c --workdir "$PWD"     on three machines that share this folder
#
# Ends with 1 if a shard fails, and otherwise as the merge: with 0, or with 3 if some lines have error records. GNU
# parallel cannot tell exit codes apart: a shard that ends with 2, 4 or 5 (wrong arguments, no model, not enough memory)
# is also tried five times, but without a pause.

n=${1:-}
case $n in
    '' | 0* | *[!0-9]*)
        echo "error: expected the number of shards, found '$n'; hint: MODEL=model.gguf $0 4 --jobs 2" >&2
        exit 2
        ;;
esac
if [ -z "${MODEL:-}" ]; then
    echo "error: MODEL is not set; hint: MODEL=/path/to/model.gguf $0 $n" >&2
    exit 2
fi
shift
export MODEL
# --env passes MODEL to other machines too, whatever characters it has.
# Exit code 3 means: done, and some lines have error records. After another code, the shard is tried again. The pause
# gives a killed chaski's second process time to end: it holds the lock on the shard's journal.
# The exit code of parallel is the number of failed shards, so it is not passed on.
parallel --env MODEL --retries 5 --joblog parallel.log "$@" "
    chaski batch -m \"\$MODEL\" -i prompts.jsonl -o results.jsonl --seed 1 --shard {}/$n
    code=\$?
    case \$code in
        0 | 3) exit 0 ;;
        2 | 4 | 5) exit \$code ;;
    esac
    sleep 3
    exit \$code" ::: $(seq "$n") || exit 1
chaski batch merge -o results.jsonl
