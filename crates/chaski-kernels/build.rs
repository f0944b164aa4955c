//! Compiles `shim/` against the headers of the llama.cpp that llama-cpp-sys-2 built.

use std::path::{Path, PathBuf};

/// The headers that the shim includes, relative to llama.cpp's source tree.
const HEADERS: [&str; 4] =
    ["ggml/include/ggml-cpu.h", "ggml/src/ggml-backend-impl.h", "ggml/src/ggml-impl.h", "ggml/src/ggml-cpu/traits.h"];

fn main() {
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() != Ok("x86_64") {
        return;
    }
    let source = source_tree();
    for header in HEADERS {
        assert!(
            source.join(header).exists(),
            "llama.cpp has no {header} any more (looked in {}): compare shim/hook.cpp with its ggml-cpu, or build with --no-default-features --features llama",
            source.display()
        );
        println!("cargo:rerun-if-changed={}", source.join(header).display());
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("shim/audit.cpp")
        .file("shim/hook.cpp")
        .file("shim/rows_test.cpp")
        .file("shim/self_test.cpp")
        .include(source.join("include"))
        .include(source.join("ggml/include"))
        .include(source.join("ggml/src"))
        .include(source.join("ggml/src/ggml-cpu"))
        // ggml's headers produce warnings without ggml's own compiler flags.
        .warnings(false)
        .compile("chaski_kernels_hook");
}

/// llama.cpp's source tree, which CMake records in its cache.
fn source_tree() -> PathBuf {
    let package = std::env::var("DEP_LLAMA_GGML_CMAKE_DIR").expect(
        "llama-cpp-sys-2 names no folder of ggml's CMake package: was it built with system-ggml or dynamic back ends?",
    );
    // The package is in out/lib/cmake, CMake's build folder is out/build.
    let out = Path::new(&package).ancestors().nth(2).expect("a folder within the build");
    let cache = out.join("build/CMakeCache.txt");
    let text = std::fs::read_to_string(&cache).unwrap_or_else(|e| panic!("cannot read {}: {e}", cache.display()));
    let home = text.lines().find_map(|line| line.strip_prefix("CMAKE_HOME_DIRECTORY:INTERNAL="));
    PathBuf::from(home.unwrap_or_else(|| panic!("{} names no CMAKE_HOME_DIRECTORY", cache.display())))
}
