# shellcheck shell=bash
# Shared by the tests of scripts: sourced, never run. Makes a temporary folder, counts tests, and prints one line for each.
# shellcheck disable=SC2034 # used by the tests that source this
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0
failed=0

# ok NAME COMMAND...: the command must succeed.
ok() {
    local name=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
        echo "test $name ... ok"
    else
        failed=$((failed + 1))
        echo "test $name ... FAILED"
        sed 's/^/    stdout: /' "$tmp/out"
        sed 's/^/    stderr: /' "$tmp/err"
    fi
}

# run STATUS COMMAND...: runs it with stdout in $tmp/out and stderr in $tmp/err; true if it exits with STATUS.
run() {
    local expected=$1 status=0
    shift
    "$@" >"$tmp/out" 2>"$tmp/err" </dev/null || status=$?
    [ "$status" = "$expected" ] || {
        echo "exit status $status, expected $expected" >>"$tmp/err"
        return 1
    }
}
out_is() { [ "$(cat "$tmp/out")" = "$1" ]; }
err_has() { grep -qF -- "$1" "$tmp/err"; }
err_lacks() { ! err_has "$1"; }
all() { # COMMAND , COMMAND , ...: every one must succeed
    local words=() word
    for word in "$@" ','; do
        if [ "$word" = , ]; then
            "${words[@]}" || return
            words=()
        else
            words+=("$word")
        fi
    done
}
is_empty() { [ "$(find "$1" -mindepth 1)" = "$1/.parts" ]; } # but for the folder that carries the lock
stub() { # FOLDER NAME, body on stdin
    mkdir -p "$1"
    { echo '#!/usr/bin/env bash' && cat; } >"$1/$2"
    chmod +x "$1/$2"
}
same() { cmp -s "$1" "$2"; }

# finish: the last line of all tests; false if one failed.
finish() {
    echo
    if [ $failed = 0 ]; then
        echo "test result: ok. $passed passed; 0 failed"
    else
        echo "test result: FAILED. $passed passed; $failed failed"
        return 1
    fi
}
