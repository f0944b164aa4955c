#!/usr/bin/env bash
# Tests of the scripts that make a release, offline, in seconds: cargo, rustc, objdump, strip and the binary are stand-ins, and so
# is llama.cpp. Only on Debian and its like, whose compiler and dpkg-deb they need.
set -euo pipefail

. "$(dirname "$0")/scripts_lib.sh"
if ! command -v dpkg-deb >/dev/null || ! command -v c++ >/dev/null; then
    echo "skipped: this is no Debian with a C++ compiler"
    exit
fi

# --- what a binary needs --------------------------------------------------------------------------------------------

# objdump NEEDED... prints what objdump prints for such a binary; $tmp/symbols has its symbols.
stub "$tmp/bin" objdump <<STUB
case \$1 in
    -p) for library in \$(cat "$tmp/needed"); do echo "  NEEDED               \$library"; done ;;
    -T) cat "$tmp/symbols" ;;
esac
STUB
glibc_libraries='libgcc_s.so.1 libm.so.6 libc.so.6 ld-linux-x86-64.so.2'
echo "$glibc_libraries" >"$tmp/needed"
printf '0000 DF *UND* 0000 (GLIBC_%s) %s\n' 2.2.5 read 2.9 pipe2 2.31 x 2.4 y >"$tmp/symbols"
export PATH="$tmp/bin:$PATH"
check() { "$root/scripts/check-portable.sh" file "$@"; }
ok portable_prints_the_newest_version all run 0 check , out_is 2.31
ok portable_within_the_limit all run 0 check --glibc 2.31 , out_is 2.31
ok portable_beyond_the_limit all run 1 check --glibc 2.9 , err_has 'needs glibc 2.31, because of x' , err_has 'hint:'
for library in libstdc++.so.6 libgomp.so.1 libssl.so.3; do
    echo "$library $glibc_libraries" >"$tmp/needed"
    ok "portable_without_$library" all run 1 check , err_has "needs $library" , err_has 'hint:'
done
: >"$tmp/needed"
ok portable_static all run 1 check , err_has 'needs no library at all'
ok portable_without_a_file run 2 "$root/scripts/check-portable.sh"
echo "$glibc_libraries" >"$tmp/needed"

# --- licences -------------------------------------------------------------------------------------------------------

expressions() {
    python3 - "$root/scripts" <<'PY'
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
from third_party import Failure, is_satisfied
for expression, names, expected in [
    ("MIT", {"MIT"}, True),
    ("MIT", set(), False),
    ("MIT OR Apache-2.0", {"Apache-2.0"}, True),
    ("MIT/Apache-2.0", {"MIT"}, True),
    ("(MIT OR Apache-2.0) AND Unicode-3.0", {"MIT"}, False),
    ("(MIT OR Apache-2.0) AND Unicode-3.0", {"Apache-2.0", "Unicode-3.0"}, True),
    ("MIT AND (Apache-2.0 OR Zlib)", {"Zlib"}, False),
    ("Apache-2.0 WITH LLVM-exception", {"Apache-2.0"}, False),
    ("Apache-2.0 WITH LLVM-exception OR MIT", {"MIT"}, True),
]:
    assert is_satisfied(expression, names) is expected, expression
for broken in ("", "(MIT", "MIT MIT"):
    try:
        assert not is_satisfied(broken, {"MIT"}) and broken == "", broken
    except Failure:
        assert broken
PY
}
ok licence_expressions run 0 expressions

# A tree with the scripts, and a program of three crates: `one`, llama-cpp-sys-2, and `tool`, which is used while building. Nothing
# turns on `option`, which is in the metadata all the same.
tree=$tmp/tree crates=$tmp/crates
mkdir -p "$tree/docs" "$crates/one" "$crates/tool" "$tmp/rust/share/doc/rust/licenses"
cp -R "$root/scripts" "$root/LICENSE-MIT" "$root/LICENSE-APACHE" "$tree/"
echo 'git clone REPOSITORY chaski' >"$tree/README.md"
echo changes >"$tree/CHANGELOG.md"
echo text >"$tree/docs/one.md"
echo 'cargo install --git REPOSITORY chaski' >"$tree/docs/install.md"
printf 'version = "1.2.3"\n' >"$tree/Cargo.toml"
printf '[[package]]\nname = "one"\nversion = "1.0.0"\nchecksum = "%064d"\n' 7 >"$tree/Cargo.lock"
cp "$root/LICENSE-MIT" "$crates/one/LICENSE"
for name in Apache-2.0 MIT Unicode-3.0; do cp "$root/LICENSE-APACHE" "$tmp/rust/share/doc/rust/licenses/$name.txt"; done
echo 'GNU GENERAL PUBLIC LICENSE Version 3, 29 June 2007' >"$tmp/rust/share/doc/rust/licenses/GPL-3.0-or-later.txt"
echo 'GCC RUNTIME LIBRARY EXCEPTION' >"$tmp/rust/share/doc/rust/licenses/GCC-exception-3.1.txt"
echo '<html>notices</html>' >"$tmp/rust/share/doc/rust/COPYRIGHT-library.html"
source_file() { # FILE in llama.cpp, its text on stdin
    mkdir -p "$(dirname "$crates/sys/llama.cpp/$1")"
    cat >"$crates/sys/llama.cpp/$1"
}
versions() { printf "set(${1}_VERSION_%s %s)\n" MAJOR 3 MINOR 2 PATCH 1; }
versions LLAMA | source_file CMakeLists.txt
versions GGML | source_file ggml/CMakeLists.txt
source_file LICENSE <"$root/LICENSE-MIT"
mkdir -p "$crates/sys/llama.cpp/vendor/hash"
sed 's|^|// |' "$root/LICENSE-MIT" | source_file ggml/src/ggml-cpu/llamafile/sgemm.cpp
echo '// MIT licensed. Copyright (c) 2023 Jeffrey Quesnelle and Bowen Peng.' | source_file ggml/src/ggml-cpu/ops.cpp
printf '// github.com/openvinotoolkit/openvino\n// adapted from arm limited optimized routine\n' | source_file ggml/src/ggml-cpu/vec.h
echo '// adapted from github.com/cmp-nct/ggllm.cpp [MIT License]' | source_file src/llama-vocab.cpp
echo '// Copyright of a back end that is not built' | source_file ggml/src/ggml-cuda/x.c
python3 - "$crates" >"$tmp/metadata" <<'PY'
import json, sys
names = {"chaski": "../tree", "one": "one", "llama-cpp-sys-2": "sys", "tool": "tool", "option": "option"}
edge = lambda name, kind: {"pkg": name, "dep_kinds": [{"kind": kind, "target": None}]}
edges = {"chaski": [edge("one", None), edge("llama-cpp-sys-2", None)], "one": [edge("option", None)], "llama-cpp-sys-2": [edge("tool", "build")]}
print(json.dumps({
    "packages": [{"id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0", "manifest_path": f"{sys.argv[1]}/{path}/Cargo.toml"} for name, path in names.items()],
    "workspace_members": ["chaski"],
    "resolve": {"root": "chaski", "nodes": [{"id": name, "deps": edges.get(name, [])} for name in names]},
}))
PY
stub "$tmp/bin" cargo <<STUB
case \$1 in
    metadata) cat "$tmp/metadata" ;;
    tree) printf '%s v1.0.0\n' chaski one llama-cpp-sys-2 tool 'one v1.0.0 (*)' ;;
esac
STUB
stub "$tmp/bin" rustc <<STUB
case \$1 in --print) echo "$tmp/rust" ;; *) echo "rustc 1.99.0 (0123 2026-01-01)" ;; esac
STUB
licences() { "$tree/scripts/licences.py" "$@" "$tmp/licences"; }
text=$tmp/licences/third-party.txt
ok licences_of_all all run 0 licences , grep -q '^one  *1.0.0  *MIT OR Apache-2.0$' "$text" , grep -q '^ggml  *3.2.1 ' "$text" , \
    grep -q 'Copyright (c) 2023 Jeffrey Quesnelle and Bowen Peng' "$text"
ok licences_without_tools test -z "$(grep '^tool ' "$text")"
ok licences_without_options test -z "$(grep '^option ' "$text")"
ok licences_without_gcc test -z "$(grep '^libgomp ' "$text")"
ok licences_of_gcc all run 0 licences --static-runtime c++ , grep -q '^libgomp ' "$text" , grep -q 'Hewlett-Packard' "$text"
echo '../LICENSE' >"$crates/one/LICENSE"
ok licences_missing_text all run 1 licences , err_has "one 1.0.0 has no text of its licence" , err_has 'hint:'
cp "$root/LICENSE-MIT" "$crates/one/LICENSE"
echo '/* Copyright (c) 2027 Somebody */' | source_file src/new.h
ok licences_new_owner all run 1 licences , err_has 'llama.cpp/src/new.h names an owner' , err_has 'hint:'
rm "$crates/sys/llama.cpp/src/new.h"
echo x | source_file vendor/new/new.h
ok licences_new_vendored_code all run 1 licences , err_has 'new code in vendor/: new'
rm -r "$crates/sys/llama.cpp/vendor/new"
echo '// changed' | source_file ggml/src/ggml-cpu/ops.cpp
ok licences_changed_llama_cpp all run 1 licences , err_has 'ops.cpp does not have' , err_has 'hint:'
echo '// MIT licensed. Copyright (c) 2023 Jeffrey Quesnelle and Bowen Peng.' | source_file ggml/src/ggml-cpu/ops.cpp

# --- packing --------------------------------------------------------------------------------------------------------

stub "$tmp/bin" strip <<<'true'
stub "$tmp/bin" uname <<<'echo Linux x86_64'
stub "$tmp" chaski <<'STUB'
case $1 in
    --version) echo chaski 1.2.3 ;;
    man) mkdir -p "$2" && echo page >"$2/chaski.1" && echo page >"$2/chaski-run.1" ;;
    completions) echo "$2" ;;
esac
STUB
release() { # DIST [ARGUMENT...]
    SOURCE_DATE_EPOCH=1700000000 "$tree/scripts/release.sh" --repository https://example.org/chaski/ --binary "$tmp/chaski" --dist "$tmp/$1" "${@:2}"
}
again() { (cd / && umask 077 && TZ=Asia/Tokyo LC_ALL=C.UTF-8 release second); }
archive=chaski-1.2.3-linux-x86_64
files_are() { # FOLDER FILE...
    [ "$(cd "$tmp/$1" && ls -d ./*.*)" = "$(printf './%s\n' "${@:2}")" ]
}
differ() { ! same "$@"; }
ok release_files all run 0 release first , out_is '' , err_has 'needs glibc 2.31' , \
    files_are first $archive $archive.cdx.json{,.sha256} $archive.tar.gz{,.sha256} chaski_1.2.3_amd64.deb{,.sha256}
sleep 1
ok release_twice_the_same_bytes all run 0 again , same "$tmp/first/$archive.tar.gz" "$tmp/second/$archive.tar.gz" , \
    same "$tmp/first/$archive.cdx.json" "$tmp/second/$archive.cdx.json" , same "$tmp/first/chaski_1.2.3_amd64.deb" "$tmp/second/chaski_1.2.3_amd64.deb"
touch "$tree/docs/two.md"
ok release_other_files_other_bytes all run 0 again , differ "$tmp/first/$archive.tar.gz" "$tmp/second/$archive.tar.gz"
names=$(tar -tzf "$tmp/first/$archive.tar.gz" | sed "s|^$archive/||")
contains() { # NAME...: the archive has these files
    local name
    for name in "$@"; do grep -qxF "$name" <<<"$names" || return; done
}
ok release_archive contains chaski chaski.cdx.json licences/third-party.txt licences/rust-standard-library.html LICENSE-MIT LICENSE-APACHE \
    man/chaski.1 completions/_chaski completions/chaski.bash completions/chaski.fish README.md CHANGELOG.md docs/one.md
ok release_names_the_repository test "$(tar -xOzf "$tmp/first/$archive.tar.gz" $archive/README.md $archive/docs/install.md)" = \
    $'git clone https://example.org/chaski chaski\ncargo install --git https://example.org/chaski chaski'
ok release_checksums_hold sh -c "cd '$tmp/first' && sha256sum -c --quiet *.sha256"
control() { dpkg-deb -f "$tmp/first/chaski_1.2.3_amd64.deb" "$1"; }
ok release_deb_needs_the_glibc_of_the_binary test "$(control Depends)" = 'libc6 (>= 2.31), libgcc-s1'
ok release_too_new_a_glibc all run 1 release third --glibc 2.9 , err_has 'needs glibc 2.31' , test ! -e "$tmp/third/$archive.tar.gz"
ok release_formula_needs_all_systems all run 1 release first --formula , err_has 'macos-arm64' , err_has 'hint:'
for other in macos-arm64 linux-arm64; do echo "$other-sum x" >"$tmp/first/chaski-1.2.3-$other.tar.gz.sha256"; done
ok release_formula all run 0 release first --formula , grep -q 'sha256 "linux-arm64-sum"' "$tmp/first/chaski.rb" , \
    grep -qF "sha256 \"$(cut -d ' ' -f 1 "$tmp/first/$archive.tar.gz.sha256")\"" "$tmp/first/chaski.rb"
ok release_without_a_repository run 2 "$tree/scripts/release.sh"

# --- root file systems ----------------------------------------------------------------------------------------------

stub "$tmp/bin" id <<<'echo 1000'
for script in "debian-root.sh bookworm" "in-debian.sh true" "test-portable.sh --binary $tmp/chaski"; do
    # shellcheck disable=SC2086 # words
    ok "root_is_needed: ${script%% *}" all run 1 env CARGO_TARGET_DIR="$tmp/target" "$tree/scripts/"$script , err_has 'root' , err_has 'hint: sudo'
    # shellcheck disable=SC2086
    ok "unknown_argument: ${script%% *}" all run 2 "$tree/scripts/${script%% *}" --nope , err_has 'hint:'
done

finish
