#!/usr/bin/env bash
# Downloads a model of models/models.toml and prints its path to stdout; see --help.
. "$(dirname "$0")/lib.sh"

have python3 || die "python3 is not installed" "scripts/setup.sh installs what is missing"
exec python3 "$root/scripts/get_model.py" "$@"
