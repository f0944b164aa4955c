#!/usr/bin/env bash
# Runs the recipes: every block ```sh of docs/recipes.md but the first, which is for people's own shells, as it is pasted.
# Each runs in one folder with a letter, a table, a git repository and a home of its own, and must end with exit code 0.
#
# usage: scripts/test-recipes.sh [CHASKI [MODEL]]     the binary and the model [default: those built and fetched here]
. "$(dirname "$0")/lib.sh"

case ${1:-} in -h | --help) usage && exit ;; esac
chaski=${1:-$CARGO_TARGET_DIR/release/chaski}
[ -x "$chaski" ] || die "$chaski: no such program" "scripts/build.sh builds it"
model=${2:-$("$root/scripts/get-model.sh" smollm2-135m-instruct)}
absolute() { printf '%s/%s\n' "$(cd "$(dirname "$1")" && pwd)" "$(basename "$1")"; }
chaski=$(absolute "$chaski")
model=$(absolute "$model")

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
mkdir "$place/bin" "$place/home" "$place/work"
ln -s "$chaski" "$place/bin/chaski"

# Writes the blocks to files, in order.
awk -v place="$place" '
    /^```sh$/ { inside = 1; block = sprintf("%s/block-%02d.sh", place, ++n); next }
    /^```$/ { inside = 0 }
    inside { print > block }
' "$root/docs/recipes.md"
rm "$place/block-01.sh"

cd "$place/work"
cat >letter.txt <<'LETTER'
Dear Maria,
the roof of the station is mended, and the train to Puno runs again from Monday. Thank you for the tools; Luis brings them
back on Sunday. Please tell the others that the meeting is at six and not at seven.
Yours, Pedro
LETTER
printf 'id,body\n1,The train is late today.\n2,"Lunch is at noon, in the garden."\n' >mails.csv
export HOME="$place/home" PATH="$place/bin:$PATH" LLAMA_ARG_MODEL="$model"
unset XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME XDG_STATE_HOME CHASKI_PROFILE
git init -q .
printf 'def area(r):\n    return 3.14159 * r * r\n' >area.py
git add area.py

for block in "$place"/block-*.sh; do
    say "recipe: $(head -n 1 "$block")"
    bash -euo pipefail "$block" </dev/null >"$place/out" 2>"$place/err" || {
        sed 's/^/    /' "$block" "$place/out" "$place/err" >&2
        die "a recipe of docs/recipes.md failed"
    }
done
say "all recipes work"
