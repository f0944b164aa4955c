//! Alignment: teaches a drafter from text that the target writes, which helps more per token than any other text.
//!
//! This module holds the shipped [`prompts`] for that, and uses neither engine nor files. `llama::parallel` decodes,
//! `store::align_log` saves, and `cli::align` connects them.

pub mod prompts;
mod table;
