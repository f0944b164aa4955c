//! Helpers of the integration tests, such as generated GGUF files, so that no test downloads anything.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]

pub mod gguf_writer;
pub mod loop_parts;
#[cfg(feature = "llama")]
pub mod real;
pub mod tiny;
