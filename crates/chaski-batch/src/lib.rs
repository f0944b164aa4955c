//! Offline batches: answers the lines of a file with one engine, and resumes after a crash or a kill.
//!
//! Each line is read, parsed, rendered in the model's chat template, answered by an [`engine::Engine`], and written. A
//! journal records what is done, so that the same command continues an interrupted job. This module knows neither
//! llama.cpp nor command-line arguments; `cli::batch` connects them.

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

pub mod claims;
pub mod job;
pub mod merge;
pub mod pipeline;
pub mod progress;
pub mod status;
pub mod supervise;
pub mod work;

use chaski_core::{chat, encoding, engine, lock, sampling};
use chaski_draft::{stats, token};
use chaski_gguf as gguf;
