//! Writes the results of a job to disk: the output file and the journal beside it.
//!
//! A record is one complete line, appended to the output. A group of records is synced first and only then entered in
//! the journal as finished. After a kill or a power cut, the job resumes after the last line in the journal. Whatever
//! the output holds beyond that, at most a second's worth, is cut off and done again.
//!
//! [`crate::journal`] defines the entries.

pub(crate) mod rewrite;

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Read as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::{Appended, Disk, Readable, is_in_use};
use crate::journal::{Difference, Entry, Finished, Journal, Key, MAGIC, MAX_ENTRY_BYTES};

/// Bytes of records collected for one write.
const BUFFER_BYTES: usize = 64 << 10;

/// Why output and journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// The output is not empty, and it has no journal.
    #[error("{0}: the file exists, but it has no journal, so it is not the output of a batch")]
    NoJournal(PathBuf),
    /// The journal file is not a journal of this version.
    #[error("{0}: not a journal of chaski batch, or written by another version")]
    Foreign(PathBuf),
    /// The journal belongs to another job.
    #[error("{path}: the job was started with another {}: {} then, {} now", .difference.what, .difference.was, .difference.is)]
    OtherKey {
        /// The journal.
        path: PathBuf,
        /// The first difference.
        difference: Difference,
    },
    /// The plan of a claimed job is incomplete, or not a plan.
    #[error("{0}: not a plan of chaski batch --shard claim, or incomplete")]
    BadPlan(PathBuf),
    /// A job whose shards are claimed has not begun, but its output exists.
    #[error("{0}: the file already exists")]
    Exists(PathBuf),
    /// The plan of a claimed job was deleted while a process waited for others.
    #[error("{0}: the file was deleted before all shards were finished")]
    PlanDeleted(PathBuf),
    /// Another process is writing to the output.
    #[error("{0}: another process is writing to it")]
    Busy(PathBuf),
    /// The output is shorter than its journal says.
    #[error("{path}: the file was changed: it has {n_bytes} bytes, but its journal says {n_expected}")]
    Shortened {
        /// The output.
        path: PathBuf,
        /// The output's length.
        n_bytes: u64,
        /// The length of all finished records, by the journal.
        n_expected: u64,
    },
}

/// The path of an output's journal.
#[must_use]
pub fn journal_path(output: &Path) -> PathBuf {
    with_suffix(output, ".journal")
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// How to begin or resume a job.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// The time, in milliseconds since 1970.
    pub ms: u64,
    /// Whether the previous process crashed.
    pub after_crash: bool,
    /// Whether the user set the key's seed. If not, the seed of an earlier run is used.
    pub has_seed: bool,
    /// Whether to forget failed lines, so that they are done again.
    pub retry_failed: bool,
    /// Whether a claim makes this process the only writer of the files. Then nothing is locked, because a claimed job
    /// may be on a file system without locks, and nothing is rewritten, because others may be reading.
    pub is_claimed: bool,
}

/// What [`Ledger::adopt`] has copied.
#[derive(Debug, Default)]
pub struct Adopted {
    /// Number of records.
    pub n_lines: u64,
    /// Why the other records of the journal could not be copied; `None` if all were.
    pub unread: Option<LedgerError>,
}

/// An output, and its finished lines with the offsets of their records.
struct Records {
    file: Box<dyn Readable>,
    finished: Vec<(u64, Finished)>,
}

/// An open output with its journal, locked against other processes.
pub struct Ledger<'d> {
    disk: &'d dyn Disk,
    path: PathBuf,
    output: Box<dyn Appended>,
    log: EngineLog,
    journal: Journal,
    /// Records not yet written to the output.
    buffer: Vec<u8>,
    /// Length of the output, including `buffer`.
    n_bytes: u64,
    /// Records not yet entered in the journal.
    unsynced: Vec<Finished>,
    /// Bytes dropped from the end of the journal.
    n_dropped_bytes: u64,
    /// See [`OpenOptions`].
    is_claimed: bool,
}

impl std::fmt::Debug for Ledger<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger")
            .field("path", &self.path)
            .field("totals", &self.journal.totals())
            .finish_non_exhaustive()
    }
}

impl<'d> Ledger<'d> {
    /// Begins or resumes a job.
    ///
    /// # Errors
    /// See [`LedgerError`]. Files of another job are not changed.
    pub fn open(disk: &'d dyn Disk, path: &Path, key: &Key, options: &OpenOptions) -> Result<Ledger<'d>, LedgerError> {
        let journal_path = journal_path(path);
        let error_at = |path: &Path| {
            let path = path.to_owned();
            move |error| LedgerError::Io { path, error }
        };
        let has_output = has_bytes(disk, path).map_err(error_at(path))?;
        if has_output && disk.read(&journal_path).map_err(error_at(&journal_path))?.is_none() {
            return Err(LedgerError::NoJournal(path.to_owned()));
        }
        let file = match options.is_claimed {
            true => disk.append(&journal_path).map(Some),
            false => disk.append_alone(&journal_path),
        };
        let file = file.map_err(error_at(&journal_path))?;
        let mut file = file.ok_or_else(|| LedgerError::Busy(path.to_owned()))?;
        let found = read_journal(disk, &journal_path)?;
        let (journal, n_sound_bytes) = match found {
            Some((journal, n_sound_bytes)) => {
                let now = Key { seed: if options.has_seed { key.seed } else { journal.key().seed }, ..key.clone() };
                if let Some(difference) = journal.key().difference(&now) {
                    return Err(LedgerError::OtherKey { path: journal_path, difference });
                }
                (journal, n_sound_bytes)
            }
            None if has_output => return Err(LedgerError::Foreign(journal_path)),
            None => {
                let head = head(key);
                file.cut(0).and_then(|()| file.append(head.as_bytes())).map_err(error_at(&journal_path))?;
                (Journal::new(key.clone()), head.len() as u64)
            }
        };
        let n_dropped_bytes = file.n_bytes().map_err(error_at(&journal_path))?.saturating_sub(n_sound_bytes);
        rewrite::complete(disk, path, &journal)?;
        let mut output = disk.append(path).map_err(error_at(path))?;
        let (n_bytes, n_expected) = (output.n_bytes().map_err(error_at(path))?, journal.totals().n_bytes);
        if n_bytes < n_expected {
            return Err(LedgerError::Shortened { path: path.to_owned(), n_bytes, n_expected });
        }
        output.cut(n_expected).map_err(error_at(path))?;
        file.cut(n_sound_bytes).map_err(error_at(&journal_path))?;
        let log = EngineLog::new(journal_path, file, n_sound_bytes);
        let mut ledger = Ledger {
            disk,
            path: path.to_owned(),
            output,
            log,
            journal,
            buffer: Vec::new(),
            n_bytes: n_expected,
            unsynced: Vec::new(),
            n_dropped_bytes,
            is_claimed: options.is_claimed,
        };
        let ms = options.ms;
        ledger.enter(&[Entry::Opened { ms, after_crash: options.after_crash }])?;
        if options.retry_failed && ledger.journal.totals().n_failed > 0 {
            ledger.rewrite(ms, |finished| finished.error.is_none(), false)?;
            ledger.enter(&[Entry::Opened { ms, after_crash: false }])?;
        }
        Ok(ledger)
    }

    /// The state of the job, up to the last sync.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Damaged or torn bytes that were dropped from the end of the journal.
    #[must_use]
    pub fn n_dropped_bytes(&self) -> u64 {
        self.n_dropped_bytes
    }

    /// The journal's log of lines given to the engine and finished by it.
    #[must_use]
    pub fn engine_log(&self) -> EngineLog {
        self.log.clone()
    }

    /// Adds a line's record, which must end with a line break. Sets `finished.end`.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn record(&mut self, finished: Finished, record: &[u8]) -> Result<(), LedgerError> {
        self.buffer.extend_from_slice(record);
        self.n_bytes += record.len() as u64;
        self.unsynced.push(Finished { end: self.n_bytes, ..finished });
        if self.buffer.len() < BUFFER_BYTES { Ok(()) } else { self.write() }
    }

    /// Writes all records to the file. They then survive a crash of this process, but not yet a power cut.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn write(&mut self) -> Result<(), LedgerError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self.output.append(&self.buffer);
        self.buffer.clear();
        written.map_err(|error| self.error(error))
    }

    /// Records not yet entered in the journal.
    #[must_use]
    pub fn n_behind(&self) -> usize {
        self.unsynced.len()
    }

    /// Syncs all records and enters them in the journal.
    ///
    /// # Errors
    /// When writing or syncing fails. Earlier journal entries stay valid.
    pub fn sync(&mut self, ms: u64) -> Result<(), LedgerError> {
        self.write()?;
        if self.unsynced.is_empty() {
            return Ok(());
        }
        self.output.sync().map_err(|error| self.error(error))?;
        let finished = std::mem::take(&mut self.unsynced).into_iter().map(Entry::Finished);
        self.enter(&finished.chain([Entry::Synced { ms }]).collect::<Vec<Entry>>())
    }

    /// Copies the records that an earlier owner of the same shard finished, and that are not here yet. The earlier
    /// owner may still be writing: its journal grows only at the end, and each entry describes a record that was synced
    /// before. From the first record on that is not whole or cannot be read, they are left out, so that they are done
    /// again.
    ///
    /// # Errors
    /// When the own files cannot be written.
    pub fn adopt(&mut self, earlier: &Path, ms: u64) -> Result<Adopted, LedgerError> {
        let mut adopted = Adopted::default();
        let Records { mut file, finished } = match self.records_of(earlier) {
            Ok(Some(records)) => records,
            Ok(None) => return Ok(adopted),
            Err(error) => return Ok(Adopted { unread: Some(error), ..adopted }),
        };
        let mut record = Vec::new();
        let n_expected = finished.last().map_or(0, |(_, last)| last.end);
        for (start, finished) in finished {
            if self.journal.is_done(finished.line) {
                continue;
            }
            record.clear();
            let read = match rewrite::read_at(&mut *file, start, finished.end - start, &mut record) {
                Ok(()) if record.iter().position(|&byte| byte == b'\n') != record.len().checked_sub(1) => {
                    let what = format!("the record of line {} is damaged", finished.line + 1);
                    Err(io::Error::new(io::ErrorKind::InvalidData, what))
                }
                read => read,
            };
            if let Err(error) = read {
                adopted.unread = Some(match (error.kind(), file.seek(SeekFrom::End(0))) {
                    (io::ErrorKind::UnexpectedEof, Ok(n_bytes)) => {
                        LedgerError::Shortened { path: earlier.to_owned(), n_bytes, n_expected }
                    }
                    _ => LedgerError::Io { path: earlier.to_owned(), error },
                });
                break;
            }
            self.record(finished, &record)?;
            adopted.n_lines += 1;
        }
        self.sync(ms)?;
        Ok(adopted)
    }

    /// The records of an earlier owner of the same shard; `None` if it has none of this job that are not here yet. A
    /// missing output is an error only if there should be such records: the journal is created first.
    fn records_of(&self, earlier: &Path) -> Result<Option<Records>, LedgerError> {
        let log = journal_path(earlier);
        match read_journal(self.disk, &log)? {
            Some((journal, _)) if journal.key().difference(self.journal.key()).is_none() => {}
            _ => return Ok(None),
        }
        let finished = read_finished(self.disk, &log)?;
        if finished.iter().all(|(_, finished)| self.journal.is_done(finished.line)) {
            return Ok(None);
        }
        let file = self.disk.read(earlier).and_then(|file| file.ok_or_else(|| io::ErrorKind::NotFound.into()));
        let file = file.map_err(|error| LedgerError::Io { path: earlier.to_owned(), error })?;
        Ok(Some(Records { file, finished }))
    }

    /// Closes the job, finished or interrupted. If `sorted` is set, all lines are done and the records are not in line
    /// order, both files are rewritten in that order, unless the job is claimed.
    ///
    /// # Errors
    /// As [`Ledger::sync`].
    pub fn close(mut self, ms: u64, sorted: bool) -> Result<Journal, LedgerError> {
        self.sync(ms)?;
        self.enter(&[Entry::Closed { ms }])?;
        if sorted && !self.is_claimed && !self.journal.is_sorted() && self.journal.n_left() == 0 {
            self.rewrite(ms, |_| true, true)?;
        }
        Ok(self.journal)
    }

    fn enter(&mut self, entries: &[Entry]) -> Result<(), LedgerError> {
        self.log.append(&entries.iter().map(Entry::encode).collect::<String>(), true)?;
        for entry in entries {
            let is_sound = self.journal.apply(entry);
            debug_assert!(is_sound, "{entry:?}");
        }
        Ok(())
    }

    fn error(&self, error: io::Error) -> LedgerError {
        LedgerError::Io { path: self.path.clone(), error }
    }
}

/// The journal file, appended to by two threads. The entries `begun` and `answered` are not synced: they matter only
/// after a crash of this process, which does not lose what the system has buffered.
#[derive(Clone)]
pub struct EngineLog {
    path: PathBuf,
    file: Arc<Mutex<LogFile>>,
}

struct LogFile {
    file: Box<dyn Appended>,
    n_bytes: u64,
    /// Set if a torn line could not be removed or a sync failed: nothing may be appended any more.
    is_broken: bool,
}

impl std::fmt::Debug for EngineLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineLog").field("path", &self.path).finish_non_exhaustive()
    }
}

impl EngineLog {
    fn new(path: PathBuf, file: Box<dyn Appended>, n_bytes: u64) -> EngineLog {
        EngineLog { path, file: Arc::new(Mutex::new(LogFile { file, n_bytes, is_broken: false })) }
    }

    /// Records that the engine is given a line, so that a crash can be traced to it.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn begin(&self, line: u64) -> Result<(), LedgerError> {
        self.append(&Entry::Begun { line }.encode(), false)
    }

    /// Records that the engine has finished a line, so that a later crash is not blamed on it.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn answered(&self, line: u64) -> Result<(), LedgerError> {
        self.append(&Entry::Answered { line }.encode(), false)
    }

    fn append(&self, text: &str, sync: bool) -> Result<(), LedgerError> {
        let error_at = |error| LedgerError::Io { path: self.path.clone(), error };
        let mut log = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if log.is_broken {
            return Err(error_at(io::Error::other("an earlier write failed")));
        }
        if let Err(error) = log.file.append(text.as_bytes()) {
            let n_bytes = log.n_bytes;
            log.is_broken = log.file.cut(n_bytes).is_err();
            return Err(error_at(error));
        }
        log.n_bytes += text.len() as u64;
        if sync && let Err(error) = log.file.sync() {
            // After a failed sync, the content on disk is unknown.
            log.is_broken = true;
            return Err(error_at(error));
        }
        Ok(())
    }
}

/// The first two lines of a journal.
fn head(key: &Key) -> String {
    format!("{MAGIC}{}", Entry::Key(key.clone()).encode())
}

fn has_bytes(disk: &dyn Disk, path: &Path) -> io::Result<bool> {
    match disk.read(path)? {
        Some(mut file) => Ok(file.read(&mut [0])? > 0),
        None => Ok(false),
    }
}

/// Reads entries one by one, up to the first invalid one.
struct Entries {
    reader: BufReader<Box<dyn Readable>>,
    n_sound_bytes: u64,
}

impl Entries {
    /// `None` if there is no file, or its head is incomplete.
    fn open(disk: &dyn Disk, path: &Path) -> Result<Option<(Entries, Key)>, LedgerError> {
        let io = |error| LedgerError::Io { path: path.to_owned(), error };
        let Some(file) = disk.read(path).map_err(io)? else { return Ok(None) };
        let mut reader = BufReader::new(file);
        let mut magic = Vec::new();
        reader.by_ref().take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(io)?;
        if !MAGIC.as_bytes().starts_with(&magic) {
            return Err(LedgerError::Foreign(path.to_owned()));
        }
        let mut entries = Entries { reader, n_sound_bytes: magic.len() as u64 };
        match entries.next().map_err(io)? {
            Some(Entry::Key(key)) if key.n_own <= key.n_lines => Ok(Some((entries, key))),
            _ => Ok(None),
        }
    }

    fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut line = Vec::new();
        self.reader.by_ref().take(MAX_ENTRY_BYTES as u64).read_until(b'\n', &mut line)?;
        let entry = Entry::decode(&line);
        self.n_sound_bytes += if entry.is_some() { line.len() as u64 } else { 0 };
        Ok(entry)
    }
}

/// Reads a journal, and returns it with the length of its valid part. `None` if there is no file, or its head is
/// incomplete.
///
/// # Errors
/// When the file cannot be read or is not a journal.
pub fn read_journal(disk: &dyn Disk, path: &Path) -> Result<Option<(Journal, u64)>, LedgerError> {
    let io = |error| LedgerError::Io { path: path.to_owned(), error };
    let Some((mut entries, key)) = Entries::open(disk, path)? else { return Ok(None) };
    let mut journal = Journal::new(key);
    let mut n_sound_bytes = entries.n_sound_bytes;
    while let Some(entry) = entries.next().map_err(io)? {
        if !journal.apply(&entry) {
            break;
        }
        n_sound_bytes = entries.n_sound_bytes;
    }
    Ok(Some((journal, n_sound_bytes)))
}

/// The finished lines of a journal in its order, each with the offset of its record in the output.
///
/// # Errors
/// As [`read_journal`].
pub fn read_finished(disk: &dyn Disk, path: &Path) -> Result<Vec<(u64, Finished)>, LedgerError> {
    let io = |error| LedgerError::Io { path: path.to_owned(), error };
    let Some((mut entries, key)) = Entries::open(disk, path)? else { return Ok(Vec::new()) };
    let mut journal = Journal::new(key);
    let (mut all, mut start) = (Vec::new(), 0);
    while let Some(entry) = entries.next().map_err(io)? {
        if !journal.apply(&entry) {
            break;
        }
        if let Entry::Finished(finished) = entry {
            let end = finished.end;
            all.push((start, finished));
            start = end;
        }
    }
    Ok(all)
}

/// Whether a process is writing to an output; `None` if the output has no journal.
///
/// # Errors
/// When the journal cannot be opened.
pub fn is_running(output: &Path) -> Result<Option<bool>, LedgerError> {
    let path = journal_path(output);
    is_in_use(&path).map_err(|error| LedgerError::Io { path, error })
}

#[cfg(test)]
mod tests;
