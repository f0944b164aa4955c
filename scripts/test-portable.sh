#!/usr/bin/env bash
# Runs a binary in a bare Debian root file system without C++ and OpenMP libraries, offline, with every CHASKI_KERNELS value.
# Prints a table. All kernels of this CPU must answer, those of Chaski with the same text, drafted or not; kernels that the CPU lacks
# must be refused with exit code 2. The exit code is 0 if all that holds, else 1. Needs root, and debootstrap the first time.
#
# usage: scripts/test-portable.sh [--binary FILE] [--suite SUITE] [-m MODEL.gguf] [-t THREADS]
#        FILE: target/release/chaski, as scripts/build.sh --static makes it; SUITE: a Debian release, bookworm by default
. "$(dirname "$0")/lib.sh"

binary=$CARGO_TARGET_DIR/release/chaski suite=bookworm model='' threads=2
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit ;;
        --binary) binary=${2:?a file} && shift 2 ;;
        --suite) suite=${2:?a Debian release} && shift 2 ;;
        -m) model=${2:?a file} && shift 2 ;;
        -t) threads=${2:?a number} && shift 2 ;;
        *) die "unknown argument '$1'" "scripts/test-portable.sh --help" 2 ;;
    esac
done
[ "$(id -u)" = 0 ] || die "a root file system needs root" "sudo scripts/test-portable.sh --binary $binary"
[ -x "$binary" ] || die "$binary: no such program" "scripts/build.sh --static"
model=${model:-${CHASKI_TEST_MODEL:-$("$root/scripts/get-model.sh" smollm2-135m-instruct)}}
[ -f "$model" ] || die "$model: no such file"
glibc=$("$root/scripts/check-portable.sh" "$binary")
debian=$("$root/scripts/debian-root.sh" "$suite")

work=$(mktemp -d "$debian/chaski.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
here=/$(basename "$work")
cp "$binary" "$work/chaski"
cp "$model" "$work/model.gguf"
chmod 755 "$work" "$work/chaski"

# in_root NAME=VALUE... COMMAND...: in the root, with its own processes and no network. stdout and stderr are in $work.
in_root() {
    unshare --mount --net --pid --fork --kill-child --root="$debian" --mount-proc --wd="$here" \
        env -i "HOME=$here" PATH=/usr/bin:/bin "$@" >"$work/out" 2>"$work/err" </dev/null
}
failures=0
fail() { # MESSAGE: notes a failure, with what the program said
    say "FAILED: $1"
    tail -n 20 "$work/err" | sed 's/^/    /' >&2
    failures=$((failures + 1))
}

in_root cat /proc/net/dev || die "cannot run a program in $debian" "$(cat "$work/err")"
! grep -qvE '^Inter-|^ face|^ *lo:' "$work/out" || die "the network is reachable in $debian"
found=$(find "$debian/usr/lib" -name 'libstdc++.so*' -o -name 'libgomp.so*')
[ -z "$found" ] || die "$debian is not bare: it has $found" "remove this folder and run this again"

# The kernels that this script knows. Another list in the program's message is a failure.
kernels='avx2 avxvnni avx512 ggml'
has_flags() { # FLAG...: whether the CPU has all of them
    local flags flag
    flags=" $(awk -F: '/^flags/ { print $2; exit }' /proc/cpuinfo) "
    for flag in "$@"; do [[ $flags == *" $flag "* ]] || return 1; done
}
is_supported() { # KERNELS
    case $1 in
        '' | ggml) ;;
        avx2) has_flags avx2 fma f16c ;;
        avxvnni) has_flags avx2 fma f16c avx_vnni ;;
        avx512) has_flags avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512_vnni ;;
    esac
}
# exits WITH MESSAGE KERNELS: true if the program ends with this code and message when it is asked for these kernels.
exits() {
    local status=0
    in_root "CHASKI_KERNELS=$3" ./chaski run -m model.gguf -p a -n 1 --no-stdin || status=$?
    [ "$status" = "$1" ] && grep -qF "$2" "$work/err"
}
exits 2 'expected avx2, avxvnni, avx512 or ggml' nonesuch || fail "the program has other kernels than $kernels"

for command in --version '--help' 'run --help' 'completions bash'; do
    # shellcheck disable=SC2086 # words
    if ! in_root ./chaski $command || [ ! -s "$work/out" ]; then fail "chaski $command"; fi
done

# answer FILE KERNELS ARGUMENT...: 16 tokens into FILE; false if the program failed or said nothing.
prompt='Say the names of the week in order, then say them again.'
answer() {
    local file=$1 variable=${2:+CHASKI_KERNELS=$2}
    shift 2
    # shellcheck disable=SC2086 # the variable is a word or nothing
    in_root $variable ./chaski run -m model.gguf -p "$prompt" -n 16 -t "$threads" --no-stdin --no-learn --no-prompt-cache -v "$@" || return
    cp "$work/out" "$work/$file"
    [ -s "$work/$file" ]
}
sum_of() { sha256sum "$work/$1" | cut -c 1-8; }
row() { # KERNELS IN_USE TEXT TEXT TEXT RESULT
    printf '| %s ' "${1:-(not set)}" "${@:2}"
    printf '|\n'
}

# try KERNELS: prints a row. The first text of Chaski's kernels is the reference for the others.
reference=''
try() {
    local name=$1 in_use texts result=answers before=$failures
    if ! is_supported "$name"; then
        exits 2 'cannot run these kernels' "$name" || fail "CHASKI_KERNELS=$name: not refused, though the CPU lacks these kernels"
        if [ "$failures" = "$before" ]; then result='refused: not on this CPU'; else result=FAILED; fi
        row "$name" - - - - "$result"
        return
    fi
    if ! { answer greedy "$name" --temp 0 && answer plain "$name" --temp 0 --drafter none && answer seed "$name" -s 7; }; then
        fail "CHASKI_KERNELS=$name: no answer"
        row "$name" - - - - FAILED
        return
    fi
    in_use=$(sed -n "s/^kernels: \(chaski's ([a-z0-9]*)\|ggml's\).*/\1/p" "$work/err")
    texts="$(sum_of greedy) $(sum_of plain) $(sum_of seed)"
    case $name:$in_use in
        :* | "ggml:ggml's" | "$name:chaski's ($name)") ;;
        *) fail "CHASKI_KERNELS=$name: the kernels in use are '$in_use'" ;;
    esac
    # Chaski's kernels promise the same bits, drafted or not. ggml's promise nothing.
    if [[ $in_use == chaski* ]]; then
        result='same text'
        [ -n "$reference" ] || cp "$work/greedy" "$work/text"
        : "${reference:=$texts}"
        [ "$texts" = "$reference" ] || fail "CHASKI_KERNELS=$name: another text than with other kernels"
        [ "$(sum_of greedy)" = "$(sum_of plain)" ] || fail "CHASKI_KERNELS=$name: another text with drafts than without"
    fi
    [ "$failures" = "$before" ] || result=FAILED
    # shellcheck disable=SC2086 # three words
    row "$name" "$in_use" $texts "$result"
}

printf '%s\n' "Binary: sha256 $(sha256sum "$binary" | cut -c 1-16), $(wc -c <"$binary") bytes, needs glibc $glibc or newer and libgcc_s." \
    "Root: Debian $(cat "$debian/etc/debian_version"), minbase without libstdc++ and libgomp; no network." \
    "Model: $(basename "$model"). CPU: $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)." \
    '' 'Text: the first 8 digits of its sha256; 16 tokens.' '' \
    '| CHASKI_KERNELS | kernels in use | greedy | greedy, --drafter none | seed 7 | result |' '|---|---|---|---|---|---|'
for name in '' $kernels; do try "$name"; done
[ ! -e "$work/text" ] || printf '\nGreedy text with Chaski'"'"'s kernels: %s\n' "$(tr '\n' ' ' <"$work/text")"
[ "$failures" = 0 ] || die "$failures checks failed"
