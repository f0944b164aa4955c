//! Helpers of the integration tests, such as generated GGUF files, so that no test downloads anything.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]

pub mod gguf_writer;
pub mod loop_parts;
#[cfg(feature = "llama")]
pub mod real;
pub mod sampled;
pub mod tiny;

/// Layers on the GPU: the number in `CHASKI_TEST_GPU_LAYERS`, none by default. `scripts/test-vulkan.sh` sets it.
#[cfg(feature = "llama")]
pub fn gpu_layers() -> Option<u32> {
    let given = std::env::var("CHASKI_TEST_GPU_LAYERS").ok().filter(|n| !n.is_empty());
    let n = given.map_or(0, |n| n.parse().expect("CHASKI_TEST_GPU_LAYERS is a number"));
    assert!(n == 0 || chaski::llama::has_gpu(), "CHASKI_TEST_GPU_LAYERS={n}, but llama.cpp finds no GPU");
    Some(n)
}

/// Whether a GPU computes layers. It has other programs for one row than for many, so the same row may be rounded differently.
#[cfg(feature = "llama")]
pub fn on_gpu() -> bool {
    gpu_layers() != Some(0)
}

/// Whether a few cases are enough: `CHASKI_TEST_FEW` is 1, because the GPU's driver computes on the CPU.
pub fn is_few() -> bool {
    std::env::var_os("CHASKI_TEST_FEW").is_some_and(|value| value == "1")
}

/// The number of cases.
pub fn n_cases(all: usize, few: usize) -> usize {
    if is_few() { few } else { all }
}
