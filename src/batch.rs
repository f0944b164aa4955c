//! Offline batches: many lines, one engine, nothing lost.
//!
//! A line is read and parsed, rendered in the model's template, answered by an [`engine::Engine`], written, and kept
//! in a journal, so that the same command goes on after whatever interrupted it. Nothing here knows llama.cpp, nor
//! arguments: that is the business of `cli::batch`.

pub mod engine;
pub mod refuse;

pub mod input;

pub mod in_flight;
pub mod render;
pub mod window;

pub mod record;
pub mod reorder;

pub mod disk;
pub mod journal;
pub mod ledger;

pub mod job;
pub mod merge;
pub mod pipeline;
pub mod progress;
pub mod status;
pub mod supervise;
