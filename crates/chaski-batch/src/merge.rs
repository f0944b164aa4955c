//! Merges the results of all shards of a job into one file, in line order.
//!
//! The journals show whether the parts are the shards of one job, all present, each once and each complete. The output
//! is written under another name and then renamed, with a journal as if one process had done the whole job. The offsets
//! of all records are held in memory: about 64 bytes per line.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::claims::{self, End, Plan};
use crate::disk::Disk;
use crate::input::shard::Shard;
use crate::journal::{Difference, Entry, Key, Totals};
use crate::ledger::rewrite::{Place, put_in_place, write_aside};
use crate::ledger::{LedgerError, journal_path, read_finished, read_journal};

/// The parameter of a key that differs from shard to shard.
const SHARD: &str = "--shard";

/// Why shards cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A part has no journal.
    #[error("{0}: no journal found for this file")]
    NoJournal(PathBuf),
    /// A part belongs to another job.
    #[error("{path}: belongs to another job: its {} is {}, not {}", .difference.what, .difference.is, .difference.was)]
    OtherJob {
        /// The part.
        path: PathBuf,
        /// The first difference.
        difference: Difference,
    },
    /// A shard is given twice.
    #[error("{0}: has the same lines as another file")]
    Twice(PathBuf),
    /// A shard has lines that are not done.
    #[error("{path}: {n_left} lines of this shard are not done")]
    Incomplete {
        /// The part.
        path: PathBuf,
        /// Number of these lines.
        n_left: u64,
    },
    /// Some shards of a claimed job are not finished.
    #[error("{n_left} of {n_shards} shards are not finished")]
    Unfinished {
        /// Number of these shards.
        n_left: u64,
        /// Shards of the job.
        n_shards: u64,
    },
    /// Some shards are missing.
    #[error("{n_missing} of {n_lines} lines are missing from the shards")]
    Missing {
        /// Lines in none of the parts.
        n_missing: u64,
        /// Lines of the job.
        n_lines: u64,
    },
    /// The output exists already.
    #[error("{0}: the file already exists")]
    Exists(PathBuf),
}

/// The outputs of all shards of `output`, for the smallest number of shards up to `max` whose first shard has a
/// journal. Empty if there is none.
#[must_use]
pub fn parts_of(output: &Path, exists: impl Fn(&Path) -> bool, max: u64) -> Vec<PathBuf> {
    let shard = |number, n_shards| Shard { number, n_shards }.output(output);
    let n_shards = (2..=max).find(|&n| exists(&journal_path(&shard(1, n))));
    n_shards.map_or_else(Vec::new, |n| (1..=n).map(|number| shard(number, n)).collect())
}

/// The outputs of all shards of a job whose shards were claimed; `None` if it is not such a job.
///
/// # Errors
/// When a shard is not finished, or a claim cannot be read.
pub fn claimed_parts(disk: &dyn Disk, output: &Path) -> Result<Option<Vec<PathBuf>>, MergeError> {
    let Some(Plan { n_shards, .. }) = Plan::read(disk, output)? else { return Ok(None) };
    match claims::parts(disk, output, n_shards)? {
        (parts, 0) => Ok(Some(parts)),
        (_, n_left) => Err(MergeError::Unfinished { n_left, n_shards }),
    }
}

/// Merges the results of shards into `output`.
///
/// # Errors
/// See [`MergeError`]. The parts are never changed.
pub fn merge(disk: &dyn Disk, output: &Path, parts: &[PathBuf], ms: u64) -> Result<Totals, MergeError> {
    let log = journal_path(output);
    let at_log = |error| LedgerError::Io { path: log.clone(), error };
    // Lock the output against a batch that begins and against another merge.
    let alone = disk.append_alone(&log).map_err(at_log)?;
    let alone = alone.ok_or_else(|| LedgerError::Busy(output.to_owned()))?;
    let is_new = alone.n_bytes().map_err(at_log)? == 0;
    let merged = merge_alone(disk, output, is_new, parts, ms);
    if merged.is_err() && is_new && matches!(read_journal(disk, &log), Ok(None)) {
        disk.remove(&log).map_err(at_log)?;
    }
    merged
}

fn merge_alone(disk: &dyn Disk, output: &Path, is_new: bool, parts: &[PathBuf], ms: u64) -> Result<Totals, MergeError> {
    if disk.read(output).map_err(|error| LedgerError::Io { path: output.to_owned(), error })?.is_some() {
        return Err(MergeError::Exists(output.to_owned()));
    }
    if !is_new {
        return Err(MergeError::Exists(journal_path(output)));
    }
    let _held = hold(disk, parts)?;
    let (key, active_ms, mut places) = places(disk, parts)?;
    let n_missing = key.n_lines.saturating_sub(places.len() as u64);
    if n_missing > 0 {
        return Err(MergeError::Missing { n_missing, n_lines: key.n_lines });
    }
    places.sort_unstable_by_key(|place| place.finished.line);
    let begin = Entry::Rewritten { ms, active_ms };
    let sources: Vec<&Path> = parts.iter().map(PathBuf::as_path).collect();
    let totals = write_aside(disk, output, key, &begin, &sources, places)?.journal.totals();
    put_in_place(disk, output)?;
    Ok(totals)
}

/// Locks the parts against writers until the result is dropped: a batch rewrites its output in line order when it ends.
/// The output of a claimed shard is never rewritten, and may be on a file system without locks.
fn hold(disk: &dyn Disk, parts: &[PathBuf]) -> Result<Vec<Box<dyn Send>>, MergeError> {
    let mut locked = Vec::new();
    for path in parts {
        let claim = claims::claim_path(path);
        if disk.read(&claim).map_err(|error| LedgerError::Io { path: claim, error })?.is_none() {
            locked.push(path);
        }
    }
    let hold = |path: &PathBuf| {
        let log = journal_path(path);
        let held = match disk.hold(&log) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(MergeError::NoJournal(path.clone())),
            held => held.map_err(|error| LedgerError::Io { path: log, error })?,
        };
        Ok(held.ok_or_else(|| LedgerError::Busy(path.clone()))?)
    };
    locked.into_iter().map(hold).collect()
}

/// The common job of all parts, their working time in milliseconds, and all records.
fn places(disk: &dyn Disk, parts: &[PathBuf]) -> Result<(Key, u64, Vec<Place>), MergeError> {
    let mut shards: BTreeSet<String> = BTreeSet::new();
    let (mut job, mut active_ms, mut places) = (None::<Key>, 0, Vec::new());
    for (source, path) in parts.iter().enumerate() {
        let claim = claims::read(disk, path)?;
        if claim.as_ref().is_some_and(|claim| claim.end != Some(End::Finished)) {
            // Its owner died or was interrupted; another one finishes the shard.
            continue;
        }
        let log = journal_path(path);
        let (journal, _) = read_journal(disk, &log)?.ok_or_else(|| MergeError::NoJournal(path.clone()))?;
        let key = whole(journal.key());
        let shard = journal.key().parameters.get(SHARD).cloned().unwrap_or_default();
        match &job {
            None => job = Some(key),
            Some(job) => {
                if let Some(difference) = job.difference(&key) {
                    return Err(MergeError::OtherJob { path: path.clone(), difference });
                }
            }
        }
        if !shards.insert(shard) {
            if claim.is_some() {
                // Two owners have finished the shard. Both have the same lines.
                continue;
            }
            return Err(MergeError::Twice(path.clone()));
        }
        if journal.n_left() > 0 {
            return Err(MergeError::Incomplete { path: path.clone(), n_left: journal.n_left() });
        }
        active_ms += journal.totals().active_ms;
        places.extend(read_finished(disk, &log)?.into_iter().map(|(start, finished)| Place {
            source,
            start,
            finished,
        }));
    }
    let key = job.ok_or(MergeError::Missing { n_missing: 0, n_lines: 0 })?;
    Ok((key, active_ms, places))
}

/// The key of the whole job that a shard's key belongs to.
fn whole(key: &Key) -> Key {
    let mut key = Key { n_own: key.n_lines, ..key.clone() };
    key.parameters.insert(SHARD.to_owned(), Shard::ALL.to_string());
    key
}
