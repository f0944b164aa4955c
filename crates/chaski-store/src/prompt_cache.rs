//! The prompt cache: KV states of prompts that were computed before, stored on disk by their tokens.
//!
//! Nothing here knows llama.cpp: a state is bytes under a key that names everything its numbers depend on. A prompt
//! uses the state with the longest common prefix ([`choice`]). A prefix of a state can be used alone, so a longer text
//! replaces the states of its own beginnings. Files have sealed heads ([`mod@format`]), and their modification time is
//! the time of their last use. Several processes may share a folder: files appear and vanish as a whole, and the size
//! limit holds except for what others write at the same moment.
//!
//! The folder is trusted: it belongs to this user, like the models and settings. A file that was damaged, or was placed
//! there or beside a session by somebody who cannot read the secret, never reaches llama.cpp.

pub mod choice;
pub mod file;
pub mod format;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use twox_hash::XxHash3_64;

use crate::engine::PromptCacheConfig;
use crate::private::{self, WRITING};
use crate::prompt_cache::choice::{Candidate, Fit, MIN_TOKENS, best, evicted, replaces};
use crate::prompt_cache::file::{OpenState, State, StateError, write};
use crate::prompt_cache::format::{Head, Seal};
use crate::token::Token;

/// Maximum number of states in a folder: a search reads the head of each.
const MAX_ENTRIES: usize = 256;

/// The states take at most 1 / this of the disk space that would be free without them.
const DISK_PART: u64 = 10;

/// A temporary file older than this was left behind.
const LONGEST_WRITE: Duration = Duration::from_secs(3600);

const EXTENSION: &str = "state";

/// The states in a folder.
#[derive(Clone, Copy, Debug)]
pub struct PromptCache<'a>(pub &'a PromptCacheConfig);

/// A state file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path of the file.
    pub path: PathBuf,
    /// Its length.
    pub n_bytes: u64,
    /// When it was last used.
    pub used: SystemTime,
}

/// The result of a search.
#[derive(Debug, Default)]
pub struct Found {
    /// Head and bytes of the state that saves most, if one is worth loading.
    pub state: Option<(Head, Vec<u8>)>,
    /// Errors of other states. Damaged files have been deleted.
    pub errors: Vec<StateError>,
}

impl PromptCache<'_> {
    /// Loads the state that saves most of `prefix`, of which the context already holds `n_have` tokens.
    #[must_use]
    pub fn find(&self, key: &str, prefix: &[Token], n_have: usize, fit: Fit, seal: &Seal) -> Found {
        if prefix.len() < n_have + MIN_TOKENS {
            return Found::default();
        }
        let (mut states, mut errors) = self.open_all(key, seal);
        let candidates: Vec<Candidate<'_>> = states.iter().map(candidate).collect();
        let found = best(&candidates, prefix, n_have, fit).map(|index| states.swap_remove(index));
        let loaded = found.map(|state| (state.path().to_owned(), state.load(seal)));
        let state = loaded.and_then(|(path, state)| state.map_err(|error| errors.extend(dispose(&path, error))).ok());
        Found { state, errors }
    }

    /// Stores a state. It replaces the states that it makes superfluous, and the least recently used ones to stay
    /// within the limit. A state larger than the limit is not stored.
    ///
    /// # Errors
    /// When the folder cannot be read or written to.
    pub fn keep(&self, state: &State<'_>, can_truncate: bool, seal: &Seal) -> Result<(), StateError> {
        let path = self.path(state.key, state.tokens);
        // Allow for the head and for rounding by the file system.
        let n_bytes = (state.bytes.len() + 4 * state.tokens.len() + (64 << 10)) as u64;
        let (states, _) = self.open_all(state.key, seal);
        let superfluous: Vec<PathBuf> = states
            .into_iter()
            .filter(|old| old.path() != path && replaces(state.tokens, &old.head.tokens, can_truncate))
            .map(|old| old.path().to_owned())
            .collect();
        let entries = self.entries()?;
        let left: Vec<&Entry> =
            entries.iter().filter(|entry| entry.path != path && !superfluous.contains(&entry.path)).collect();
        let max_bytes = self.limit(&entries);
        if n_bytes > max_bytes {
            return Ok(());
        }
        let age = |entry: &&Entry| entry.used.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let kept: Vec<(u64, u64)> = left.iter().map(|entry| (entry.n_bytes, age(entry))).collect();
        let evicted = evicted(&kept, n_bytes, max_bytes, MAX_ENTRIES).into_iter().map(|index| &left[index].path);
        // Delete first: a nearly full disk has no room for both.
        for path in evicted.chain(&superfluous) {
            remove(path)?;
        }
        write(&path, state, seal)
    }

    /// Lists all states by name, and deletes temporary files left behind.
    ///
    /// # Errors
    /// When the folder cannot be read. A missing folder has no states.
    pub fn entries(&self) -> Result<Vec<Entry>, StateError> {
        let files = match fs::read_dir(&self.0.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            files => files.map_err(StateError::io(&self.0.folder))?,
        };
        let mut entries = Vec::new();
        for file in files {
            let path = file.map_err(StateError::io(&self.0.folder))?.path();
            // Deleted since the folder was read.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let used = metadata.modified().unwrap_or(UNIX_EPOCH);
            let is_left_behind = used.elapsed().is_ok_and(|age| age > LONGEST_WRITE);
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(WRITING) && is_left_behind {
                remove(&path)?;
            } else if path.extension().is_some_and(|extension| extension == EXTENSION) {
                entries.push(Entry { path, n_bytes: metadata.len(), used });
            }
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    /// Deletes all states and returns them.
    ///
    /// # Errors
    /// When a state cannot be deleted.
    pub fn clear(&self) -> Result<Vec<Entry>, StateError> {
        let entries = self.entries()?;
        entries.iter().try_for_each(|entry| remove(&entry.path))?;
        Ok(entries)
    }

    /// Opens the states of a key. Damaged files are deleted and reported.
    fn open_all(&self, key: &str, seal: &Seal) -> (Vec<OpenState>, Vec<StateError>) {
        let entries = match self.entries() {
            Ok(entries) => entries,
            Err(error) => return (Vec::new(), vec![error]),
        };
        let start = of_key(key);
        let is_of_key = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&start));
        let (mut states, mut errors) = (Vec::new(), Vec::new());
        for entry in entries.into_iter().filter(|entry| is_of_key(&entry.path)) {
            match OpenState::open(&entry.path, seal) {
                Ok(state) => states.extend(state.filter(|state| state.head.key == key)),
                Err(error) => errors.extend(dispose(&entry.path, error)),
            }
        }
        (states, errors)
    }

    /// The size limit in bytes: the configured one, but at most a part of the disk. If the disk's space is unknown, the
    /// configured one.
    fn limit(&self, entries: &[Entry]) -> u64 {
        let kept: u64 = entries.iter().map(|entry| entry.n_bytes).sum();
        let free = free_bytes(&self.0.folder);
        free.map_or(self.0.max_bytes, |free| self.0.max_bytes.min(free.saturating_add(kept) / DISK_PART))
    }

    fn path(&self, key: &str, tokens: &[Token]) -> PathBuf {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.0.to_le_bytes()).collect();
        self.0.folder.join(format!("{}{:016x}.{EXTENSION}", of_key(key), XxHash3_64::oneshot(&bytes)))
    }
}

/// Free bytes of the disk below `folder`; `None` if the system does not report it.
fn free_bytes(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    return rustix::fs::statvfs(folder).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    #[cfg(not(unix))]
    return None;
}

fn candidate(state: &OpenState) -> Candidate<'_> {
    let head = &state.head;
    Candidate { tokens: &head.tokens, us_per_token: head.us_per_token, n_bytes: state.n_bytes }
}

/// The prefix of the file names of a key.
fn of_key(key: &str) -> String {
    format!("{:016x}-", XxHash3_64::oneshot(key.as_bytes()))
}

/// Deletes a damaged file. Returns the error, and a second one if the deletion fails.
fn dispose(path: &Path, error: StateError) -> impl Iterator<Item = StateError> {
    let failed = matches!(error, StateError::Damaged(_)).then(|| remove(path).err()).flatten();
    std::iter::once(error).chain(failed)
}

fn remove(path: &Path) -> Result<(), StateError> {
    private::remove(path).map(drop).map_err(StateError::io(path))
}

#[cfg(test)]
mod tests;
