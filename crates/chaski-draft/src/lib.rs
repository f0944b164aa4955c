//! Speculative decoding without a second model, for any runner of language models.
//!
//! A drafter learns from the text itself which tokens may come next and proposes them as a token tree. The runner (the *target*) verifies
//! the tree in one batch, and a sampler walks down it with the target's own logits. So the text is the target's, and a right draft saves passes
//! over the weights. How much of a draft is verified follows from what a batch of n rows costs on this machine.
//!
//! The modules, in the order a token meets them. This crate knows nothing of files, clocks, threads or any engine.

#![forbid(unsafe_code)]

pub mod token;
pub mod tree;

pub mod draft;

pub mod cost;
mod loss_budget;
pub mod schedule;

pub mod target;

pub mod accept;
pub mod generate;
pub mod stats;

pub mod batching;

pub mod speculator;

pub mod replay;
