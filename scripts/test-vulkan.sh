#!/usr/bin/env bash
# Builds chaski with Vulkan, runs the tests of its engine on a Vulkan device, and prints the results as tables. The device is Mesa's
# lavapipe, which computes on the CPU: any machine can run these tests, but the times say nothing about a GPU.
# As root on Debian or Ubuntu it installs the packages that are missing.
#
# usage: scripts/test-vulkan.sh [-m MODEL.gguf] [--device N]
#        MODEL: a quantized model for the runs, the cost curve and `tune`. By default they use a generated model with two blocks,
#               and a short answer of SmolLM2-135M comes last: lavapipe needs seconds for each of its tokens
#        N: use this device instead, as numbered by `vulkaninfo --summary`
# On lavapipe the tests take fewer cases (CHASKI_TEST_FEW). The exit code is 0 if all tests passed, else 1. The build and the
# compiled shaders are in target/vulkan.
# shellcheck disable=SC2016 # backquotes in the output are Markdown's
. "$(dirname "$0")/lib.sh"

model='' device=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit ;;
        -m) model=${2:?a file} && shift 2 ;;
        --device) device=${2:?a number} && shift 2 ;;
        *) die "unknown argument '$1'" "scripts/test-vulkan.sh --help" 2 ;;
    esac
done
[ "$(uname)" = Linux ] || die "this test needs Linux" "on macOS, build with --features metal"
real=${model:-${CHASKI_TEST_MODEL:-$("$root/scripts/get-model.sh" smollm2-135m-instruct)}}
[ -f "$real" ] || die "$real: no such file"
real=$(cd "$(dirname "$real")" && pwd)/$(basename "$real")
model=${model:+$real}

lavapipe() { find /usr/share/vulkan/icd.d -name 'lvp_icd*.json' 2>/dev/null | head -n 1; }
missing() { # the Debian packages that are not there
    [ -n "$device" ] || [ -n "$(lavapipe)" ] || echo mesa-vulkan-drivers
    have glslc || echo glslc
    [ -e /usr/include/vulkan/vulkan.hpp ] || echo libvulkan-dev
    [ -e /usr/include/spirv/unified1/spirv.hpp ] || echo spirv-headers
}
packages=$(missing | tr '\n' ' ')
if [ -n "$packages" ]; then
    if [ "$(id -u)" != 0 ] || ! have apt-get; then
        die "Vulkan's build tools are missing" "as root on Debian or Ubuntu: apt-get install $packages"
    fi
    say "installing $packages"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update >&2 || die "apt-get update fails"
    # shellcheck disable=SC2086 # package names are words
    apt-get -qq install --no-install-recommends $packages >&2 || die "apt-get cannot install $packages"
    packages=$(missing | tr '\n' ' ')
    [ -z "$packages" ] || die "still missing after the installation: $packages"
fi

cd "$root"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
CARGO_TARGET_DIR=$CARGO_TARGET_DIR/vulkan

# llama.cpp needs newer headers of Vulkan than Debian 12 has (1.3.239). Those of Debian 13 are unpacked beside the build.
newer=$CARGO_TARGET_DIR/headers
are_new() { grep -q 'struct LayerSettingsCreateInfoEXT' "$1/vulkan/vulkan_structs.hpp" 2>/dev/null; }
unpack_newer() {
    local apt=$work/apt mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$newer"
    printf 'deb %s trixie main\n' "$mirror" >"$apt/sources.list"
    set -- -qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache"
    (cd "$apt" && apt-get "$@" update && apt-get "$@" download libvulkan-dev) >&2 && dpkg-deb -x "$apt"/libvulkan-dev_*.deb "$newer"
}
vulkan="the system's"
if ! are_new /usr/include; then
    vulkan="Debian 13's"
    if ! are_new "$newer/usr/include"; then
        say "Vulkan's headers are too old: fetching those of Debian 13"
        ! have apt-get || unpack_newer || say "warning: cannot fetch them"
        are_new "$newer/usr/include" ||
            die "Vulkan's headers are too old for llama.cpp" "Debian 13's libvulkan-dev (1.4.309) has newer ones"
    fi
    export CPLUS_INCLUDE_PATH=$newer/usr/include${CPLUS_INCLUDE_PATH:+:$CPLUS_INCLUDE_PATH}
fi

eval "$(scripts/build.sh --print-env)"
started=$SECONDS
scripts/build.sh --features vulkan >&2
cargo test --release --locked --features vulkan --test tiny_model --test batching --test cli --no-run >&2
build_s=$((SECONDS - started))
chaski=$CARGO_TARGET_DIR/release/chaski

# llama.cpp leaves out devices that are CPUs, unless it is told which ones to use.
export GGML_VK_VISIBLE_DEVICES=${device:-0}
if [ -z "$device" ]; then
    VK_ICD_FILENAMES=$(lavapipe)
    # llama.cpp waits for a fence, not in a loop that takes a core from lavapipe. No test takes a real model: one token needs seconds.
    # With fused operations, Mesa 22.3.6 crashes in some commands.
    export VK_ICD_FILENAMES CHASKI_TEST_FEW=1 GGML_VK_SERIALIZE_SUBMISSIONS=1 GGML_VK_DISABLE_FUSION=1
    unset CHASKI_TEST_MODEL
fi
# One folder for all of the tests, which have homes of their own. The sandbox allows writing there.
export MESA_SHADER_CACHE_DIR=$CARGO_TARGET_DIR/shaders
mkdir -p "$MESA_SHADER_CACHE_DIR"
shaders() { find "$MESA_SHADER_CACHE_DIR" -type f 2>/dev/null | wc -l; }
n_shaders=$(shaders)
if [ -z "$model" ]; then
    model=$work/tiny-q8_0.gguf
    CHASKI_TEST_WRITE=$model cargo test --release --locked --features vulkan --test tiny_model -- --ignored --exact write_a_model >&2
fi

failures=0
fail() { # MESSAGE: notes a failure, with the end of the output
    say "FAILED: $1"
    tail -n 40 "$work/out" "$work/err" 2>/dev/null | cut -c 1-300 >&2
    failures=$((failures + 1))
}
chaski() { # with a home of its own: no curves, settings or learned state of the user's
    env HOME="$work" XDG_CACHE_HOME="$work/cache" XDG_DATA_HOME="$work/data" XDG_STATE_HOME="$work/state" XDG_CONFIG_HOME="$work/config" \
        "$chaski" "$@" >"$work/out" 2>"$work/err" </dev/null
}
run() { # ARGUMENT...: a short greedy answer of the quantized model
    chaski run -m "$model" -p "the rain in the station and the rain" -n 32 --temp 0 --no-stdin --no-learn --no-prompt-cache "$@"
}

run -v || fail "chaski run"
[ -n "$device" ] || [ "$(shaders)" -gt 0 ] || fail "the sandbox keeps no compiled shaders"
grep -q '^ggml_vulkan: 0 = ' "$work/err" || die "llama.cpp finds no Vulkan device" "vulkaninfo --summary lists them"
description=$(sed -n 's/^ggml_vulkan: 0 = \([^|]*[^ |]\) *|.*/\1/p' "$work/err" | head -n 1)
features=$(sed -n 's/^ggml_vulkan: 0 = [^|]*| *//p' "$work/err" | head -n 1)
n_layers=$(sed -n 's|.*offloaded [0-9]*/\([0-9]*\) layers to GPU.*|\1|p' "$work/err" | head -n 1)
half=$(((n_layers + 1) / 2))
printf '%s\n' \
    "- Device: $description; $features" \
    "- CPU: $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo), $(nproc) cores" \
    "- $("$chaski" --version | tr '\n' ';' | sed 's/;$//; s/;/; /g')" \
    "- Headers of Vulkan: $vulkan; $(glslc --version | head -n 1); $(rustc --version)" \
    "- Build with the tests, from what target/vulkan had: $build_s s. Compiled shaders at the start: $n_shaders"

printf '\n%s\n\n' '## Tests'
[ -z "${CHASKI_TEST_FEW:-}" ] || printf '%s\n\n' 'Fewer cases than on a CPU, but of each kind (`CHASKI_TEST_FEW`).'
printf '%s\n' '| tests | layers on the device | passed | failed | seconds |' '|---|---|---:|---:|---:|'
# check LAYERS NAME FILE [FILTER...]: runs a test program and prints a row.
check() {
    local layers=$1 name=$2 file=$3 started=$SECONDS status=0 passed failed
    shift 3
    # Commands put all layers on the device by themselves. Without F16, all but the attention of several rows is in F32.
    GGML_VK_DISABLE_F16=1 CHASKI_TEST_GPU_LAYERS=${layers#all} \
        cargo test --release --locked --features vulkan --test "$file" -- --test-threads 1 "$@" \
        >"$work/out" 2>"$work/err" </dev/null || status=$?
    passed=$(sed -n 's/^test result:.* \([0-9]*\) passed.*/\1/p' "$work/out")
    failed=$(sed -n 's/^test result:.* \([0-9]*\) failed.*/\1/p' "$work/out")
    case $layers in 99) layers=all ;; 2) layers='half (1 of 2 blocks, and the output)' ;; 0) layers=none ;; esac
    printf '| %s | %s | %s | %s | %s |\n' "$name" "$layers" "${passed:--}" "${failed:--}" "$((SECONDS - started))"
    if [ "$status" != 0 ] || [ "${passed:-0}" = 0 ]; then
        grep -E -A 3 '^(test .* FAILED|thread .* panicked)' "$work/out" | cut -c 1-300 | head -n 60 >&2 || true
        fail "$name, layers on the device: $layers"
    fi
}
# The models of these tests are F32 or Q8_0 and have two blocks. With half of the layers, lavapipe gets one test of each kind.
for layers in 99 2 0; do
    kinds='' batches=''
    if [ "$layers" = 2 ] && [ -z "$device" ]; then
        kinds='drafted_text_is_plain_text engine::a_session hundreds_of_random_steps tree_logits states::a_state_that'
        batches='drafted_texts prompt_may'
    fi
    # shellcheck disable=SC2086 # filters are words
    check "$layers" 'trees, rollback, states, drafted text = plain text (`tests/tiny_model`)' tiny_model $kinds
    # shellcheck disable=SC2086
    check "$layers" 'many texts in one batch (`tests/batching.rs`)' batching $batches
done
# Each test of commands starts the program several times, so lavapipe gets a part of them.
commands='answers:: batch:: chat:: draft_model:: devices:: errors:: exact:: prompt_cache:: supervisor::compiled tune:: variables::'
[ -n "$device" ] || commands='answers::every_drafter answers::text_goes batch::lines_are batch::parameters chat::a_session_goes
    chat::the_first devices:: draft_model::a_draft_model draft_model::what_cannot errors::
    prompt_cache::what_was supervisor::compiled tune::mistakes variables::issue_13_8_a_mistake'
# shellcheck disable=SC2086 # filters are words
check all 'commands: answers, batches, chats, draft models, errors, prompt cache, tuning, flags (a part of `tests/cli`)' cli \
    $commands

printf '\n%s\n\n' "## A quantized model: $(basename "$model")"
printf '%s\n' 'Text: the first 8 digits of its sha256; 32 tokens, greedy. It may differ with drafts: a GPU build is exact only with `-ngl 0`.' '' \
    '| -ngl | model buffers, MiB | plain | drafted | plain, tokens/s | drafted, tokens/s |' '|---|---|---|---|---:|---:|'
text() { # FLAG...: answers, and sets `sum` and `rate`
    run "$@" || fail "chaski run $*"
    sum=$(sha256sum "$work/out" | cut -c 1-8)
    rate=$(sed -n 's/.* s: \([0-9.]*\) tokens\/s .*/\1/p' "$work/err" | head -n 1)
}
for layers in 0 "$half" all; do
    text -ngl "$layers" -v
    buffers=$(sed -n 's/^load_tensors: *\([A-Za-z0-9_]*\) model buffer size = *\([0-9.]*\) MiB.*/\1 \2/p' "$work/err" | paste -s -d ',' - | sed 's/,/, /g')
    case $layers:$buffers in
        0:*Vulkan*) fail "-ngl 0: weights are on the device" ;;
        0:*) ;;
        *:*Vulkan0*) ;;
        *) fail "-ngl $layers: no weights are on the device" ;;
    esac
    # Chaski's own kernels compute the layers that stay on the CPU.
    [ "$layers" = all ] || [ "$(uname -m)" != x86_64 ] || case $buffers in
        *CHASKI*) ;;
        *) fail "-ngl $layers: the layers on the CPU do not use chaski's kernels" ;;
    esac
    text -ngl "$layers" --drafter none
    plain=$sum plain_rate=$rate
    text -ngl "$layers"
    [ "$layers" != 0 ] || [ "$plain" = "$sum" ] || fail "-ngl 0: another text with drafts than without"
    printf '| %s | %s | %s | %s | %s | %s |\n' "$layers" "$buffers" "$plain" "$sum" "$plain_rate" "$rate"
done

chaski run -m "$model" -p Hello -n 4 --no-stdin --no-learn -ngl all --exact && fail "--exact -ngl all is not refused"
grep -q 'hint: use -ngl 0' "$work/err" || fail "--exact -ngl all: no hint"

for layers in all "$half"; do
    printf '\n%s\n\n' "## Cost of n rows, \`-ngl $layers\`"
    chaski bench --curve --widths 1,2,3,4,5,6,7,8,9,10,12,16,24,32 --depth 64 -r 3 -m "$model" -ngl "$layers" || fail "chaski bench --curve -ngl $layers"
    cat "$work/out"
done
printf '\n%s\n\n' '## chaski tune, `-ngl all`'
chaski tune -m "$model" -ngl all --budget 60 || fail "chaski tune"
cat "$work/out"
if [ "$model" != "$real" ]; then
    printf '\n%s\n\n' "## A short answer of $(basename "$real")"
    printf '%s\n' '6 tokens, greedy, without drafts, after a prompt of a few tokens.' '' '| -ngl | text | seconds |' '|---|---|---:|'
    for layers in 0 15 all; do
        started=$SECONDS
        chaski run -m "$real" --raw -p 'One, two, three,' -n 6 --temp 0 --drafter none --no-stdin --no-learn --no-prompt-cache -ngl "$layers" ||
            fail "chaski run -ngl $layers"
        printf '| %s | %s | %s |\n' "$layers" "$(tr '\n' ' ' <"$work/out")" "$((SECONDS - started))"
    done
fi
printf '\nCompiled shaders at the end: %s. All of this took %s s, the build included.\n' "$(shaders)" "$SECONDS"
[ "$failures" = 0 ] || die "$failures checks failed"
