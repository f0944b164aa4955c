//! Chaski runs quantized GGUF models on laptops, faster: an adaptive tri-gram drafter proposes several candidate
//! continuations, and the target verifies them as one token tree. The text is the target's own.
//!
//! The core modules come from `chaski-draft`. They know nothing of files, clocks, threads or llama.cpp, and build
//! without them (`--no-default-features`).

pub use chaski_draft::{accept, batching, cost, draft, generate, replay, schedule, stats, target, token, tree};

pub mod memory;
pub mod sampling;
pub mod text;
pub mod tune;

pub mod align;
pub mod available;
pub mod batch;
pub mod chat;
pub mod encoding;
pub mod engine;
pub mod exactness;
pub mod gguf;
mod lock;
pub mod models;
pub mod store;
pub mod structure;

#[cfg(feature = "llama")]
pub mod cli;
#[cfg(feature = "llama")]
pub mod llama;
