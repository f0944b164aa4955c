//! What engines and their clients share, without llama.cpp: the protocol between them, and what requests are made of.
//!
//! - [`engine`]: the protocol: requests in, events out
//! - [`chat`]: chat templates, saved chats, commands, thinking
//! - [`structure`]: constraints on answers: JSON schema, grammar, regular expression
//! - [`sampling`], [`text`]: sampling parameters; stop strings and UTF-8
//! - [`tune`], [`memory`], [`available`]: settings of contexts, and the memory they need
//! - [`exactness`]: whether a computation is exact
//! - [`encoding`], [`lock`]: reading text files; locking files

pub mod available;
pub mod chat;
pub mod encoding;
pub mod engine;
pub mod exactness;
pub mod lock;
pub mod memory;
pub mod sampling;
pub mod structure;
pub mod text;
pub mod tune;

use chaski_draft::{cost, draft, replay, schedule, stats, target, token, tree};
use chaski_gguf as gguf;
