//! The door to llama.cpp: nothing outside this folder names its bindings.
//!
//! - [`model`]: a loaded file, its vocabulary
//! - [`tokenizer`]: a vocabulary alone
//! - [`session`]: one context as a [`crate::target::Target`]: trees as sequences of a batch
//! - [`sampler`]: llama.cpp's sampler chain as a [`crate::accept::Sampler`]
//! - [`structured`]: a sampler, and drafts, that are held to a form
//! - [`logprobs`]: how likely emitted tokens were
//! - [`parallel`]: one context as [`crate::batching::target::BatchTarget`]
//! - [`batching`]: the engine of a batch: the thread that answers many requests at a time
//! - [`thread`]: the thread an engine lives on, and its channels
//! - [`worker`]: a thread that owns all of these and speaks in messages
//! - [`tune`]: the same thread at another work: settings, measured
//! - [`kernels`]: whose kernels compute: ours or ggml's
//! - [`exact`]: whether what they compute is exact
//! - [`logs`]: what llama.cpp has to say
//! - `crash_message` (Unix): what it says before it takes its process down
//!
//! llama.cpp ends the process where it finds a caller's mistake, so every call here is checked first.

pub mod batching;
#[cfg(unix)]
pub mod crash_message;
pub mod exact;
pub mod kernels;
pub mod logprobs;
pub mod logs;
pub mod model;
pub mod parallel;
pub mod sampler;
mod sequence;
pub mod session;
mod split_points;
pub mod structured;
pub mod thread;
pub mod tokenizer;
pub mod tune;
pub mod worker;

use std::ffi::CStr;

/// The version of llama.cpp's tensor library, and what the CPU kernels were compiled for.
#[must_use]
#[expect(unsafe_code, reason = "the safe bindings do not offer these two functions")]
pub fn system_info() -> SystemInfo {
    // SAFETY: both functions return a NUL-terminated string that is static, or kept until the next call; it is copied
    // here at once. `llama_print_system_info` is called by one thread at a time: `--version` and the start of a worker.
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

/// Whether this build can, and by default does, put layers on a GPU of this machine.
#[must_use]
#[expect(unsafe_code, reason = "the safe bindings ask for a backend, which only a worker has")]
pub fn has_gpu() -> bool {
    // SAFETY: it takes nothing, and looks at the list of devices, which is made once under a lock.
    unsafe { llama_cpp_sys_2::llama_supports_gpu_offload() }
}

/// What [`system_info`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemInfo {
    /// Version of ggml, which llama.cpp counts by.
    pub ggml_version: String,
    /// Names as in llama.cpp: `AVX2`, `AVX512_VNNI`, `DOTPROD`, `OPENMP`, ..., and `KERNELS=avx512` for kernels of ours.
    pub features: Vec<String>,
}
