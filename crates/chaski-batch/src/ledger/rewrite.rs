//! Rewrites output and journal: without failed lines, in line order, or merged from the outputs of several shards.
//!
//! Both files are first written under other names and synced. Renaming the journal commits the rewrite; renaming the
//! output follows. If the process ends between the two, the next process renames the output. The offsets of all records
//! are held in memory meanwhile: about 64 bytes per line.

use std::io::{self, ErrorKind, Read as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::{EngineLog, Ledger, LedgerError, head, journal_path, read_finished, with_suffix};
use crate::disk::{Appended, Disk, Readable};
use crate::journal::{Entry, Finished, Journal, Key};

/// Bytes written at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// A record in one of the source files.
pub(crate) struct Place {
    /// Index of the source file.
    pub(crate) source: usize,
    /// Offset of its first byte; `finished.end` is the end.
    pub(crate) start: u64,
    pub(crate) finished: Finished,
}

/// Both files under their temporary names.
pub(crate) struct Aside {
    output: Box<dyn Appended>,
    log: Box<dyn Appended>,
    n_log_bytes: u64,
    pub(crate) journal: Journal,
}

fn aside(path: &Path) -> PathBuf {
    with_suffix(path, ".new")
}

fn at(path: &Path) -> impl Fn(io::Error) -> LedgerError {
    move |error| LedgerError::Io { path: path.to_owned(), error }
}

/// Completes or discards a rewrite that an earlier process left unfinished.
pub(super) fn complete(disk: &dyn Disk, path: &Path, journal: &Journal) -> Result<(), LedgerError> {
    let new = aside(path);
    match disk.read(&new).map_err(at(&new))?.is_some() {
        true if journal.is_rewritten() => disk.replace(&new, path).map_err(at(&new))?,
        true => disk.remove(&new).map_err(at(&new))?,
        false => {}
    }
    disk.remove(&aside(&journal_path(path))).map_err(at(&new))
}

/// Writes new versions of output and journal under temporary names, with these records in this order. The caller must
/// hold the lock on the output's journal.
pub(crate) fn write_aside(
    disk: &dyn Disk,
    path: &Path,
    key: Key,
    begin: &Entry,
    sources: &[&Path],
    places: Vec<Place>,
) -> Result<Aside, LedgerError> {
    let (new, new_log) = (aside(path), aside(&journal_path(path)));
    let mut files = Vec::with_capacity(sources.len());
    for source in sources {
        let file = disk.read(source).map_err(at(source))?;
        files.push(file.ok_or_else(|| at(source)(io::Error::new(ErrorKind::NotFound, "there is no such file")))?);
    }
    disk.remove(&new).map_err(at(&new))?;
    disk.remove(&new_log).map_err(at(&new_log))?;
    let mut output = disk.append(&new).map_err(at(&new))?;
    let log = disk.append_alone(&new_log).map_err(at(&new_log))?;
    let mut log = log.ok_or_else(|| LedgerError::Busy(new_log.clone()))?;
    let mut journal = Journal::new(key);
    journal.apply(begin);
    let (mut text, mut records, mut end) = (head(journal.key()) + &begin.encode(), Vec::new(), 0);
    for Place { source, start, finished } in places {
        let n_bytes = finished.end - start;
        read_at(&mut *files[source], start, n_bytes, &mut records).map_err(at(sources[source]))?;
        end += n_bytes;
        let entry = Entry::Finished(Finished { end, ..finished });
        journal.apply(&entry);
        text += &entry.encode();
        if records.len() + text.len() >= BUFFER_BYTES {
            output.append(&records).map_err(at(&new))?;
            log.append(text.as_bytes()).map_err(at(&new_log))?;
            records.clear();
            text.clear();
        }
    }
    output.append(&records).and_then(|()| output.sync()).map_err(at(&new))?;
    log.append(text.as_bytes()).and_then(|()| log.sync()).map_err(at(&new_log))?;
    let n_log_bytes = log.n_bytes().map_err(at(&new_log))?;
    Ok(Aside { output, log, n_log_bytes, journal })
}

/// Renames both files into place.
pub(crate) fn put_in_place(disk: &dyn Disk, path: &Path) -> Result<(), LedgerError> {
    let log = journal_path(path);
    disk.replace(&aside(&log), &log).map_err(at(&log))?;
    disk.replace(&aside(path), path).map_err(at(path))
}

pub(super) fn read_at(file: &mut dyn Readable, start: u64, n_bytes: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
    file.seek(SeekFrom::Start(start))?;
    match file.take(n_bytes).read_to_end(buffer)? as u64 == n_bytes {
        true => Ok(()),
        false => Err(ErrorKind::UnexpectedEof.into()),
    }
}

impl Ledger<'_> {
    /// Rewrites both files with the records that `keep` selects, sorted by line if `sorted` is set. All records must be
    /// synced.
    pub(super) fn rewrite(
        &mut self,
        ms: u64,
        keep: impl Fn(&Finished) -> bool,
        sorted: bool,
    ) -> Result<(), LedgerError> {
        let log_path = journal_path(&self.path);
        let finished = read_finished(self.disk, &log_path)?.into_iter().filter(|(_, finished)| keep(finished));
        let mut places: Vec<Place> = finished.map(|(start, finished)| Place { source: 0, start, finished }).collect();
        if sorted {
            places.sort_unstable_by_key(|place| place.finished.line);
        }
        let begin = Entry::Rewritten { ms, active_ms: self.journal.totals().active_ms };
        let key = self.journal.key().clone();
        let Aside { output, log, n_log_bytes, journal } =
            write_aside(self.disk, &self.path, key, &begin, &[&self.path], places)?;
        put_in_place(self.disk, &self.path)?;
        self.n_bytes = journal.totals().n_bytes;
        self.log = EngineLog::new(log_path, log, n_log_bytes);
        (self.output, self.journal) = (output, journal);
        Ok(())
    }
}
