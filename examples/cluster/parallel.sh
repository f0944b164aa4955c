#!/bin/sh
# Answers prompts.jsonl in N shards with GNU parallel, several at a time, and joins them in results.jsonl. Run it in the
# folder of prompts.jsonl. If anything stops it, run it again: it continues.
#
# usage: MODEL=/path/to/model.gguf parallel.sh N [OPTION OF PARALLEL]...
#
#   parallel.sh 4 --jobs 2                                       on this machine
#   parallel.sh 8 --jobs 1 --sshlogin a,b,c --workdir "$PWD"     on three machines that share this folder

n=${1:?the number of shards}
shift
# Exit code 3 means: done, and some lines have error records. After another code, the shard is tried again. The pause
# gives a killed chaski's second process time to end: it holds the lock on the shard's journal.
parallel --retries 5 --joblog parallel.log "$@" "
    chaski batch -m '$MODEL' -i prompts.jsonl -o results.jsonl --seed 1 --shard {}/$n
    code=\$?
    [ \$code = 3 ] && exit 0
    [ \$code = 0 ] || sleep 3
    exit \$code" ::: $(seq "$n") || exit
chaski batch merge -o results.jsonl
