#!/usr/bin/env bash
# Runs the examples of examples/cluster for real on this machine, and disturbs them: 4 shards at a time, two or three of
# which are killed or requeued halfway. The joined results must hold every line once, with the same bytes as a job without
# shards.
#
# usage: scripts/test-cluster.sh slurm|parallel|ray|claim|kubernetes [CHASKI [MODEL]]
#
# The default is the binary that was built and the model that was fetched here.
#
# slurm: starts munged, slurmctld and slurmd on loopback in a temporary folder, beside any that run already. If they are
#   missing, it installs Debian's slurm-wlm and munge (as root only).
# parallel: GNU parallel, installed in the same way.
# ray: the python3 in the PATH must have ray; `python3 -m venv v && v/bin/pip install ray && PATH=$PWD/v/bin:$PATH`.
# claim: no scheduler; three processes of different speed claim shards, and one is killed.
# kubernetes: no cluster; validates the example against the API's schema, with kubernetes-validate from the PATH.
. "$(dirname "$0")/lib.sh"

case ${1:-} in -h | --help) usage && exit ;; esac
kind=${1:-}
case $kind in slurm | parallel | ray | claim | kubernetes) ;; *) usage >&2 && exit 2 ;; esac
examples=$root/examples/cluster

if [ "$kind" = kubernetes ]; then
    have kubernetes-validate || die "kubernetes-validate is not installed" "pip install kubernetes-validate, in a venv"
    echo "kubernetes-validate $(kubernetes-validate --version)"
    cd "$examples"
    exec kubernetes-validate --strict kubernetes-job.yaml
fi

[ "$(uname)" = Linux ] || die "this test needs Linux: it finds processes in /proc"
chaski=${2:-$CARGO_TARGET_DIR/release/chaski}
[ -x "$chaski" ] || die "$chaski: no such program" "scripts/build.sh builds it"
model=${3:-$("$root/scripts/get-model.sh" smollm2-135m-instruct)}
absolute() { printf '%s/%s\n' "$(cd "$(dirname "$1")" && pwd)" "$(basename "$1")"; }
chaski=$(absolute "$chaski")
MODEL=$(absolute "$model")
export MODEL

# needs PROGRAM PACKAGE...: installs Debian packages if the program is missing.
needs() {
    local program=$1
    shift
    have "$program" && return
    if [ "$(id -u)" != 0 ] || ! have apt-get; then
        die "$program is not installed" "as root on Debian: apt-get install $*"
    fi
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update >"$place/apt.log" 2>&1 || die "apt-get update fails"
    apt-get -qq install --no-install-recommends "$@" >"$place/apt.log" 2>&1 || die "apt-get cannot install $*"
}

place=$(mktemp -d)
work=$place/shared
daemons=()
# left: the processes in the job's folder; chaski's may outlive what has started them.
left() { { find /proc/[0-9]*/cwd -lname "$work" 2>/dev/null || true; } | sed -n 's|/proc/\([0-9]*\)/.*|\1|p'; }

cleanup() {
    local status=$? signal remaining
    # This shell is not one of those to be ended.
    cd /
    if [ "$kind" = slurm ] && have scancel && [ -n "${SLURM_CONF:-}" ]; then scancel --quiet --me 2>/dev/null || true; fi
    if [ -n "${running:-}" ] && kill "$running" 2>/dev/null; then wait "$running" 2>/dev/null || true; fi
    # Ray's daemons outlive the example for a moment, and write into the folder.
    for ((i = 0; i < 30; i++)); do
        if [ "$kind" != ray ] || ! grep -qs "$place/ray" /proc/[0-9]*/cmdline; then break; fi
        sleep 1
    done
    for signal in TERM KILL; do
        for ((i = 0; i < 10; i++)); do
            remaining=$(left)
            [ -n "$remaining" ] || break 2
            # shellcheck disable=SC2086 # one word for each process
            [ $i != 0 ] || kill -s $signal $remaining 2>/dev/null || true
            sleep 1
        done
    done
    # The last one started is the first to end.
    for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do
        if kill "${daemons[i]}" 2>/dev/null; then wait "${daemons[i]}" 2>/dev/null || true; fi
    done
    if [ "$status" != 0 ]; then
        for log in "$place"/*.log "$work"/*.log; do
            [ -s "$log" ] && say "--- $(basename "$log")" && tail -n 20 "$log" >&2
        done
    fi
    rm -rf "$place"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# --- the job -----------------------------------------------------------------------------------------------------------
n_lines=${LINES_TO_RUN:-80}
n_shards=4
mkdir "$place/bin" "$work"
ln -s "$chaski" "$place/bin/chaski"
export PATH="$place/bin:$PATH"
# Short answers and few lanes, so that a shard takes seconds and its lines end one after another.
export LLAMA_ARG_N_PREDICT=24 LLAMA_ARG_N_PARALLEL=2
things=(tea salt rain glass wool iron bread snow)
for ((i = 1; i < n_lines; i++)); do
    printf '{"custom_id": "q%d", "prompt": "Give a short fact about %s and the number %d."}\n' "$i" "${things[i % 8]}" "$i"
done >"$work/prompts.jsonl"
# This line fails, so its shard ends with exit code 3.
printf '{"custom_id": "q%d", "prompt": "Hello", "n": 3}\n' "$n_lines" >>"$work/prompts.jsonl"

say "$(chaski --version | head -n 1), commit $(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown), $(basename "$MODEL"), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sort -u), $(nproc) cores"
say "reference: $n_lines lines in one process"
start=$SECONDS
code=0
(cd "$place" && chaski batch -q -m "$MODEL" -i shared/prompts.jsonl -o expected.jsonl --seed 1 --ordered) 2>"$place/reference.log" ||
    code=$?
[ "$code" = 3 ] || die "the reference ended with exit code $code, not 3"
say "reference: $((SECONDS - start)) s"

# --- what the tests share ----------------------------------------------------------------------------------------------
running='' # the process of the example, if it is one of ours
shard_file() { printf '%s/results.%d-of-%d.jsonl\n' "$work" "$1" "$n_shards"; }

# number SHARD NAME: a number from the shard's status; 0 before it has one.
number() {
    local status
    status=$(chaski batch --status=json -o "$(shard_file "$1")" 2>/dev/null) || status=
    status=$(printf '%s\n' "$status" | sed -n "s/.*\"$2\":\([0-9]*\).*/\1/p")
    echo "${status:-0}"
}

# halfway SHARD: waits until some of its lines are safe.
halfway() {
    local deadline=$((SECONDS + 300))
    until [ "$(number "$1" n_ok)" -gt 0 ]; do
        [ $SECONDS -lt $deadline ] || die "shard $1 has no line after 300 s"
        [ -z "$running" ] || kill -0 "$running" 2>/dev/null || die "the example ended before shard $1 had a line"
        sleep 0.2
    done
    [ "$(number "$1" n_left)" -gt 2 ] || die "shard $1 was too fast to be disturbed" "give more lines: LINES_TO_RUN=400 $0 $kind"
}

# worker SHARD: the process that has the shard's journal open. Its parent is the chaski process that watches it.
worker() { { find /proc/[0-9]*/fd -lname "$(shard_file "$1").journal" 2>/dev/null || true; } | sed -n '1s|/proc/\([0-9]*\)/.*|\1|p'; }
parent() { sed -n 's/^PPid:[[:space:]]*//p' "/proc/$1/status"; }

# disturbed SHARD HOW: says what has just been done to a shard.
disturbed() { say "shard $1: $2 with $(number "$1" n_ok) of $((n_lines / n_shards)) lines safe"; }

# resumed SHARD...: checks that these shards were resumed.
resumed() {
    local shard n_opened
    for shard in "$@"; do
        n_opened=$(grep -c '{"opened"' "$(shard_file "$shard").journal" || true)
        [ "$n_opened" -ge 2 ] || die "shard $shard was not resumed: its journal was opened $n_opened times"
        say "shard $shard: its journal was opened $n_opened times"
    done
}

# check: compares the joined results with the reference.
check() {
    # A new identity and new times for each job; what a prompt shares with the lane's last one depends on the order.
    normal() {
        sed -E 's/"(id|request_id)":"[^"]*"/"\1":"..."/g; s/"created":[0-9]+/"created":0/g
            s/"timings":\{[^}]*\}/"timings":{}/g; s/"cached_tokens":[0-9]+/"cached_tokens":0/g' "$1"
    }
    normal "$work/results.jsonl" >"$place/got"
    normal "$place/expected.jsonl" >"$place/wanted"
    [ "$(wc -l <"$place/got")" -eq "$n_lines" ] || die "the results have $(wc -l <"$place/got") lines, not $n_lines"
    [ "$(grep -o '"custom_id":"q[0-9]*"' "$place/got" | sort -u | wc -l)" -eq "$n_lines" ] || die "a line is there twice"
    cmp "$place/wanted" "$place/got" >&2 || die "the results differ" "$(diff "$place/wanted" "$place/got" | head -n 4)"
    say "fields that differ from the reference: $(fields)"
    say "ok: $n_lines lines, each once; the same bytes in all other fields"
}

# fields: those that `normal` hides, as far as they really differ.
fields() {
    local field found=()
    for field in '"id":"[^"]*"' '"request_id":"[^"]*"' '"created":[0-9]+' \
        '"timings":\{[^}]*\}' '"cached_tokens":[0-9]+'; do
        if ! cmp -s <(grep -oE "$field" "$place/expected.jsonl") <(grep -oE "$field" "$work/results.jsonl"); then
            found+=("$(printf '%s' "$field" | sed -E 's/^"([a-z_]*)".*/\1/')")
        fi
    done
    printf '%s\n' "${found[@]}" | sort -u | tr '\n' ' '
}

# --- Slurm -------------------------------------------------------------------------------------------------------------
start_slurm() {
    local host user
    host=$(hostname -s 2>/dev/null || hostname)
    user=$(id -un)
    mkdir "$place/munge" "$place/state" "$place/spool"
    # munged wants folders that nobody else can write to.
    chmod 755 "$place" "$place/munge"
    (umask 077 && head -c 1024 /dev/urandom >"$place/munge/key")
    munged --foreground --force --key-file="$place/munge/key" --socket="$place/munge/socket" \
        --pid-file="$place/munge/pid" --seed-file="$place/munge/seed" --log-file="$place/munge.log" \
        >"$place/munged.log" 2>&1 &
    daemons+=($!)
    export SLURM_CONF=$place/slurm.conf
    local port=$((20000 + RANDOM % 20000))
    # More CPUs than the machine may have (config_overrides), so that all shards run at the same time. A requeued job
    # waits for cred_expire seconds; on a real cluster that is two minutes.
    cat >"$SLURM_CONF" <<CONF
ClusterName=chaski
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$place/munge/socket,cred_expire=10
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.pid
SlurmctldLogFile=$place/slurmctld.log
SlurmdLogFile=$place/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=3600
NodeName=$host NodeAddr=127.0.0.1 CPUs=$n_shards State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    wait_for "munged does not start" test -S "$place/munge/socket"
    "$(daemon slurmctld)" -D >/dev/null 2>&1 &
    daemons+=($!)
    "$(daemon slurmd)" -D -N "$host" >/dev/null 2>&1 &
    daemons+=($!)
    wait_for "the node does not become idle" node_is_idle
}

# daemon NAME: its path; it may lie in a folder that is not in an ordinary user's PATH.
daemon() { PATH=$PATH:/usr/sbin:/sbin command -v "$1"; }
node_is_idle() { [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ]; }

# wait_for MESSAGE COMMAND...: fails with the message if the command does not succeed within a minute.
wait_for() {
    local message=$1 deadline=$((SECONDS + 60))
    shift
    until "$@"; do
        [ $SECONDS -lt $deadline ] || die "$message"
        sleep 0.2
    done
}

# job_state JOB: the states of all its tasks, each once.
job_state() { scontrol --oneliner show job "$1" | sed -n 's/.* JobState=\([A-Z_]*\).*/\1/p' | sort -u | tr '\n' ' '; }

test_slurm() {
    needs sbatch slurm-wlm munge
    start_slurm
    say "$(sbatch --version), $(munge --version | head -n 1)"
    cp "$examples"/slurm/*.sbatch "$work"
    cd "$work"
    local array merge
    array=$(sbatch --parsable shards.sbatch)
    merge=$(sbatch --parsable --dependency="afterok:$array" merge.sbatch)
    say "array job $array, and job $merge, which joins its shards"
    # The signal of --signal and of a time limit: chaski ends with 130.
    halfway 1
    scancel --signal=TERM "${array}_1"
    disturbed 1 "SIGTERM from Slurm"
    halfway 2
    kill -KILL "$(worker 2)"
    disturbed 2 "kill -9"
    halfway 3
    scontrol requeue "${array}_3"
    disturbed 3 "scontrol requeue"
    local deadline=$((SECONDS + 600))
    while squeue --noheader --me | grep -q .; do
        [ $SECONDS -lt $deadline ] || die "the jobs do not end: $(squeue --me)"
        case $(squeue --noheader --me --format=%r) in *DependencyNeverSatisfied*) die "a shard failed" ;; esac
        sleep 1
    done
    say "states: array $(job_state "$array")merge $(job_state "$merge")"
    grep -h 'exit code\|already done' shard-*.log >&2
    sed 's/^/merge: /' merge.log >&2
    resumed 1 2 3
    check
}

# --- GNU parallel ------------------------------------------------------------------------------------------------------
test_parallel() {
    needs parallel parallel
    say "$(parallel --version | head -n 1)"
    cd "$work"
    local code=0
    "$examples/parallel.sh" $n_shards --jobs $n_shards >parallel-out.log 2>&1 &
    running=$!
    halfway 2
    kill -KILL "$(worker 2)"
    disturbed 2 "kill -9 of the engine's process"
    halfway 3
    kill -KILL "$(parent "$(worker 3)")"
    disturbed 3 "kill -9 of the process that watches it"
    wait $running || code=$?
    [ "$code" = 3 ] || die "parallel.sh ended with exit code $code, not 3"
    cut -f 1,4,7,8 parallel.log >&2
    grep -h 'already done\| ok + ' parallel-out.log >&2
    resumed 2 3
    check
}

# --- Ray ---------------------------------------------------------------------------------------------------------------
test_ray() {
    python3 -c 'import ray' 2>/dev/null || die "python3 has no ray" "pip install ray, in a venv"
    say "ray $(python3 -c 'import ray; print(ray.__version__)'), $(python3 --version)"
    cd "$work"
    local code=0
    # As many tasks at a time as shards, also on a smaller machine.
    RAY_TMPDIR=$place/ray RAY_COLOR_PREFIX=0 RAY_OVERRIDE_RESOURCES="{\"CPU\": $n_shards}" RAY_USAGE_STATS_ENABLED=0 \
        python3 "$examples/ray_shards.py" --model "$MODEL" --shards $n_shards >ray.log 2>&1 &
    running=$!
    halfway 2
    kill -KILL "$(worker 2)"
    disturbed 2 "kill -9 of chaski"
    halfway 3
    # chaski's watching process is a child of Ray's worker process.
    kill -KILL "$(parent "$(parent "$(worker 3)")")"
    disturbed 3 "kill -9 of Ray's worker process"
    wait $running || code=$?
    [ "$code" = 3 ] || die "ray_shards.py ended with exit code $code, not 3"
    grep -h 'already done\| ok + ' ray.log >&2
    resumed 2 3
    check
}

# --- claims ------------------------------------------------------------------------------------------------------------
# claiming NAME LANES: a process that claims shards.
claiming() {
    LLAMA_ARG_N_PARALLEL=$2 chaski batch -m "$MODEL" -i prompts.jsonl -o results.jsonl --seed 1 --shard claim/8 --lease 5 \
        >"$1.log" 2>&1
}

# child PID: a child of this process.
child() { { grep -ls "^PPid:[[:space:]]*$1\$" /proc/[0-9]*/status || true; } | sed -n '1s|/proc/\([0-9]*\)/.*|\1|p'; }

# journal PID: the journal that this process has open.
journal() { { find "/proc/$1/fd" -lname '*.journal' -printf '%l\n' 2>/dev/null || true; } | head -n 1; }

test_claim() {
    cd "$work"
    local code process watching working journal deadline=$((SECONDS + 300))
    claiming fast 8 &
    local fast=$!
    claiming slow 1 &
    local slow=$!
    claiming dying 2 &
    local dying=$!
    # `claiming` runs in a shell of its own, whose child is the process that watches the engine's process.
    while true; do
        watching=$(child "$dying")
        working=$([ -z "$watching" ] || child "$watching")
        journal=$([ -z "$working" ] || journal "$working")
        if [ -n "$journal" ] && grep -qs '{"finished"' "$journal"; then break; fi
        [ $SECONDS -lt $deadline ] || die "the process that is to be killed finishes no line"
        sleep 0.1
    done
    kill -KILL "$watching" "$working"
    say "kill -9 of a process with $(grep -c '{"finished"' "$journal") of 10 lines of its shard safe: $(basename "$journal")"
    wait "$dying" 2>/dev/null || true
    for process in $fast $slow; do
        code=0
        wait "$process" || code=$?
        case $code in 0 | 3) ;; *) die "a process that claims shards ended with exit code $code" ;; esac
    done
    grep -h 'notice: all' fast.log slow.log | sed 's/; hint.*//' >&2
    grep -h 'already done by another process' fast.log slow.log >&2 || die "nobody took over the shard of the dead process"
    chaski batch --status -o results.jsonl | head -n 2 >&2
    code=0
    chaski batch merge -o results.jsonl 2>merge.log || code=$?
    [ "$code" = 3 ] || die "merge ended with exit code $code, not 3"
    check
}

"test_$kind"
say "time: $SECONDS s"
