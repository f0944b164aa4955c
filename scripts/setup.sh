#!/usr/bin/env bash
# Installs what building and testing need and this machine lacks: cmake, make, a C++ compiler, libclang (for the
# bindings), git, Python 3 with pip (for the models). With apt, brew, dnf or pacman; nothing happens if all is there.
# Rust itself is only looked for: how to install it is your choice.
#
# usage: scripts/setup.sh
. "$(dirname "$0")/lib.sh"

case ${1:-} in
    '') ;;
    -h | --help) usage && exit ;;
    *) die "unknown argument '$1'" "scripts/setup.sh --help" 2 ;;
esac

have_cxx() { have "${CXX:-c++}" || have g++ || have clang++; }

# Where bindgen looks. `so*` and the digit exclude libclang-cpp, which is another library.
have_libclang() {
    local file
    for file in "${LIBCLANG_PATH:-/nonexistent}"/libclang* \
        /usr/lib/llvm*/lib/libclang.so* /usr/lib/llvm*/lib/libclang-[0-9]*.so* \
        /usr/lib/libclang.so* /usr/lib64/libclang.so* /usr/local/lib/libclang.so* \
        /usr/lib/*-linux-gnu*/libclang.so* /usr/lib/*-linux-gnu*/libclang-[0-9]*.so* /usr/lib64/llvm*/lib*/libclang.so* \
        /Library/Developer/CommandLineTools/usr/lib/libclang.dylib \
        /Applications/Xcode*.app/Contents/Developer/Toolchains/XcodeDefault.xctoolchain/usr/lib/libclang.dylib \
        /opt/homebrew/opt/llvm*/lib/libclang.dylib /usr/local/opt/llvm*/lib/libclang.dylib; do
        [ -e "$file" ] && return
    done
    return 1
}

# libclang's headers come with the clang program; Xcode and a custom library bring their own.
have_clang_headers() { have clang || [ -n "${LIBCLANG_PATH:-}" ] || [ "$(uname -s)" = Darwin ]; }

have_pip() {
    have pip3 || have pip ||
        python3 -c 'import importlib.util as u, sys; sys.exit(u.find_spec("pip") is None)' 2>/dev/null
}

# Lists what is missing, in words that package_of turns into package names.
missing() {
    have cmake || echo cmake
    have make || echo make
    have_cxx || echo c++
    { have_libclang && have_clang_headers; } || echo libclang
    have git || echo git
    have python3 || echo python3
    have_pip || echo pip
}

package_of() { # MANAGER NEED
    case $1:$2 in
        apt-get:make | apt-get:c++) echo build-essential ;;
        apt-get:libclang) echo clang libclang-dev ;;
        dnf:c++) echo gcc-c++ ;;
        dnf:libclang) echo clang clang-devel ;;
        pacman:make | pacman:c++) echo base-devel ;;
        pacman:libclang) echo clang ;;
        pacman:python3) echo python ;;
        pacman:pip) echo python-pip ;;
        brew:libclang) echo llvm ;;
        brew:python3 | brew:pip) echo python ;;
        *:pip) echo python3-pip ;;
        *) echo "$2" ;;
    esac
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        die "$1 needs root, and sudo is not installed" "as root, run: $*"
    fi
}

install() { # NEED...
    local manager need packages=()
    for manager in apt-get dnf pacman brew none; do
        have $manager && break
    done
    [ $manager != none ] || die "missing: $*" "install them with this system's package manager (none of apt, dnf, pacman, brew is here)"
    if [ $manager = brew ]; then
        case " $* " in
            *" make "* | *" c++ "*) die "no compiler" "xcode-select --install" ;;
        esac
    fi
    for need in "$@"; do
        # shellcheck disable=SC2207 # package names are words
        packages+=($(package_of $manager "$need"))
    done
    say "installing ${packages[*]} with $manager"
    case $manager in
        apt-get)
            # A fresh container has no package lists; elsewhere, stale lists often still work.
            as_root apt-get update -qq || say "warning: apt-get update failed; trying with the lists that are here"
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
            ;;
        dnf) as_root dnf install -y -q "${packages[@]}" ;;
        pacman) as_root pacman -S --noconfirm --needed "${packages[@]}" ;;
        brew) brew install --quiet "${packages[@]}" ;;
    esac
}

needs=$(missing)
if [ -n "$needs" ]; then
    # shellcheck disable=SC2086 # one word per need; stdout belongs to the scripts that call this one
    install $needs >&2
    hash -r
    needs=$(missing)
    # shellcheck disable=SC2086
    [ -z "$needs" ] || die "still missing after the installation:$(printf ' %s' $needs)" "see the messages above"
fi
have cargo || die "cargo is not installed" "install Rust from https://rustup.rs, then run this again"
