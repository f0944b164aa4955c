#!/usr/bin/env bash
# The one invariant of absence that the compiler does not check (ARCHITECTURE.md says why it holds): pure modules have no files,
# clocks, threads, environment, hash order or global state. The borders between crates are in their Cargo.toml.
#
# usage: scripts/check-invariants.sh [ROOT]     ROOT: another tree, for the tests
. "$(dirname "$0")/lib.sh"

case ${1:-} in -h | --help) usage && exit ;; esac
cd "${1:-$root}"

# Pure modules of chaski-core. All of chaski-draft is pure.
core='engine engine/error engine/step exactness memory sampling text tune'
core="$core chat/command chat/markdown chat/overflow chat/session chat/thinking"

failures=0

# Prints the Rust code of a file as `FILE:LINE:text`: without comments, without the tests at its end, and with each
# `use` on one line, so that `use std::{\n fs,` is caught.
code_of() {
    awk '
        /^[ \t]*#\[cfg\(test\)\]/ { test = NR }
        test && NR == test + 1 && /^[ \t]*(pub )?mod / { exit }
        { sub(/(^|[ \t])\/\/.*/, "") }
        joining { text = text " " $0 }
        !joining { text = $0; line = NR; joining = /^[ \t]*(pub(\([a-z]+\))? )?use / }
        joining && !/;/ { next }
        { joining = 0; print FILENAME ":" line ":" text }
    ' "$1"
}

forbid() { # PATTERN MESSAGE FILE...
    local pattern=$1 message=$2 file found
    shift 2
    for file in "$@"; do
        [ -f "$file" ] || continue
        if found=$(code_of "$file" | grep -E "$pattern"); then
            say "error: $message"
            say "$found"
            failures=$((failures + 1))
        fi
    done
}

core_files=(crates/chaski-store/src/prompt_cache/choice.rs)
for name in $core; do core_files+=("crates/chaski-core/src/$name.rs"); done
while IFS= read -r file; do core_files+=("$file"); done < <(find crates/chaski-draft/src -name '*.rs' 2>/dev/null | sort)

# A std module by its path or inside braces: `std::fs`, `use std::{fmt, fs}`.
modules='fs|io|env|thread|process|net'
forbid "\\bstd::($modules)\\b|\\bstd::\\{([^;]*[{, ])?($modules)\\b" \
    'the core may not touch files, streams, threads or the environment' "${core_files[@]}"
forbid '\b(Instant|SystemTime)\b' 'the core may not read a clock' "${core_files[@]}"
forbid '\bstd::collections::(\{[^;]*)?(Hash|hash_)' \
    'the core may not use maps whose order changes from run to run' "${core_files[@]}"
forbid '\bstatic mut\b|\bthread_local!|\b(LazyLock|OnceLock|OnceCell)\b' 'the core may not have global state' "${core_files[@]}"

[ $failures = 0 ] || exit 1
