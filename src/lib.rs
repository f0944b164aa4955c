//! Chaski runs quantized GGUF models on laptops, faster: an adaptive tri-gram drafter proposes several candidate
//! continuations, and the target verifies them as one token tree. The text is the target's own.
//!
//! This crate is the command line. The parts are crates of their own, re-exported here; ARCHITECTURE.md has the map.
//! Without the feature `llama` everything but the engine and the command line builds, without a C++ toolchain.

pub use chaski_batch as batch;
pub use chaski_core::{available, chat, encoding, engine, exactness, lock, memory, sampling, structure, text, tune};
pub use chaski_draft::{accept, batching, cost, draft, generate, replay, schedule, stats, target, token, tree};
pub use chaski_gguf as gguf;
#[cfg(feature = "llama")]
pub use chaski_llama as llama;
pub use chaski_store as store;

pub mod align;
pub mod models;

#[cfg(feature = "llama")]
pub mod cli;
