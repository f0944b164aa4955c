#!/usr/bin/env bash
# Builds chaski with a llama.cpp tuned to this CPU: `cargo build --release --locked` with the right GGML_ variables, and with
# what makes the build of llama.cpp shorter (llama-cpp.cmake).
# The one place for such tuning; a GGML_ variable that is set already is left as it is.
#
# usage: scripts/build.sh [cargo arguments]     for instance --features vulkan (needs libvulkan-dev, glslc, spirv-headers)
#        scripts/build.sh --portable ...        for every x86-64 CPU with AVX2 (2013 and later), or plain armv8-a: a binary to give away.
#                                               Chaski's own kernels choose the instruction set when it starts.
#                                               Linked as with --static
#        scripts/build.sh --static ...          on Linux: link the libraries for C++ and OpenMP into the binary, which then needs
#                                               nothing but glibc and libgcc_s. Only the last step, the linking, differs
#        scripts/build.sh --print-env           print the variables, for eval "$(scripts/build.sh --print-env)"
#        scripts/build.sh --drop-stale          remove a llama.cpp that was built with other settings
#
# Cargo commands after that eval (test, clippy, run) share the llama.cpp that this script built; without it they
# build their own.
. "$(dirname "$0")/lib.sh"

# Tests set these to another machine's `uname -sm` and /proc/cpuinfo.
machine=${CHASKI_MACHINE:-$(uname -sm)}
cpuinfo=${CHASKI_CPUINFO:-/proc/cpuinfo}

# llama.cpp's switches for x86. A switch is ON if its parent is, the compiler knows the option ("-": any does) and the
# CPU has every flag, in the kernel's spelling. AMX is never enabled: on some virtual machines a test program passes and
# llama.cpp faults. OFF switches are passed too: llama.cpp turns on SSE4.2 to AVX2 by itself, which would crash on a CPU
# without them, and CMake keeps the values of earlier builds.
x86_switches='
SSE42        -            -              sse4_2
AVX          SSE42        -              avx
F16C         AVX          -              f16c
FMA          AVX          -              fma
BMI2         AVX          -              bmi2
AVX2         AVX          -              avx2
AVX_VNNI     AVX2         -mavxvnni      avx_vnni
AVX512       AVX2         -mavx512f      avx512f avx512cd avx512bw avx512dq avx512vl fma f16c
AVX512_VBMI  AVX512       -mavx512vbmi   avx512vbmi
AVX512_VNNI  AVX512       -mavx512vnni   avx512_vnni
AVX512_BF16  AVX512       -mavx512bf16   avx512_bf16
AMX_TILE     AVX512_VNNI  -mamx-tile     never
AMX_INT8     AMX_TILE     -mamx-int8     never
AMX_BF16     AMX_TILE     -mamx-bf16     never
'

# The CPUs that a portable binary runs on: x86-64-v3.
portable=
portable_flags='sse4_2 avx f16c fma bmi2 avx2'

cpu_flags() {
    [ -z "$portable" ] || { echo "$portable_flags" && return; }
    case $machine in
        Linux*) awk -F: '/^flags/ { print $2; exit }' "$cpuinfo" ;;
        # Intel Macs: lower case, converted to the kernel's spelling.
        Darwin*) sysctl -n machdep.cpu.features machdep.cpu.leaf7_features 2>/dev/null | tr 'A-Z\n' 'a-z ' |
            sed 's/sse4\.2/sse4_2/; s/avx1\.0/avx/; s/avx512vnni/avx512_vnni/; s/avx512bf16/avx512_bf16/' ;;
    esac
}

compiler_knows() {
    local cxx=${CXX:-c++}
    [ "$1" = - ] || ! have "$cxx" || "$cxx" "$1" -E -x c++ /dev/null >/dev/null 2>&1
}

is_on() {
    case ${1:-} in
        [Oo][Nn] | 1 | [Tt][Rr][Uu][Ee] | [Yy][Ee][Ss]) ;;
        *) return 1 ;;
    esac
}

# Exports the variables for this machine and lists their names in `tuned`.
tuned=()
tune() {
    tune_cpu
    set_if_unset CMAKE_PROJECT_INCLUDE "$root/scripts/llama-cpp.cmake"
    tuned+=(CMAKE_PROJECT_INCLUDE)
}

tune_cpu() {
    case $machine in
        *' x86_64' | *' amd64') tune_x86 ;;
        # llama.cpp then asks the compiler for this CPU and tries dotprod, i8mm, SVE and SME by running them. Its crate
        # has no other way: without target-cpu=native it insists on plain armv8-a, which is several times slower.
        *' aarch64' | *' arm64')
            [ -z "$portable" ] || return 0
            case ${RUSTFLAGS:-} in
                *target-cpu=*) ;;
                *) export RUSTFLAGS="${RUSTFLAGS:+$RUSTFLAGS }-C target-cpu=native" ;;
            esac
            tuned=(RUSTFLAGS)
            ;;
        *) say "warning: no tuning is known for '$machine'" ;;
    esac
}

tune_x86() {
    local flags switch parent option needs
    flags=" $(cpu_flags) "
    while read -r switch parent option needs; do
        [ -n "$switch" ] || continue
        tuned+=("GGML_$switch")
        set_if_unset "GGML_$switch" "$(x86_value "$parent" "$option" "$needs")"
    done <<<"$x86_switches"
}

x86_value() { # PARENT OPTION NEEDS, with the caller's `flags`
    local variable=GGML_$1 need
    [ "$1" = - ] || is_on "${!variable:-}" || { echo OFF && return; }
    for need in $3; do
        [[ $flags == *" $need "* ]] || { echo OFF && return; }
    done
    if compiler_knows "$2"; then echo ON; else echo OFF; fi
}

set_if_unset() {
    [ -n "${!1:-}" ] || export "$1=$2"
}

# Cargo re-runs llama.cpp's build only for GGML_ variables that were set the last time, and CMake keeps the value of a
# variable that is no longer set. So compare with CMake's cache and with the settings of the last build; if in doubt,
# rebuild.
drop_stale() {
    local stamp=$CARGO_TARGET_DIR/release/.llama-cpp-settings settings cache
    # Compare the contents of llama-cpp.cmake, not its path: several clones can share a build.
    settings=$(env | LC_ALL=C grep -E '^(GGML|CMAKE)_' | grep -v '^CMAKE_PROJECT_INCLUDE=' | LC_ALL=C sort || true)
    [ ! -f "$CMAKE_PROJECT_INCLUDE" ] || settings="$settings
CMAKE_PROJECT_INCLUDE: $(cksum <"$CMAKE_PROJECT_INCLUDE")"
    for cache in "$CARGO_TARGET_DIR"/release/build/llama-cpp-sys-2-*/out/build/CMakeCache.txt; do
        [ -e "$cache" ] || continue
        if { [ -e "$stamp" ] && [ "$settings" != "$(cat "$stamp")" ]; } || ! agrees_with "$cache"; then
            say "llama.cpp was built with other settings: building it again"
            cargo clean --release --locked -p llama-cpp-sys-2 >&2
            break
        fi
    done
    mkdir -p "$(dirname "$stamp")"
    printf '%s\n' "$settings" >"$stamp"
}

is_compiled() {
    local library
    for library in "$CARGO_TARGET_DIR"/release/build/llama-cpp-sys-2-*/out/lib*/libllama.a; do
        [ -e "$library" ] && return
    done
    return 1
}

agrees_with() { # CMAKECACHE
    local name
    for name in ${tuned[@]+"${tuned[@]}"}; do
        case $name in
            GGML_*) grep -q "^$name:[A-Z]*=${!name}$" "$1" || return ;;
        esac
    done
}

# Makes a folder with nothing but the static libraries for C++ and OpenMP. Where the linker searches it first, it finds them and not
# the shared ones. libgcc_s stays shared: glibc itself loads it when a thread of OpenMP ends, and ends the process if it is missing.
static_libraries() {
    local library archive folder=$CARGO_TARGET_DIR/static-libraries
    rm -rf "$folder"
    mkdir -p "$folder"
    for library in libstdc++.a libgomp.a; do
        archive=$("${CXX:-c++}" -print-file-name="$library")
        [ -f "$archive" ] || die "there is no $library" "install GCC with its static libraries (build-essential has them)"
        ln -s "$archive" "$folder/$library"
    done
    printf '%s\n' "$folder"
}

static=
while :; do
    case ${1:-} in
        --portable) portable=1 ;;
        --static) static=1 ;;
        *) break ;;
    esac
    shift
done
case $machine in
    Linux*) [ -z "$portable" ] || static=1 ;;
    *) [ -z "$static" ] || die "--static is for Linux" "remove --static" 2 ;;
esac
case ${1:-} in
    -h | --help) usage ;;
    --print-env)
        tune
        for name in ${tuned[@]+"${tuned[@]}"}; do
            printf 'export %s=%q\n' "$name" "${!name}"
        done
        ;;
    --drop-stale)
        tune
        cd "$root"
        drop_stale
        ;;
    *)
        tune
        on=()
        for name in ${tuned[@]+"${tuned[@]}"}; do
            [[ $name != GGML_* ]] || ! is_on "${!name}" || on+=("${name#GGML_}")
        done
        [ ${#on[@]} = 0 ] || say "llama.cpp for this CPU: ${on[*]}"
        cd "$root"
        drop_stale
        is_compiled || say "compiling llama.cpp and chaski: four to ten minutes on two cores"
        [ -n "$static" ] || exec cargo build --release --locked "$@"
        libraries=$(static_libraries)
        exec cargo rustc --release --locked --bin chaski "$@" -- -L "native=$libraries"
        ;;
esac
