# Read by CMake when llama.cpp's build starts (CMAKE_PROJECT_INCLUDE, set by build.sh). llama.cpp's library `common` (arguments,
# downloads, chat templates, an HTTP client) takes two fifths of the build, and Chaski uses nothing of it. llama-cpp-2 asks for it
# anyway: it needs llama-cpp-sys-2 with its default features.
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "llama: build common utils library" FORCE)
