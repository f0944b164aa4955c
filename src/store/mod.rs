//! What Chaski keeps on disk between runs. All but sessions is expendable: a missing, broken or unwritable file costs time,
//! never text.

pub mod vocabulary;

pub mod counter;
pub mod drafter_file;

pub mod align_log;

pub mod curves;
pub mod learned;
pub mod prompt_cache;
pub mod tuned;

pub(crate) mod private;
pub mod sessions;

use std::io;
use std::path::Path;

use serde::Serialize;

/// Writes `value` as JSON; what stands there is always whole.
fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let written = private::replace(path, &[&serde_json::to_vec(value)?], private::Worth::Expendable);
    written.map_err(|error| named(path, &error))
}

/// The same error, naming the file or folder.
fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
