//! The files that Chaski keeps between runs. All except saved chats are expendable: a missing, broken or unwritable
//! file costs time, but never changes the text.

pub mod vocabulary;

pub mod counter;
pub mod drafter_file;
pub mod hidden_file;
mod output_file;

pub mod align_log;

pub mod curves;
pub mod learned;
pub mod prompt_cache;
pub mod tuned;

pub mod private;
pub mod sessions;

use chaski_core::{chat, engine, lock, tune};
use chaski_draft::{cost, draft, token};
use chaski_gguf as gguf;

use std::io;
use std::path::Path;

use serde::Serialize;

/// Writes `value` as JSON. The file is replaced as a whole.
fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let written = private::replace(path, &[&serde_json::to_vec(value)?], private::Durability::Expendable);
    written.map_err(|error| named(path, &error))
}

/// The same error, with the path in its message.
fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
