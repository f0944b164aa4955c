#!/usr/bin/env bash
# Every check of the project, each announced by a line `== name`; the first that fails ends the run. Sets up what it
# needs. A cold run takes minutes (llama.cpp is compiled once), a warm one much less.
#
# usage: scripts/test.sh
. "$(dirname "$0")/lib.sh"

case ${1:-} in
    '') ;;
    -h | --help) usage && exit ;;
    *) die "unknown argument '$1'" "scripts/test.sh --help" 2 ;;
esac
cd "$root"

check() { # NAME COMMAND...
    printf '\n== %s\n' "$1"
    shift
    "$@"
}

skip() { printf '\n== %s\nskipped: %s\n' "$1" "$2"; }

check "setup" scripts/setup.sh

# One set of variables and one profile for everything below, so that llama.cpp is compiled once.
environment=$(scripts/build.sh --print-env)
eval "$environment"
# For tests on a GPU alone.
unset CHASKI_TEST_FEW CHASKI_TEST_GPU_LAYERS
scripts/build.sh --drop-stale

# Fast checks first.
check "format" cargo fmt --all -- --check
check "invariants" scripts/check-invariants.sh
if have shellcheck; then
    check "shellcheck" shellcheck -x -P SCRIPTDIR scripts/*.sh tests/*.sh .ci/run
else
    skip "shellcheck" "it is not installed"
fi
check "scripts" tests/scripts.sh
check "release scripts" tests/release.sh
# None of these needs a C++ toolchain.
check "crates without llama.cpp" cargo test --release --locked -p chaski-draft -p chaski-gguf -p chaski-core -p chaski-store \
    -p chaski-batch -p chaski-hidden
check "clippy" cargo clippy --release --workspace --all-targets --locked -- -D warnings
check "build" scripts/build.sh

printf '\n== model\n'
CHASKI_TEST_MODEL=$(scripts/get-model.sh smollm2-135m-instruct)
export CHASKI_TEST_MODEL

check "tests" cargo test --release --locked -p chaski -p chaski-llama -p chaski-kernels
check "recipes" scripts/test-recipes.sh "$CARGO_TARGET_DIR/release/chaski" "$CHASKI_TEST_MODEL"
check "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --release --workspace --locked
check "texts of licences" scripts/licences.py "$CARGO_TARGET_DIR/licences"
if have cargo-deny; then
    # Without advisories and offline, so that no network problem or new advisory breaks the check.
    check "licences and sources" cargo deny --offline check bans licenses sources
else
    skip "licences and sources" "cargo-deny is not installed"
fi

printf '\nall checks passed\n'
