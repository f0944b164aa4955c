//! Alignment: what a target writes by itself teaches a drafter more per token than any other text.
//!
//! Here are the shipped [`prompts`] that make it write. Deliberately no engine and no files: decoding is done by
//! `llama::parallel`, keeping by `store::align_log`, and both are put together by `cli::align`.

pub mod prompts;
mod table;
