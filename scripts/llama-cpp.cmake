# Read by CMake when llama.cpp's build starts (CMAKE_PROJECT_INCLUDE, set by build.sh). Only what makes the build shorter.

# The library `common` (arguments, downloads, chat templates, an HTTP client) takes two fifths of the time for llama.cpp's C++ code,
# and Chaski does not use it. It is built by default, because the crate llama-cpp-2 turns on the default features of llama-cpp-sys-2.
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "llama: build common utils library" FORCE)

# The library `llama` loads models and builds graphs; ggml computes. With the headers of the standard library precompiled and
# fewer optimizations it takes 0.57 of the time.
if(PROJECT_NAME STREQUAL "llama.cpp" AND NOT MSVC AND CMAKE_VERSION VERSION_GREATER_EQUAL 3.19)
    cmake_language(DEFER CALL target_compile_options llama PRIVATE -O1)
    cmake_language(DEFER CALL target_precompile_headers llama PRIVATE
        <algorithm> <array> <functional> <map> <memory> <regex> <set> <sstream> <stdexcept> <string> <unordered_map> <vector>)
endif()
