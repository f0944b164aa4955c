//! Sorted runs of counts: in memory, in temporary files, and merged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, Write as _};
use std::path::PathBuf;

/// When this many runs exist, they are merged into one: each open run takes a buffer.
const MAX_RUNS: usize = 64;

const BUFFER_BYTES: usize = 128 << 10;

/// Bytes of an entry in a file: the key, then the weight.
const ENTRY_BYTES: usize = 12;

/// A packed n-gram and its count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: u64,
    pub(super) weight: f32,
}

/// Sorts by key and adds up entries with equal keys.
pub(super) fn sort_and_combine(entries: &mut Vec<Entry>) {
    entries.sort_unstable_by_key(|entry| entry.key);
    let mut n_kept = 0;
    let mut at = 0;
    while let Some(&Entry { key, .. }) = entries.get(at) {
        // Sum in f64: in f32, adding 1 has no effect from 2^24 on.
        let mut sum = 0.0;
        while let Some(entry) = entries.get(at).filter(|entry| entry.key == key) {
            sum += f64::from(entry.weight);
            at += 1;
        }
        entries[n_kept] = Entry { key, weight: sum as f32 };
        n_kept += 1;
    }
    entries.truncate(n_kept);
}

/// Runs in temporary files.
#[derive(Debug)]
pub(super) struct Runs {
    folder: PathBuf,
    files: Vec<File>,
}

impl Runs {
    pub(super) fn new(folder: PathBuf) -> Runs {
        Runs { folder, files: Vec::new() }
    }

    /// Writes a sorted run.
    pub(super) fn spill(&mut self, run: &[Entry]) -> io::Result<()> {
        if self.files.len() >= MAX_RUNS {
            let mut merge = Merge::new(std::mem::take(&mut self.files), Vec::new())?;
            let merged = std::iter::from_fn(|| merge.next_entry().transpose());
            let merged = merged.map(|entry| entry.map(|(key, weight)| Entry { key, weight: weight as f32 }));
            let file = self.write(merged)?;
            self.files.push(file);
        }
        let file = self.write(run.iter().copied().map(Ok))?;
        self.files.push(file);
        Ok(())
    }

    /// Temporary files have no name, so they vanish however the process ends.
    fn write(&self, run: impl Iterator<Item = io::Result<Entry>>) -> io::Result<File> {
        let mut file = BufWriter::with_capacity(BUFFER_BYTES, tempfile::tempfile_in(&self.folder)?);
        for entry in run {
            let Entry { key, weight } = entry?;
            file.write_all(&key.to_le_bytes())?;
            file.write_all(&weight.to_le_bytes())?;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)
    }

    /// Merges all runs and a last one in memory.
    pub(super) fn merge(self, last: Vec<Entry>) -> io::Result<Merge> {
        Merge::new(self.files, last)
    }
}

#[derive(Debug)]
enum Run {
    Memory(std::vec::IntoIter<Entry>),
    File(BufReader<File>),
}

impl Run {
    fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        match self {
            Run::Memory(entries) => Ok(entries.next()),
            Run::File(file) => {
                let mut bytes = [0; ENTRY_BYTES];
                match file.read_exact(&mut bytes) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                    Err(error) => return Err(error),
                }
                let [key @ .., a, b, c, d] = bytes;
                Ok(Some(Entry { key: u64::from_le_bytes(key), weight: f32::from_le_bytes([a, b, c, d]) }))
            }
        }
    }
}

/// All runs merged: ascending keys, each once.
#[derive(Debug)]
pub(super) struct Merge {
    runs: Vec<Run>,
    /// The next key and the index of each run that is not finished. Equal keys are added up in the order of the runs.
    heads: BinaryHeap<Reverse<(u64, usize)>>,
    /// The weight of each run's next entry.
    weights: Vec<f32>,
    n_done: u64,
    n_in_all: u64,
}

impl Merge {
    fn new(files: Vec<File>, last: Vec<Entry>) -> io::Result<Merge> {
        let mut runs = Vec::with_capacity(files.len() + 1);
        let mut n_in_all = last.len() as u64;
        for mut file in files {
            n_in_all += file.metadata()?.len() / ENTRY_BYTES as u64;
            file.rewind()?;
            runs.push(Run::File(BufReader::with_capacity(BUFFER_BYTES, file)));
        }
        runs.push(Run::Memory(last.into_iter()));
        let (heads, weights) = (BinaryHeap::with_capacity(runs.len()), vec![0.0; runs.len()]);
        let mut merge = Merge { runs, heads, weights, n_done: 0, n_in_all };
        (0..merge.runs.len()).try_for_each(|run| merge.advance(run))?;
        Ok(merge)
    }

    fn advance(&mut self, run: usize) -> io::Result<()> {
        if let Some(Entry { key, weight }) = self.runs[run].next_entry()? {
            self.weights[run] = weight;
            self.heads.push(Reverse((key, run)));
        }
        Ok(())
    }

    /// The share of the entries merged so far, in 0 ..= 1.
    pub(super) fn share_done(&self) -> f64 {
        self.n_done as f64 / self.n_in_all.max(1) as f64
    }

    /// The next key and the sum of its weights.
    pub(super) fn next_entry(&mut self) -> io::Result<Option<(u64, f64)>> {
        let Some(&Reverse((key, _))) = self.heads.peek() else { return Ok(None) };
        let mut sum = 0.0;
        while let Some(&Reverse((_, run))) = self.heads.peek().filter(|head| head.0.0 == key) {
            self.heads.pop();
            sum += f64::from(self.weights[run]);
            self.n_done += 1;
            self.advance(run)?;
        }
        Ok(Some((key, sum)))
    }
}
