//! Offline batches: many lines, one engine, nothing lost.

pub mod engine;
