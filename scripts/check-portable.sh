#!/usr/bin/env bash
# Checks what a Linux program needs on the machine that runs it: nothing but glibc's own libraries and libgcc_s, which
# glibc loads itself when a thread ends. Prints the version of glibc.
#
# usage: scripts/check-portable.sh BINARY [--glibc VERSION]     VERSION: the newest glibc that it may need, such as 2.31
. "$(dirname "$0")/lib.sh"

binary='' newest=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit ;;
        --glibc) newest=${2:?a version} && shift 2 ;;
        -*) die "unknown argument '$1'" "scripts/check-portable.sh --help" 2 ;;
        *) binary=$1 && shift ;;
    esac
done
[ -n "$binary" ] || die "no program is given" "scripts/check-portable.sh target/release/chaski" 2
have objdump || die "objdump is not installed" "install binutils"
headers=$(objdump -p "$binary") || die "$binary: not a program"
symbols=$(objdump -T "$binary") || die "$binary: not a program"

needed=$(awk '$1 == "NEEDED" { print $2 }' <<<"$headers")
[ -n "$needed" ] || die "$binary needs no library at all, not even libc" "is it a Linux program?"
for library in $needed; do
    case $library in
        libgcc_s.so.1 | libc.so.* | libm.so.* | libpthread.so.* | libdl.so.* | librt.so.* | libutil.so.* | ld-linux*.so.*) ;;
        *) die "$binary needs $library, which a machine may lack" "build it with scripts/build.sh --static" ;;
    esac
done
! grep -qE '^ *(RPATH|RUNPATH) ' <<<"$headers" || die "$binary searches folders of the machine it was built on for libraries"

versions=$(grep -oE 'GLIBC_[0-9.]+' <<<"$symbols" | sort -uV | sed 's/GLIBC_//')
glibc=$(tail -n 1 <<<"$versions")
[ -n "$glibc" ] || die "$binary names no version of glibc"
if [ -n "$newest" ] && [ "$(printf '%s\n' "$newest" "$glibc" | sort -V | tail -n 1)" != "$newest" ]; then
    die "$binary needs glibc $glibc, because of$(sed -n "s/.*(GLIBC_$glibc) / /p" <<<"$symbols" | tr '\n' ',' | sed 's/,$//')" \
        "build it on a system with glibc $newest: scripts/in-debian.sh"
fi
printf '%s\n' "$glibc"
