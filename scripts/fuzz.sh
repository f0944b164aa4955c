#!/usr/bin/env bash
# Fuzzes with libFuzzer, led by coverage, on stable Rust: what cargo-fuzz does, less the sanitizer that only nightly has.
# All targets run at once. A finding is a file fuzz/artifacts/TARGET-..., and an exit code of 1; inputs that reached new
# code are kept in the target folder and begin the next run.
#
# usage: scripts/fuzz.sh [--seconds N] [TARGET...]     600 seconds; all targets of fuzz/fuzz_targets
. "$(dirname "$0")/lib.sh"

seconds=600
targets=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit ;;
        --seconds) seconds=${2:?a number of seconds} && shift 2 ;;
        -*) die "unknown argument '$1'" "scripts/fuzz.sh --help" 2 ;;
        *) targets+=("$1") && shift ;;
    esac
done
cd "$root/fuzz"
if [ ${#targets[@]} -eq 0 ]; then
    for file in fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi

# Edge counters, and the operands of comparisons, which tell libFuzzer the magic numbers.
coverage='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing'
host=$(rustc -vV | sed -n 's/^host: //p')
build=$CARGO_TARGET_DIR/fuzz
# With --target, the flags do not apply to build scripts and macros.
CARGO_TARGET_DIR=$build RUSTFLAGS=${coverage//$'\n'/ } cargo build --release --locked --target "$host" >&2

mkdir -p artifacts
pids=()
for target in "${targets[@]}"; do
    mkdir -p "$build/corpus/$target"
    "$build/$host/release/$target" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=2048 -max_len=16384 -seed=1 -print_final_stats=1 \
        -artifact_prefix="artifacts/$target-" "$build/corpus/$target" "corpus/$target" >"$build/$target.log" 2>&1 &
    pids+=($!)
done

status=0
for i in "${!targets[@]}"; do
    target=${targets[$i]}
    found=nothing
    wait "${pids[$i]}" || { found="a finding, see $build/$target.log" && status=1; }
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$target.log")
    # The last progress line: edges reached, features, and corpus size.
    reached=$(sed -n 's/.*cov: \([0-9]*\) ft: \([0-9]*\) corp: \([0-9]*\).*/\1 edges, \2 features, \3 inputs/p' "$build/$target.log" | tail -1)
    all=$(sed -n 's/.*(\([0-9]*\) inline 8-bit counters).*/\1/p' "$build/$target.log" | head -1)
    start=$(sed -n 's/.*INITED cov: \([0-9]*\).*/\1/p' "$build/$target.log")
    printf '%s: %s runs in %s s, %s (%s at the start, the binary has %s): %s\n' \
        "$target" "$runs" "$seconds" "$reached" "$start" "$all" "$found"
done
exit $status
