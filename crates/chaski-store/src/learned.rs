//! Stores what drafting learned between runs: one private file per model, an envelope around bytes that only the
//! drafter interprets. [`policy`] is the only place that decides whether to store anything.
//!
//! ```text
//! magic "chaski learned\n"  version u32  key length u32  payload length u64  XXH3-64 u64 of all else  key  payload
//! ```
//!
//! A file is written to a temporary name and renamed, so readers never wait and never see half a file. Writers lock
//! each other out; a writer that would wait long gives up, since what it learned is not worth the user's time.

mod switch;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::gguf::ModelId;
use crate::lock::Locked;
use crate::private::{self, Durability};

pub use switch::{LearnPolicy, Switch, is_off, policy, set_switch, switch};

const MAGIC: &[u8; 15] = b"chaski learned\n";

const VERSION: u32 = 1;

/// Magic, version, two lengths, and the checksum.
const HEAD_BYTES: usize = MAGIC.len() + 4 + 4 + 8 + 8;

/// Maximum payload in bytes. A drafter's memory is bounded, well below this.
pub const MAX_PAYLOAD_BYTES: usize = 16 << 20;

/// Maximum key in bytes of JSON.
const MAX_KEY_BYTES: usize = 64 << 10;

/// How long to wait for another process that writes the same file.
const PATIENCE: Duration = Duration::from_millis(200);

/// The same, for commands of the user.
const PATIENCE_OF_USERS: Duration = Duration::from_secs(5);

/// File name extensions.
const EXTENSION: &str = "learned";
const LOCK_EXTENSION: &str = "lock";

/// Identifies the model that a file belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedKey {
    /// The model.
    pub model: ModelId,
    /// The hash of its vocabulary.
    pub vocabulary: u64,
    /// The draft model that drafted beside the tables: what they are worth depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft_model: Option<ModelId>,
}

impl LearnedKey {
    /// What was learned about this model with another draft model.
    #[must_use]
    pub fn with_draft_model(&self, draft_model: Option<ModelId>) -> LearnedKey {
        LearnedKey { draft_model, ..self.clone() }
    }

    /// The name of the key's files, without extension.
    fn stem(&self) -> String {
        let draft_model = self.draft_model.as_ref().map(|id| format!(" {}", id.hash())).unwrap_or_default();
        let key = format!("{} {:016x}{draft_model}", self.model.hash(), self.vocabulary);
        format!("{:016x}", XxHash3_64::oneshot(key.as_bytes()))
    }

    /// The path of the key's file.
    #[must_use]
    pub fn path(&self, folder: &Path) -> PathBuf {
        folder.join(self.stem()).with_extension(EXTENSION)
    }

    fn lock_path(&self, folder: &Path) -> PathBuf {
        folder.join(self.stem()).with_extension(LOCK_EXTENSION)
    }
}

/// Why learned state cannot be loaded or stored. The caller reports it and continues without.
#[derive(Debug, thiserror::Error)]
pub enum LearnedError {
    /// The file or the folder cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// The checksum or the format is wrong.
    #[error("{0}: damaged, or not a file of learned state")]
    Damaged(PathBuf),
    /// Written by a later version of chaski.
    #[error("{path}: written by another version of chaski (format {version}, this version reads {VERSION})")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format version.
        version: u32,
    },
    /// Written for another model.
    #[error("{0}: belongs to another model")]
    Foreign(PathBuf),
    /// The payload is too long.
    #[error("the learned state has {n_bytes} bytes; the limit is {MAX_PAYLOAD_BYTES}")]
    TooLong {
        /// Its length.
        n_bytes: usize,
    },
}

/// Result of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updated {
    /// The new state is stored.
    Kept,
    /// Another process was writing for too long; nothing was changed.
    Skipped,
}

/// The payload stored for `key`; `None` if there is none.
///
/// # Errors
/// When the file exists but cannot be used.
pub fn load(folder: &Path, key: &LearnedKey) -> Result<Option<Vec<u8>>, LearnedError> {
    let path = key.path(folder);
    let Some((found, payload)) = read(&path)? else { return Ok(None) };
    if found == *key { Ok(Some(payload)) } else { Err(LearnedError::Foreign(path)) }
}

/// Replaces the payload stored for `key` by the result of `change`. `change` receives the stored payload, or `None` if
/// it is missing or damaged. No other process can change it in between.
///
/// # Errors
/// When the folder cannot be created or written to, the stored file cannot be read or is of a later version, or the new
/// payload is too long. The old payload stays.
pub fn update(
    folder: &Path,
    key: &LearnedKey,
    change: impl FnOnce(Option<Vec<u8>>) -> Vec<u8>,
) -> Result<Updated, LearnedError> {
    make_private_folder(folder)?;
    let Some(_lock) = lock(&key.lock_path(folder), PATIENCE)? else { return Ok(Updated::Skipped) };
    let old = match load(folder, key) {
        Ok(old) => old,
        // Do not replace a file of a later version.
        Err(error @ (LearnedError::Newer { .. } | LearnedError::Io { .. })) => return Err(error),
        Err(_) => None,
    };
    let payload = change(old);
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(LearnedError::TooLong { n_bytes: payload.len() });
    }
    replace(&key.path(folder), &seal(key, &payload))?;
    Ok(Updated::Kept)
}

/// A file of learned state.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The path of the file.
    pub path: PathBuf,
    /// The model it belongs to; `None` if the file cannot be read.
    pub key: Option<LearnedKey>,
    /// The size of the file.
    pub n_bytes: u64,
    /// When it was written, if the file system reports it.
    pub written: Option<SystemTime>,
}

/// Lists all files of learned state, by name.
///
/// # Errors
/// When the folder cannot be read. A missing folder has no files.
pub fn list(folder: &Path) -> Result<Vec<Entry>, LearnedError> {
    let mut entries = Vec::new();
    for path in files(folder)?.into_iter().filter(|path| path.extension().is_some_and(|end| end == EXTENSION)) {
        // Another process has deleted the file since the folder was read.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let key = read(&path).ok().flatten().map(|(key, _)| key);
        entries.push(Entry { path, key, n_bytes: metadata.len(), written: metadata.modified().ok() });
    }
    Ok(entries)
}

/// Deletes the state stored for `key`, with any draft model, or for all models. Returns the paths of the deleted files.
///
/// # Errors
/// When a file cannot be deleted, or another process is writing to it for too long.
pub fn forget(folder: &Path, key: Option<&LearnedKey>) -> Result<Vec<PathBuf>, LearnedError> {
    let mut forgotten = Vec::new();
    for path in files(folder)? {
        let of_whom = |end: &str| path.extension().is_some_and(|found| found == end);
        if !of_whom(EXTENSION) || !key.is_none_or(|key| is_of(&path, folder, key)) {
            continue;
        }
        // Lock first, or a writer at work would recreate the file.
        let lock = lock(&path.with_extension(LOCK_EXTENSION), PATIENCE_OF_USERS)?;
        let _lock = lock.ok_or_else(|| busy(&path))?;
        match private::remove(&path) {
            Ok(true) => forgotten.push(path),
            Ok(false) => {}
            Err(error) => return Err(LearnedError::Io { path, error }),
        }
    }
    Ok(forgotten)
}

/// Whether a file belongs to the key's model, with any draft model. A damaged file does not say: its name decides.
fn is_of(path: &Path, folder: &Path, key: &LearnedKey) -> bool {
    let found = read(path).ok().flatten().map(|(found, _)| found.with_draft_model(key.draft_model.clone()));
    path == key.path(folder) || found.as_ref() == Some(key)
}

/// The files in the folder, sorted; empty if there is no folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>, LearnedError> {
    let io = |error| LearnedError::Io { path: folder.to_owned(), error };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io)?,
    };
    let mut paths =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<PathBuf>>>().map_err(io)?;
    paths.sort();
    Ok(paths)
}

fn seal(key: &LearnedKey, payload: &[u8]) -> Vec<u8> {
    let key = serde_json::to_vec(key).expect("a string and a number");
    let n_key = u32::try_from(key.len()).expect("a file name and some numbers");
    let lengths = [&n_key.to_le_bytes()[..], &(payload.len() as u64).to_le_bytes()].concat();
    let start = [&MAGIC[..], &VERSION.to_le_bytes(), &lengths].concat();
    let sum = XxHash3_64::oneshot(&[&start[..], &key, payload].concat());
    [&start[..], &sum.to_le_bytes(), &key, payload].concat()
}

/// Reads a file; `None` if it does not exist.
fn read(path: &Path) -> Result<Option<(LearnedKey, Vec<u8>)>, LearnedError> {
    let io = |error| LearnedError::Io { path: path.to_owned(), error };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io)?,
    };
    let mut bytes = Vec::new();
    let longest = (HEAD_BYTES + MAX_KEY_BYTES + MAX_PAYLOAD_BYTES) as u64;
    file.take(longest + 1).read_to_end(&mut bytes).map_err(io)?;
    open_envelope(&bytes, path).map(Some)
}

fn open_envelope(bytes: &[u8], path: &Path) -> Result<(LearnedKey, Vec<u8>), LearnedError> {
    let damaged = || LearnedError::Damaged(path.to_owned());
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
    let (version, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
    match u32::from_le_bytes(*version) {
        VERSION => {}
        version if version > VERSION => return Err(LearnedError::Newer { path: path.to_owned(), version }),
        _ => return Err(damaged()),
    }
    let (n_key, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
    let (n_payload, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
    let (sum, body) = rest.split_first_chunk().ok_or_else(damaged)?;
    let (n_key, n_payload) = (u32::from_le_bytes(*n_key) as usize, u64::from_le_bytes(*n_payload));
    if n_key > MAX_KEY_BYTES || n_payload > MAX_PAYLOAD_BYTES as u64 || (n_key as u64 + n_payload) != body.len() as u64
    {
        return Err(damaged());
    }
    let start = &bytes[..HEAD_BYTES - 8];
    if XxHash3_64::oneshot(&[start, body].concat()) != u64::from_le_bytes(*sum) {
        return Err(damaged());
    }
    let (key, payload) = body.split_at(n_key);
    let key = serde_json::from_slice(key).map_err(|_| damaged())?;
    Ok((key, payload.to_vec()))
}

fn busy(path: &Path) -> LearnedError {
    let error = io::Error::other("another process is writing to it");
    LearnedError::Io { path: path.to_owned(), error }
}

fn make_private_folder(folder: &Path) -> Result<(), LearnedError> {
    private::make_folder(folder).map_err(|error| LearnedError::Io { path: folder.to_owned(), error })
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), LearnedError> {
    private::replace(path, &[bytes], Durability::Expendable)
        .map_err(|error| LearnedError::Io { path: path.to_owned(), error })
}

fn lock(path: &Path, patience: Duration) -> Result<Option<Locked>, LearnedError> {
    private::lock(path, patience).map_err(|error| LearnedError::Io { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests;
