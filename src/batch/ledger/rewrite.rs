//! Output and journal written anew: without the lines that failed, or in the order of the lines.
//!
//! Both files are written aside and synced. Then the journal takes its place, which is the moment it happens, and the
//! output after it; if the process ends between the two, the next one moves the output. The records' places are held in
//! memory meanwhile: some 64 bytes a line.

use std::io::{self, ErrorKind, Read as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::{EngineLog, Ledger, LedgerError, head, journal_path, read_finished, with_suffix};
use crate::batch::disk::{Appended, Disk, Readable};
use crate::batch::journal::{Entry, Finished, Journal};

/// Bytes copied at a time.
const COPY_BYTES: usize = 256 << 10;

fn aside(path: &Path) -> PathBuf {
    with_suffix(path, ".new")
}

/// Does what a process that rewrote these files left undone.
pub(super) fn complete(disk: &dyn Disk, path: &Path, journal: &Journal) -> Result<(), LedgerError> {
    let new = aside(path);
    let at = |error| LedgerError::Io { path: new.clone(), error };
    let is_there = disk.read(&new).map_err(at)?.is_some();
    match is_there {
        true if journal.is_rewritten() => disk.replace(&new, path).map_err(at)?,
        true => disk.remove(&new).map_err(at)?,
        false => {}
    }
    disk.remove(&aside(&journal_path(path))).map_err(at)
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
        let journal_path = journal_path(&self.path);
        let (new_output, new_journal) = (aside(&self.path), aside(&journal_path));
        let mut kept = read_finished(self.disk, &journal_path)?;
        kept.retain(|(_, finished)| keep(finished));
        if sorted {
            kept.sort_by_key(|(_, finished)| finished.line);
        }
        let at = |error| LedgerError::Io { path: new_output.clone(), error };
        self.disk.remove(&new_output).map_err(at)?;
        let mut output = self.disk.append(&new_output).map_err(at)?;
        let source = self.disk.read(&self.path).map_err(at)?;
        let mut source = source.ok_or_else(|| at(ErrorKind::NotFound.into()))?;
        let finished = copy(&mut *source, &mut *output, kept).map_err(at)?;
        output.sync().map_err(at)?;

        let key = self.journal.key().clone();
        let n_bytes = finished.last().map_or(0, |finished| finished.end);
        let begin = Entry::Rewritten { ms, active_ms: self.journal.totals().active_ms };
        let at = |error| LedgerError::Io { path: new_journal.clone(), error };
        self.disk.remove(&new_journal).map_err(at)?;
        let file = self.disk.append_alone(&new_journal).map_err(at)?;
        let mut file = file.ok_or_else(|| LedgerError::Busy(new_journal.clone()))?;
        let mut journal = Journal::new(key);
        let mut text = head(journal.key());
        let mut n_log_bytes = 0;
        for entry in std::iter::once(begin).chain(finished.into_iter().map(Entry::Finished)) {
            journal.apply(&entry);
            text += &entry.encode();
            if text.len() >= COPY_BYTES {
                file.append(text.as_bytes()).map_err(at)?;
                n_log_bytes += text.len() as u64;
                text.clear();
            }
        }
        file.append(text.as_bytes()).and_then(|()| file.sync()).map_err(at)?;
        n_log_bytes += text.len() as u64;

        self.disk.replace(&new_journal, &journal_path).map_err(at)?;
        self.disk.replace(&new_output, &self.path).map_err(|error| self.error(error))?;
        self.log = EngineLog::new(journal_path, file, n_log_bytes);
        (self.output, self.journal, self.n_bytes) = (output, journal, n_bytes);
        Ok(())
    }
}

/// Copies records, and tells where they end now.
pub(in crate::batch) fn copy(
    from: &mut dyn Readable,
    to: &mut dyn Appended,
    records: Vec<(u64, Finished)>,
) -> io::Result<Vec<Finished>> {
    let (mut at, mut end) = (0, 0);
    let mut buffer = Vec::new();
    let mut copied = Vec::with_capacity(records.len());
    for (start, finished) in records {
        if at != start {
            from.seek(SeekFrom::Start(start))?;
        }
        let n_bytes = finished.end - start;
        let n = from.take(n_bytes).read_to_end(&mut buffer)? as u64;
        if n < n_bytes {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        (at, end) = (finished.end, end + n_bytes);
        copied.push(Finished { end, ..finished });
        if buffer.len() >= COPY_BYTES {
            to.append(&buffer)?;
            buffer.clear();
        }
    }
    to.append(&buffer)?;
    Ok(copied)
}
