#!/usr/bin/env bash
# Makes the files of a release in dist/: an archive with a portable binary, completions, man pages, the licences of everything in
# it, an SBOM (CycloneDX) and documents; on Linux a Debian package too; the SBOM by itself; and checksums. The same commit,
# toolchain and paths give the same bytes. On Linux the binary is checked: it may need nothing but glibc and libgcc_s. For an old
# glibc and fixed paths: scripts/in-debian.sh scripts/release.sh --repository URL. With --formula it writes the Homebrew formula.
#
# usage: scripts/release.sh --repository URL [--glibc VERSION] [--binary FILE] [--dist FOLDER]
#            VERSION: the newest glibc that the binary may need; FILE: pack this binary, and build none
#        scripts/release.sh --repository URL --formula  dist/chaski.rb, from the *.sha256 files in dist/
# SOURCE_DATE_EPOCH is the time of all files; the time of the commit by default.
. "$(dirname "$0")/lib.sh"

repository='' formula='' newest_glibc='' binary='' dist=$root/dist
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit ;;
        --repository) repository=${2:?a URL} && shift 2 ;;
        --formula) formula=1 && shift ;;
        --glibc) newest_glibc=${2:?a version} && shift 2 ;;
        --binary) binary=${2:?a file} && shift 2 ;;
        --dist) dist=${2:?a folder} && shift 2 ;;
        *) die "unknown argument '$1'" "scripts/release.sh --help" 2 ;;
    esac
done
[ -n "$repository" ] || die "--repository is missing" "as in --repository https://example.org/chaski" 2
repository=${repository%/}
absolute() { case $1 in /*) printf '%s\n' "$1" ;; *) printf '%s/%s\n' "$PWD" "$1" ;; esac; }
dist=$(absolute "$dist")
[ -z "$binary" ] || binary=$(absolute "$binary")

cd "$root"
# Nothing in the files depends on who makes them and where.
umask 022
export LC_ALL=C TZ=UTC0
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
mkdir -p "$dist"

sha256() { if have sha256sum; then sha256sum "$@"; else shasum -a 256 "$@"; fi; }

sum_of() { # TARGET: the checksum of that system's archive
    cut -d ' ' -f 1 "$dist/chaski-$version-$1.tar.gz.sha256" 2>/dev/null ||
        die "dist/chaski-$version-$1.tar.gz.sha256 is missing" "run scripts/release.sh on that system first"
}

if [ -n "$formula" ]; then
    url=$repository/releases/download/v$version/chaski-$version
    mac=$(sum_of macos-arm64) linux=$(sum_of linux-x86_64) arm=$(sum_of linux-arm64)
    cat >"$dist/chaski.rb" <<END
class Chaski < Formula
  desc "Run GGUF language models on your CPU: chat, scripts, batches"
  homepage "$repository"
  version "$version"
  license any_of: ["MIT", "Apache-2.0"]

  on_macos do
    on_arm do
      url "$url-macos-arm64.tar.gz"
      sha256 "$mac"
    end
  end

  on_linux do
    on_intel do
      url "$url-linux-x86_64.tar.gz"
      sha256 "$linux"
    end
    on_arm do
      url "$url-linux-arm64.tar.gz"
      sha256 "$arm"
    end
  end

  def install
    bin.install "chaski"
    man1.install Dir["man/*.1"]
    bash_completion.install "completions/chaski.bash" => "chaski"
    zsh_completion.install "completions/_chaski"
    fish_completion.install "completions/chaski.fish"
    doc.install "licences", "chaski.cdx.json"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/chaski --version")
  end
end
END
    say "dist/chaski.rb"
    exit
fi

case $(uname -sm) in
    'Linux x86_64') target=linux-x86_64 rust=x86_64-unknown-linux-gnu debian=amd64 features='' ;;
    'Linux aarch64') target=linux-arm64 rust=aarch64-unknown-linux-gnu debian=arm64 features='' ;;
    'Darwin arm64') target=macos-arm64 rust=aarch64-apple-darwin debian='' features=metal ;;
    *) die "no release is made for $(uname -sm)" ;;
esac
have python3 || die "python3 is not installed" "scripts/setup.sh installs what is missing"

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
# touch's format. GNU's date knows -d, BSD's -r.
time=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M.%S 2>/dev/null || date -u -r "$SOURCE_DATE_EPOCH" +%Y%m%d%H%M.%S)
settle() { # FOLDER: the same modes and times for everything in it
    chmod -R u=rwX,go=rX "$1"
    find "$1" -exec touch -h -t "$time" {} +
}
if tar --version 2>/dev/null | grep -q GNU; then owner=(--owner=0 --group=0); else owner=(--uid 0 --gid 0); fi

if [ -z "$binary" ]; then
    scripts/build.sh --portable ${features:+--features "$features"} >&2
    binary=$CARGO_TARGET_DIR/release/chaski
fi
name=chaski-$version-$target
out=$dist/$name
rm -rf "$out"
mkdir -p "$out/completions" "$out/docs"
cp "$binary" "$out/chaski"
strip "$out/chaski"
glibc=''
if [ -n "$debian" ]; then
    glibc=$(scripts/check-portable.sh "$out/chaski" ${newest_glibc:+--glibc "$newest_glibc"})
    say "the binary needs glibc $glibc or newer, and libgcc_s"
fi
# The file that is given away is the file that is tried.
"$out/chaski" --version >&2
"$out/chaski" man "$out/man" >&2
"$out/chaski" completions bash >"$out/completions/chaski.bash"
"$out/chaski" completions zsh >"$out/completions/_chaski"
"$out/chaski" completions fish >"$out/completions/chaski.fish"
cp LICENSE-APACHE LICENSE-MIT CHANGELOG.md "$out/"
cp README.md "$out/"
cp docs/*.md "$out/docs/"
for page in README.md docs/install.md; do
    sed -e "s|git clone REPOSITORY |git clone $repository |" -e "s|--git REPOSITORY |--git $repository |" "$page" >"$out/$page"
done
parts=(--target "$rust" --features "$features")
# On Linux, GCC's libraries are in the binary.
[ -z "$debian" ] || parts+=(--static-runtime "${CXX:-c++}")
python3 scripts/licences.py "${parts[@]}" "$out/licences" >&2
python3 scripts/sbom.py "${parts[@]}" --binary "$out/chaski" "$out/chaski.cdx.json"

settle "$out"
(cd "$dist" && find "$name" -type f | sort | tar -cf - --format=ustar --no-recursion "${owner[@]}" --numeric-owner -T -) |
    gzip -9 -n >"$dist/$name.tar.gz"
cp "$out/chaski.cdx.json" "$dist/$name.cdx.json"
files=("$name.tar.gz" "$name.cdx.json")

if [ -n "$debian" ] && have dpkg-deb; then
    package=$dist/deb
    rm -rf "$package"
    share=$package/usr/share
    mkdir -p "$package/DEBIAN" "$package/usr/bin" "$share/man/man1" "$share/doc/chaski" \
        "$share/bash-completion/completions" "$share/zsh/vendor-completions" "$share/fish/vendor_completions.d"
    cp "$out/chaski" "$package/usr/bin/"
    for page in "$out"/man/*.1; do gzip -9 -n -c "$page" >"$share/man/man1/$(basename "$page").gz"; done
    cp "$out/completions/chaski.bash" "$share/bash-completion/completions/chaski"
    cp "$out/completions/_chaski" "$share/zsh/vendor-completions/_chaski"
    cp "$out/completions/chaski.fish" "$share/fish/vendor_completions.d/chaski.fish"
    cp "$out/README.md" "$out/chaski.cdx.json" "$share/doc/chaski/"
    gzip -9 -n -c "$out/licences/rust-standard-library.html" >"$share/doc/chaski/rust-standard-library.html.gz"
    gzip -9 -n -c CHANGELOG.md >"$share/doc/chaski/changelog.gz"
    cat - LICENSE-MIT LICENSE-APACHE "$out/licences/third-party.txt" >"$share/doc/chaski/copyright" <<END
Chaski ($repository) may be used under either of the two licences that follow. After them: the licences of what it contains.

END
    cat >"$package/DEBIAN/control" <<END
Package: chaski
Version: $version
Architecture: $debian
Section: utils
Priority: optional
Installed-Size: $(find "$package/usr" -type f -exec cat {} + | wc -c | awk '{ print int($1 / 1024) + 1 }')
Depends: libc6 (>= $glibc), libgcc-s1
Homepage: $repository
Maintainer: The Chaski developers <chaski@localhost>
Description: Run GGUF language models on your CPU
 Chat in the terminal, answers in scripts, batches of thousands of prompts. Offline, with the same bytes for the same seed.
END
    settle "$package"
    # gzip: what xz writes depends on the number of threads.
    dpkg-deb --root-owner-group -Zgzip --build "$package" "$dist/chaski_${version}_$debian.deb" >&2
    rm -rf "$package"
    files+=("chaski_${version}_$debian.deb")
fi
for file in "${files[@]}"; do
    (cd "$dist" && sha256 "$file" >"$file.sha256")
    say "$dist/$file"
done
