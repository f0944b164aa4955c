//! Helpers of the integration tests, such as generated GGUF files, so that no test downloads anything.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]

pub mod gguf_writer;
pub mod loop_parts;
#[cfg(feature = "llama")]
pub mod real;
pub mod tiny;

/// Layers on the GPU: the number in `CHASKI_TEST_GPU_LAYERS`, none by default. `scripts/test-vulkan.sh` sets it.
#[cfg(feature = "llama")]
pub fn gpu_layers() -> Option<u32> {
    let given = std::env::var("CHASKI_TEST_GPU_LAYERS").ok().filter(|n| !n.is_empty());
    let n = given.map_or(0, |n| n.parse().expect("CHASKI_TEST_GPU_LAYERS is a number"));
    assert!(n == 0 || chaski::llama::has_gpu(), "CHASKI_TEST_GPU_LAYERS={n}, but llama.cpp finds no GPU");
    Some(n)
}
