#!/usr/bin/env bash
# Makes the files of a release in dist/: an archive with a portable binary, completions, man pages, licences and documents; on
# Linux a Debian package too; and their checksums. With --formula it writes the Homebrew formula from checksums of all systems.
#
# usage: scripts/release.sh --repository URL            this system's archive and checksums
#        scripts/release.sh --repository URL --formula  dist/chaski.rb, from the *.sha256 files in dist/
. "$(dirname "$0")/lib.sh"

repository='' formula=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit ;;
        --repository) repository=${2:?a URL} && shift 2 ;;
        --formula) formula=1 && shift ;;
        *) die "unknown argument '$1'" "scripts/release.sh --help" 2 ;;
    esac
done
[ -n "$repository" ] || die "--repository is missing" "as in --repository https://example.org/chaski" 2
repository=${repository%/}

cd "$root"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
dist=$root/dist
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
    'Linux x86_64') target=linux-x86_64 debian=amd64 ;;
    'Linux aarch64') target=linux-arm64 debian=arm64 ;;
    'Darwin arm64') target=macos-arm64 debian= ;;
    *) die "no release is made for $(uname -sm)" ;;
esac

features=()
[ "$target" != macos-arm64 ] || features=(--features metal)
scripts/build.sh --portable ${features[@]+"${features[@]}"} >&2

name=chaski-$version-$target
out=$dist/$name
rm -rf "$out"
mkdir -p "$out/completions" "$out/docs"
cp "$CARGO_TARGET_DIR/release/chaski" "$out/chaski"
strip "$out/chaski"
# The file that is given away is the file that is tried.
"$out/chaski" --version >&2
"$out/chaski" man "$out/man" >&2
"$out/chaski" completions bash >"$out/completions/chaski.bash"
"$out/chaski" completions zsh >"$out/completions/_chaski"
"$out/chaski" completions fish >"$out/completions/chaski.fish"
cp LICENSE-APACHE LICENSE-MIT CHANGELOG.md "$out/"
sed "s|git clone REPOSITORY |git clone $repository |" README.md >"$out/README.md"
cp docs/*.md "$out/docs/"

# The times of the commit, names in order and no owner, so that the same files give the same archive.
date=@$(git log -1 --format=%ct)
find "$out" -exec touch -h -d "$date" {} + 2>/dev/null || true
(cd "$dist" && find "$name" -type f | LC_ALL=C sort | tar -cf - --no-recursion -T - ${debian:+--owner=0 --group=0 --numeric-owner}) |
    gzip -n >"$dist/$name.tar.gz"
(cd "$dist" && sha256 "$name.tar.gz" >"$name.tar.gz.sha256")
say "dist/$name.tar.gz"

if [ -n "$debian" ] && have dpkg-deb; then
    package=$dist/deb
    rm -rf "$package"
    mkdir -p "$package/DEBIAN" "$package/usr/bin" "$package/usr/share/man/man1" "$package/usr/share/doc/chaski" \
        "$package/usr/share/bash-completion/completions" "$package/usr/share/zsh/vendor-completions" \
        "$package/usr/share/fish/vendor_completions.d"
    cp "$out/chaski" "$package/usr/bin/"
    for page in "$out"/man/*.1; do gzip -9 -n -c "$page" >"$package/usr/share/man/man1/$(basename "$page").gz"; done
    cp "$out/completions/chaski.bash" "$package/usr/share/bash-completion/completions/chaski"
    cp "$out/completions/_chaski" "$package/usr/share/zsh/vendor-completions/_chaski"
    cp "$out/completions/chaski.fish" "$package/usr/share/fish/vendor_completions.d/chaski.fish"
    cp "$out"/LICENSE-* "$out/README.md" "$package/usr/share/doc/chaski/"
    cat >"$package/DEBIAN/control" <<END
Package: chaski
Version: $version
Architecture: $debian
Section: utils
Priority: optional
Depends: libc6, libstdc++6, libgcc-s1, libgomp1
Homepage: $repository
Maintainer: The Chaski developers <chaski@localhost>
Description: Run GGUF language models on your CPU
 Chat in the terminal, answers in scripts, batches of thousands of prompts. Offline, with the same bytes for the same seed.
END
    find "$package" -exec touch -h -d "$date" {} +
    SOURCE_DATE_EPOCH=${date#@} dpkg-deb --root-owner-group --build "$package" "$dist/chaski_${version}_$debian.deb" >&2
    (cd "$dist" && sha256 "chaski_${version}_$debian.deb" >"chaski_${version}_$debian.deb.sha256")
    rm -rf "$package"
    say "dist/chaski_${version}_$debian.deb"
fi
