//! Output and journal written anew: without the lines that failed, in the order of the lines, or from the outputs of
//! several shards.
//!
//! Both files are written aside and synced. Then the journal takes its place, which is the moment it happens, and the
//! output after it; if the process ends between the two, the next one moves the output. The records' places are held in
//! memory meanwhile: some 64 bytes a line.

use std::io::{self, ErrorKind, Read as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::{EngineLog, Ledger, LedgerError, head, journal_path, read_finished, with_suffix};
use crate::batch::disk::{Appended, Disk, Readable};
use crate::batch::journal::{Entry, Finished, Journal, Key};

/// Bytes written at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// A record where it stands now.
pub(in crate::batch) struct Place {
    /// Which of the sources.
    pub(in crate::batch) source: usize,
    /// Where it begins there; it ends where `finished` says.
    pub(in crate::batch) start: u64,
    pub(in crate::batch) finished: Finished,
}

/// Both files beside their places.
pub(in crate::batch) struct Aside {
    output: Box<dyn Appended>,
    log: Box<dyn Appended>,
    n_log_bytes: u64,
    pub(in crate::batch) journal: Journal,
}

fn aside(path: &Path) -> PathBuf {
    with_suffix(path, ".new")
}

fn at(path: &Path) -> impl Fn(io::Error) -> LedgerError {
    move |error| LedgerError::Io { path: path.to_owned(), error }
}

/// Does what a process that rewrote these files left undone.
pub(super) fn complete(disk: &dyn Disk, path: &Path, journal: &Journal) -> Result<(), LedgerError> {
    let new = aside(path);
    match disk.read(&new).map_err(at(&new))?.is_some() {
        true if journal.is_rewritten() => disk.replace(&new, path).map_err(at(&new))?,
        true => disk.remove(&new).map_err(at(&new))?,
        false => {}
    }
    disk.remove(&aside(&journal_path(path))).map_err(at(&new))
}

/// Writes both files of an output aside: these records, in this order. Whoever does so has the output's journal alone.
pub(in crate::batch) fn write_aside(
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

/// Has both files take their places.
pub(in crate::batch) fn put_in_place(disk: &dyn Disk, path: &Path) -> Result<(), LedgerError> {
    let log = journal_path(path);
    disk.replace(&aside(&log), &log).map_err(at(&log))?;
    disk.replace(&aside(path), path).map_err(at(path))
}

fn read_at(file: &mut dyn Readable, start: u64, n_bytes: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
    file.seek(SeekFrom::Start(start))?;
    match file.take(n_bytes).read_to_end(buffer)? as u64 == n_bytes {
        true => Ok(()),
        false => Err(ErrorKind::UnexpectedEof.into()),
    }
}

impl Ledger<'_> {
    /// Writes both files anew, with the records that `keep` wants, and `sorted` by their lines or as they stand. All
    /// must be synced.
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
