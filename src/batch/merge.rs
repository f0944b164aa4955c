//! The results of shards as one file, in the order of the lines.
//!
//! Each shard's journal says what it is; only shards of one job, all of them, each once and each complete, are joined.
//! The output is written aside and then takes its place, with a journal, as if one process had done it all. Places are
//! held in memory: some 64 bytes a line.

use std::collections::BTreeMap;
use std::io::{self, Read as _, SeekFrom};
use std::path::{Path, PathBuf};

use crate::batch::disk::{Disk, Readable};
use crate::batch::input::shard::Shard;
use crate::batch::journal::{Difference, Entry, Finished, Journal, Key, Totals};
use crate::batch::ledger::{LedgerError, head, journal_path, read_finished, read_journal};

/// Bytes written at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// The parameter of a key that differs from shard to shard.
const SHARD: &str = "--shard";

/// Why shards cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A part has no journal.
    #[error("{0}: no journal says what it is")]
    NoJournal(PathBuf),
    /// A part is of another job.
    #[error("{path}: it is of another job: its {} is {}, not {}", .difference.what, .difference.is, .difference.was)]
    OtherJob {
        /// The part.
        path: PathBuf,
        /// How they differ.
        difference: Difference,
    },
    /// A part is there twice.
    #[error("{0}: another part has the same lines")]
    Twice(PathBuf),
    /// A part has lines that are not done.
    #[error("{path}: {n_left} of its lines are not done")]
    Incomplete {
        /// The part.
        path: PathBuf,
        /// How many.
        n_left: u64,
    },
    /// The parts are not all there.
    #[error("{n_missing} of {n_lines} lines are in none of the parts")]
    Missing {
        /// Lines that are nowhere.
        n_missing: u64,
        /// Lines of the job.
        n_lines: u64,
    },
    /// The output is there already.
    #[error("{0}: it exists")]
    Exists(PathBuf),
}

/// The outputs of a job's shards, beside `output`; none where there is not even the first.
#[must_use]
pub fn parts_of(output: &Path, exists: impl Fn(&Path) -> bool, max: u64) -> Vec<PathBuf> {
    let shard = |number, n_shards| Shard { number, n_shards }.output(output);
    let n_shards = (2..=max).find(|&n| exists(&journal_path(&shard(1, n))));
    n_shards.map_or_else(Vec::new, |n| (1..=n).map(|number| shard(number, n)).collect())
}

/// Joins the results of shards.
///
/// # Errors
/// See [`MergeError`]; the parts are never changed.
pub fn merge(disk: &dyn Disk, output: &Path, parts: &[PathBuf], ms: u64) -> Result<Totals, MergeError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| MergeError::from(LedgerError::Io { path, error })
    };
    let log_path = journal_path(output);
    for path in [output, &log_path] {
        if disk.read(path).map_err(at(path))?.is_some() {
            return Err(MergeError::Exists(path.to_owned()));
        }
    }
    let (key, active_ms, mut places) = places(disk, parts)?;
    let n_missing = key.n_lines.saturating_sub(places.len() as u64);
    if n_missing > 0 {
        return Err(MergeError::Missing { n_missing, n_lines: key.n_lines });
    }
    places.sort_unstable_by_key(|place| place.finished.line);

    let mut sources = Vec::new();
    for path in parts {
        sources.push(disk.read(path).map_err(at(path))?.ok_or_else(|| MergeError::NoJournal(path.clone()))?);
    }
    let (new, new_log) = (with_new(output), with_new(&log_path));
    disk.remove(&new).map_err(at(&new))?;
    disk.remove(&new_log).map_err(at(&new_log))?;
    let mut file = disk.append(&new).map_err(at(&new))?;
    let mut log = disk.append(&new_log).map_err(at(&new_log))?;
    let mut journal = Journal::new(key);
    let begin = Entry::Rewritten { ms, active_ms };
    journal.apply(&begin);
    let (mut text, mut buffer, mut end) = (head(journal.key()) + &begin.encode(), Vec::new(), 0);
    for Place { part, start, finished } in places {
        let n_bytes = finished.end - start;
        read_at(&mut *sources[part], start, n_bytes, &mut buffer).map_err(at(&parts[part]))?;
        end += n_bytes;
        let entry = Entry::Finished(Finished { end, ..finished });
        journal.apply(&entry);
        text += &entry.encode();
        if buffer.len() + text.len() >= BUFFER_BYTES {
            file.append(&buffer).map_err(at(&new))?;
            log.append(text.as_bytes()).map_err(at(&new_log))?;
            buffer.clear();
            text.clear();
        }
    }
    file.append(&buffer).and_then(|()| file.sync()).map_err(at(&new))?;
    log.append(text.as_bytes()).and_then(|()| log.sync()).map_err(at(&new_log))?;
    // The journal first: an output without one could not be told from a file of someone else's.
    disk.replace(&new_log, &log_path).map_err(at(&log_path))?;
    disk.replace(&new, output).map_err(at(output))?;
    Ok(journal.totals())
}

/// A record.
struct Place {
    part: usize,
    start: u64,
    finished: Finished,
}

/// The job that all parts are of, the time it took, and all records.
fn places(disk: &dyn Disk, parts: &[PathBuf]) -> Result<(Key, u64, Vec<Place>), MergeError> {
    let mut shards: BTreeMap<String, usize> = BTreeMap::new();
    let (mut job, mut active_ms, mut places) = (None::<Key>, 0, Vec::new());
    for (part, path) in parts.iter().enumerate() {
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
        if shards.insert(shard, part).is_some() {
            return Err(MergeError::Twice(path.clone()));
        }
        if journal.n_left() > 0 {
            return Err(MergeError::Incomplete { path: path.clone(), n_left: journal.n_left() });
        }
        active_ms += journal.totals().active_ms;
        places.extend(read_finished(disk, &log)?.into_iter().map(|(start, finished)| Place { part, start, finished }));
    }
    let key = job.ok_or(MergeError::Missing { n_missing: 0, n_lines: 0 })?;
    Ok((key, active_ms, places))
}

/// The job that a shard's key is a part of.
fn whole(key: &Key) -> Key {
    let mut key = Key { n_own: key.n_lines, ..key.clone() };
    key.parameters.insert(SHARD.to_owned(), Shard::ALL.to_string());
    key
}

fn read_at(file: &mut dyn Readable, start: u64, n_bytes: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
    file.seek(SeekFrom::Start(start))?;
    match file.take(n_bytes).read_to_end(buffer)? as u64 == n_bytes {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn with_new(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}
