//! Speculative decoding without a second model, for any runner of language models.
//!
//! A drafter learns from the text itself which tokens may come next and proposes them as a token tree. The runner (the
//! *target*) verifies the tree in one batch. A sampler then walks down the tree with the target's own logits, so the
//! text is the target's own. Each accepted token saves one pass over the weights. How much of a draft is verified
//! depends on what a batch of n rows costs on this machine.
//!
//! The modules are listed in the order a token passes through them. The crate uses no files, clocks, threads or engine.

#![forbid(unsafe_code)]

pub mod token;
pub mod tree;

pub mod draft;

pub mod cost;
mod loss_budget;
pub mod schedule;

pub mod target;

mod maximum;

pub mod accept;
pub mod generate;
pub mod stats;

pub mod batching;

pub mod speculator;

pub mod replay;
