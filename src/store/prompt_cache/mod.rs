//! Prompts that were read once, kept on disk as llama.cpp's KV states, by the tokens they hold.
//!
//! Nothing here knows llama.cpp: a state is bytes under a key that says all its numbers depend on. A prompt is found by the
//! longest prefix it shares with a kept one ([`choice`]); of a kept state a prefix can be used alone, so a longer text
//! replaces its own beginnings. Files have sealed heads ([`mod@format`]), and their times of change are those of their last use.
//! Many processes may share a folder: files appear whole and vanish whole, and a limit is kept within what others write at
//! the same moment.
//!
//! What is trusted: the folder, which is this user's alone, as the models and settings are. A file that was damaged, or put
//! there or beside a session by somebody who cannot read the secret, never gets as far as llama.cpp.

pub mod choice;
pub mod file;
pub mod format;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use twox_hash::XxHash3_64;

use crate::store::private::{self, WRITING};
use crate::store::prompt_cache::choice::{Candidate, Fit, MIN_TOKENS, best, evicted, replaces};
use crate::store::prompt_cache::file::{OpenState, State, StateError, write};
use crate::store::prompt_cache::format::{Head, Seal};
use crate::token::Token;

/// Most states in a folder: a search reads the head of each.
const MAX_ENTRIES: usize = 256;

/// A part of the disk that is free, or would be without the states: they never take more.
const DISK_PART: u64 = 10;

/// A file that is still being written after this time was left behind.
const LONGEST_WRITE: Duration = Duration::from_secs(3600);

const EXTENSION: &str = "state";

/// Where states are kept, and how much of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptCacheConfig {
    /// A private folder.
    pub folder: PathBuf,
    /// Most bytes in it.
    pub max_bytes: u64,
}

/// A file of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub n_bytes: u64,
    /// When it was used last.
    pub used: SystemTime,
}

/// What a search found.
#[derive(Debug, Default)]
pub struct Found {
    /// The state that saves most, if one is worth loading: what it is, and its bytes.
    pub state: Option<(Head, Vec<u8>)>,
    /// What was in the way; damaged files are gone now.
    pub errors: Vec<StateError>,
}

impl PromptCacheConfig {
    /// The state that saves most of `prefix`, of which the context holds `n_have` tokens already.
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

    /// Keeps a state, in place of those that it makes superfluous and of those that were used longest ago. One that is
    /// larger than all that may be kept is not.
    ///
    /// # Errors
    /// When the folder cannot be read or written to.
    pub fn keep(&self, state: &State<'_>, can_truncate: bool, seal: &Seal) -> Result<(), StateError> {
        let path = self.path(state.key, state.tokens);
        // With what stands around it: its head, and how file systems round.
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
        // First of all: a disk that is nearly full has no room for both.
        for path in evicted.chain(&superfluous) {
            remove(path)?;
        }
        write(&path, state, seal)
    }

    /// All states there are, by name. Files that somebody stopped writing are removed.
    ///
    /// # Errors
    /// When the folder cannot be read. One that is not there has none.
    pub fn entries(&self) -> Result<Vec<Entry>, StateError> {
        let files = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            files => files.map_err(StateError::io(&self.folder))?,
        };
        let mut entries = Vec::new();
        for file in files {
            let path = file.map_err(StateError::io(&self.folder))?.path();
            // Gone since the folder was read.
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

    /// Deletes all states, and tells which.
    ///
    /// # Errors
    /// When one cannot be deleted.
    pub fn clear(&self) -> Result<Vec<Entry>, StateError> {
        let entries = self.entries()?;
        entries.iter().try_for_each(|entry| remove(&entry.path))?;
        Ok(entries)
    }

    /// The states of a key, and what is wrong with others: those that are damaged are removed.
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

    /// Most bytes of states: as set, but no more than a part of the disk. Where the disk does not tell, as set.
    fn limit(&self, entries: &[Entry]) -> u64 {
        let kept: u64 = entries.iter().map(|entry| entry.n_bytes).sum();
        let free = fs4::available_space(&self.folder).ok();
        free.map_or(self.max_bytes, |free| self.max_bytes.min(free.saturating_add(kept) / DISK_PART))
    }

    fn path(&self, key: &str, tokens: &[Token]) -> PathBuf {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.0.to_le_bytes()).collect();
        self.folder.join(format!("{}{:016x}.{EXTENSION}", of_key(key), XxHash3_64::oneshot(&bytes)))
    }
}

fn candidate(state: &OpenState) -> Candidate<'_> {
    let head = &state.head;
    Candidate { tokens: &head.tokens, us_per_token: head.us_per_token, n_bytes: state.n_bytes }
}

/// How names of a key's files begin.
fn of_key(key: &str) -> String {
    format!("{:016x}-", XxHash3_64::oneshot(key.as_bytes()))
}

/// Removes a file that is damaged. What is to be told: the error, and that it stays if it does.
fn dispose(path: &Path, error: StateError) -> impl Iterator<Item = StateError> {
    let failed = matches!(error, StateError::Damaged(_)).then(|| remove(path).err()).flatten();
    std::iter::once(error).chain(failed)
}

fn remove(path: &Path) -> Result<(), StateError> {
    private::remove(path).map(drop).map_err(StateError::io(path))
}

#[cfg(test)]
mod tests;
