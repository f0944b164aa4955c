# shellcheck shell=bash
# What the scripts share. Sourced, never run. Bash 3.2 (macOS) must understand all of them.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

# die MESSAGE [HINT [STATUS]]
die() {
    say "error: $1"
    [ -z "${2:-}" ] || say "hint: $2"
    exit "${3:-1}"
}

# usage: the comment at the head of the running script, after its `#!` line.
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }

# shellcheck disable=SC2034 # used by the scripts that source this one
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# rustup's installer changes PATH only for shells started after it.
have cargo || PATH="$HOME/.cargo/bin:$PATH"

# Cargo reads a relative path from the current directory: settle it before any cd, and pass it on, so that every
# script finds the binary where cargo put it.
: "${CARGO_TARGET_DIR:=$root/target}"
case $CARGO_TARGET_DIR in
    /*) ;;
    *) CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR ;;
esac
export CARGO_TARGET_DIR
