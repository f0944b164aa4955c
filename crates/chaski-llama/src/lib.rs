//! The only code that calls llama.cpp: nothing outside this folder names its bindings.
//!
//! - [`model`]: a loaded model and its vocabulary
//! - [`tokenizer`]: a vocabulary without weights
//! - [`session`]: one context as a [`crate::target::Target`]; a token tree becomes a batch of sequences
//! - [`sampler`]: llama.cpp's sampler chain as a [`crate::accept::Sampler`]
//! - [`constrained_sampler`]: structured output: a constrained sampler and the filter for its drafts
//! - [`logprobs`]: log-probabilities of emitted tokens
//! - [`parallel`]: one context as a [`crate::batching::target::BatchTarget`]
//! - [`engine`]: the engine: a thread that owns a model and answers requests, one at a time or many at once
//! - [`thread`]: the engine thread and its channels
//! - [`kernels`]: which CPU kernels are in use: ours or ggml's
//! - [`devices`]: the back ends of this build and their devices
//! - [`exact`]: whether the computation is exact
//! - [`hidden`]: a drafter on the target's hidden states
//! - [`logs`]: llama.cpp's log
//! - `crash_message` (Unix): llama.cpp's message before it aborts the process
//!
//! llama.cpp aborts the process on a caller's mistake, so this module checks every call first.

pub mod constrained_sampler;
#[cfg(unix)]
pub mod crash_message;
pub mod devices;
pub mod engine;
pub mod exact;
pub mod hidden;
mod hidden_states;
pub mod kernels;
pub mod logprobs;
pub mod logs;
pub mod model;
pub mod parallel;
pub mod sampler;
mod sequence;
pub mod session;
mod split_points;

pub mod thread;
pub mod tokenizer;

use chaski_core::{available, chat, exactness, memory, sampling, structure, text, tune};
use chaski_draft::{accept, batching, cost, draft, generate, replay, schedule, stats, target, token, tree};
use chaski_gguf as gguf;
use chaski_store as store;

use std::ffi::CStr;

/// The version of ggml and the CPU features its kernels were compiled for.
#[must_use]
#[expect(unsafe_code, reason = "the safe bindings do not offer these two functions")]
pub fn system_info() -> SystemInfo {
    // SAFETY: both functions return a NUL-terminated string that is static or valid until the next call; it is copied
    // here at once. `llama_print_system_info` is called by one thread at a time: `--version` and the start of an engine.
    let (version, info) = unsafe {
        let version = CStr::from_ptr(llama_cpp_sys_2::ggml_version());
        let info = CStr::from_ptr(llama_cpp_sys_2::llama_print_system_info());
        (version.to_string_lossy().into_owned(), info.to_string_lossy().into_owned())
    };
    // "CPU : SSE3 = 1 | AVX2 = 1 | ... | REPACK = 1 | "
    let features = info.split(['|', ':']).filter_map(|item| item.trim().strip_suffix(" = 1")).map(str::to_owned);
    let ours = kernels::in_use().ok().flatten().map(|name| format!("KERNELS={name}"));
    SystemInfo { ggml_version: version, features: features.chain(ours).collect() }
}

/// Whether this build can offload layers to a GPU of this machine. If so, llama.cpp does it by default.
#[must_use]
#[expect(unsafe_code, reason = "the safe bindings ask for a backend, which only an engine has")]
pub fn has_gpu() -> bool {
    // SAFETY: the function takes no arguments and reads the list of devices, which is created once under a lock.
    unsafe { llama_cpp_sys_2::llama_supports_gpu_offload() }
}

/// The GPUs that compute for a model with `n_gpu_layers`, in llama.cpp's words; empty if the CPU computes alone.
#[must_use]
pub fn gpus(n_gpu_layers: Option<u32>) -> Vec<String> {
    if n_gpu_layers == Some(0) || !has_gpu() {
        return Vec::new();
    }
    let all = devices::devices();
    let gpus = devices::offload_targets(&all).into_iter();
    gpus.map(|device| format!("{} {}", device.name, device.description)).collect()
}

/// Result of [`system_info`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemInfo {
    /// Version of ggml, llama.cpp's tensor library.
    pub ggml_version: String,
    /// llama.cpp's names, such as `AVX2`, `AVX512_VNNI`, `DOTPROD`, `OPENMP`, and `KERNELS=avx512` for our own kernels.
    pub features: Vec<String>,
}
