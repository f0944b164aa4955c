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

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use serde::Serialize;

/// Writes `value` as JSON beside `path` and renames it: what stands there is always whole.
fn write(folder: &Path, path: &Path, value: &impl Serialize) -> io::Result<()> {
    fs::create_dir_all(folder).map_err(|error| named(folder, &error))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|error| named(folder, &error))?;
    file.write_all(&serde_json::to_vec(value)?).map_err(|error| named(folder, &error))?;
    file.persist(path).map_err(|error| named(folder, &error.error))?;
    Ok(())
}

/// The same error, naming the file or folder.
fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
