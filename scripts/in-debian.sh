#!/usr/bin/env bash
# Runs a command of this repository in a Debian root file system of an older release, offline. What is built there runs on every
# newer system, and has the same paths in it, whoever builds it: /src, /cargo, /rust, /build. This machine's Rust toolchain and
# cargo's downloads are used; compiler, cmake and libclang are Debian's. Needs root and debootstrap.
#
# usage: scripts/in-debian.sh [--suite SUITE] COMMAND...     SUITE: bullseye (Debian 11, glibc 2.31) by default
#        as in: scripts/in-debian.sh scripts/release.sh --repository URL     the files are in dist/
. "$(dirname "$0")/lib.sh"

suite=bullseye
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit ;;
        --suite) suite=${2:?a Debian release} && shift 2 ;;
        -*) die "unknown argument '$1'" "scripts/in-debian.sh --help" 2 ;;
        *) break ;;
    esac
done
[ $# -gt 0 ] || die "no command is given" "scripts/in-debian.sh --help" 2
[ "$(id -u)" = 0 ] || die "a Debian root file system needs root" "sudo -E env \"PATH=\$PATH\" scripts/in-debian.sh $*"

cd "$root"
# Everything that cargo downloads, before the network is gone.
cargo fetch --locked >&2
toolchain=$(rustc --print sysroot)
cargo_home=${CARGO_HOME:-$HOME/.cargo}
seconds=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
debian=$(scripts/debian-root.sh "$suite" build-essential clang cmake libclang-dev python3)
build=$CARGO_TARGET_DIR/in-$suite
mkdir -p "$build" dist "$debian"/{src,cargo,rust,build}

# Mounted in a namespace of its own, so that nothing stays mounted. `"$@"` is a command of the repository, run in /src.
# shellcheck disable=SC2016 # expanded inside
exec unshare --mount --net --pid --fork --kill-child bash -euc '
    debian=$1 root=$2 cargo_home=$3 toolchain=$4 build=$5 seconds=$6
    shift 6
    mount --bind "$root" "$debian/src"
    mount --bind "$cargo_home" "$debian/cargo"
    mount --bind "$toolchain" "$debian/rust"
    mount --bind "$build" "$debian/build"
    mount -t proc proc "$debian/proc"
    for read_only in src cargo rust; do mount -o remount,bind,ro "$debian/$read_only"; done
    mount --bind "$root/dist" "$debian/src/dist"
    exec chroot "$debian" env -i -C /src HOME=/tmp LC_ALL=C.UTF-8 PATH=/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        CARGO_HOME=/cargo CARGO_NET_OFFLINE=true CARGO_TARGET_DIR=/build SOURCE_DATE_EPOCH="$seconds" "$@"
' in-debian "$debian" "$root" "$cargo_home" "$toolchain" "$build" "$seconds" "$@"
