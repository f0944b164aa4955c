# Read by CMake when llama.cpp's build starts (CMAKE_PROJECT_INCLUDE, set by build.sh). The library `common` (arguments, downloads,
# chat templates, an HTTP client) takes two fifths of the time for llama.cpp's C++ code, and Chaski does not use it. It is built by
# default, because the crate llama-cpp-2 turns on the default features of llama-cpp-sys-2.
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "llama: build common utils library" FORCE)
