#!/usr/bin/env bash
# Makes a small Debian root file system and prints its path. Made once, then kept in target/debian. Needs root and debootstrap.
#
# usage: scripts/debian-root.sh SUITE                 bare: the smallest set of packages, without the C++ library that apt brings along
#        scripts/debian-root.sh SUITE PACKAGE...      with these packages
. "$(dirname "$0")/lib.sh"

case ${1:-} in
    -h | --help) usage && exit ;;
    '' | -*) die "no suite is given" "scripts/debian-root.sh bookworm" 2 ;;
esac
suite=$1 && shift
name=$suite
for package in "$@"; do name=$name+$package; done
path=$CARGO_TARGET_DIR/debian/$name
[ -d "$path" ] && printf '%s\n' "$path" && exit

[ "$(id -u)" = 0 ] || die "making a root file system needs root" "sudo scripts/debian-root.sh $suite $*"
have debootstrap || die "debootstrap is not installed" "apt-get install debootstrap"
mkdir -p "$CARGO_TARGET_DIR/debian"
part=$(mktemp -d "$CARGO_TARGET_DIR/debian/part.XXXXXX")
trap 'rm -rf --one-file-system "$part"' EXIT
say "making a Debian root file system: $name"
include=$(printf '%s,' "$@")
debootstrap --variant=minbase ${1:+"--include=${include%,}"} "$suite" "$part" >&2 ||
    die "debootstrap failed" "see the messages above; on other systems than Debian it needs the package debian-archive-keyring"
# A bare root shows that chaski works without these libraries.
[ $# -gt 0 ] || find "$part/usr/lib" '(' -name 'libstdc++.so*' -o -name 'libgomp.so*' ')' -delete
chmod 755 "$part"
rm -rf "$part/var/cache/apt/archives" "$part/var/lib/apt/lists"
mv "$part" "$path"
printf '%s\n' "$path"
