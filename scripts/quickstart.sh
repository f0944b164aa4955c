#!/usr/bin/env bash
# From a fresh clone to a model that answers: sets up, builds, fetches a model and runs a prompt. The text is on
# stdout, everything else on stderr. The second time it takes seconds.
#
# usage: scripts/quickstart.sh [MODEL_NAME] [PROMPT]     scripts/get-model.sh --list shows the names
. "$(dirname "$0")/lib.sh"

case ${1:-} in
    -h | --help) usage && exit ;;
    -*) die "unknown argument '$1'" "scripts/quickstart.sh --help" 2 ;;
esac
[ $# -le 2 ] || die "too many arguments" "put the prompt in quotes" 2

"$root/scripts/setup.sh"
# The model first, so that an unknown name fails before minutes of building.
model=$("$root/scripts/get-model.sh" ${1:+"$1"})
"$root/scripts/build.sh" >&2
exec "$CARGO_TARGET_DIR/release/chaski" run -m "$model" -n 128 -p "${2:-Explain in three sentences why the sky is blue.}"
