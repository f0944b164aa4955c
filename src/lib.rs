//! Chaski runs quantized GGUF models on laptops, faster: an adaptive tri-gram drafter proposes several candidate
//! continuations, and the target verifies them as one token tree. The text is the target's own.
//!
//! The modules, in the order a token meets them. The core knows nothing of files, clocks, threads or llama.cpp, and
//! builds without them (`--no-default-features`).

pub mod token;
pub mod tree;

pub mod draft;

pub mod cost;
mod latch;
pub mod memory;
pub mod schedule;
pub mod tune;

pub mod target;

pub mod accept;
pub mod crowd;
pub mod generate;
pub mod replay;
pub mod sampling;
pub mod stats;
pub mod text;

pub mod align;
pub mod available;
pub mod batch;
pub mod chat;
pub mod encoding;
pub mod gguf;
mod lock;
pub mod models;
pub mod store;
pub mod structure;

#[cfg(feature = "llama")]
pub mod cli;
#[cfg(feature = "llama")]
pub mod llama;
