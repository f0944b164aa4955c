# Read by CMake when llama.cpp's build starts (CMAKE_PROJECT_INCLUDE, set by build.sh). Only what makes the build shorter.

# The library `common` (arguments, downloads, chat templates, an HTTP client) takes two fifths of the time for llama.cpp's C++ code,
# and Chaski does not use it. It is built by default, because the crate llama-cpp-2 turns on the default features of llama-cpp-sys-2.
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "llama: build common utils library" FORCE)

# The library `llama` loads models and builds graphs; ggml computes. With fewer optimizations and with the headers of the standard
# library precompiled, `llama` takes two thirds of the time.
function(build_faster)
    target_compile_options(llama PRIVATE -O1)
    # ccache does not cache what uses precompiled headers.
    if(NOT GGML_CCACHE_FOUND AND NOT GGML_SCCACHE_FOUND AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
        target_precompile_headers(llama PRIVATE <algorithm> <array> <functional> <map> <memory> <regex> <set> <sstream>
            <stdexcept> <string> <unordered_map> <vector>)
    endif()
    # Samplers run for each token; a tokenizer reads all of a corpus.
    optimize(-O3 llama src llama-sampler.cpp llama-vocab.cpp unicode.cpp)
    # Files that compute nothing.
    optimize(-O1 ggml-base ggml/src ggml-backend-meta.cpp ggml-backend-reg.cpp ggml-opt.cpp gguf.cpp)
endfunction()

function(optimize level target folder)
    list(TRANSFORM ARGN PREPEND "${CMAKE_SOURCE_DIR}/${folder}/")
    foreach(file IN LISTS ARGN)
        if(NOT EXISTS ${file})
            message(FATAL_ERROR "${file} is missing: scripts/llama-cpp.cmake names a file that this llama.cpp does not have")
        endif()
    endforeach()
    # Precompiled headers are for one level of optimization.
    set_source_files_properties(${ARGN} TARGET_DIRECTORY ${target}
        PROPERTIES COMPILE_OPTIONS ${level} SKIP_PRECOMPILE_HEADERS ON)
endfunction()

# Older versions of CMake, such as that of Debian 11, compile everything with -O3.
if(PROJECT_NAME STREQUAL "llama.cpp" AND NOT MSVC AND CMAKE_VERSION VERSION_GREATER_EQUAL 3.19)
    # It runs after all targets are defined.
    cmake_language(DEFER CALL build_faster)
endif()
