//! Counts tri-grams, bi-grams and uni-grams of any amount of text in a bounded memory.
//!
//! What is counted goes into a buffer. A full buffer is sorted and equal entries are added up; if that does not free half
//! of it, it goes to a temporary file as one sorted run. In the end all runs are merged while rows are handed out in the
//! order of a drafter file. The unigrams are few, and stay in memory.
//!
//! It knows no text and no files but its own: tokens come in, rows go out.

mod runs;

use std::io;
use std::path::{Path, PathBuf};

use crate::draft::table::Successor;
use crate::store::counter::runs::{Entry, Merge, Runs};
use crate::store::drafter_file::{BaseRow, Context};
use crate::token::Token;

/// Bits of a token in a packed key: those that `gguf` allows for a vocabulary.
const TOKEN_BITS: u32 = 21;
const TOKEN_MASK: u64 = (1 << TOKEN_BITS) - 1;

/// Set in the keys of tri-grams, so that they come after bi-grams.
const TRIGRAM: u64 = 1 << 63;

/// A least buffer, for tests of what happens when it is full.
const MIN_ENTRIES: usize = 16;

/// The counter.
#[derive(Debug)]
pub struct TrigramCounter {
    unigrams: Vec<f64>,
    buffer: Vec<Entry>,
    n_max: usize,
    runs: Runs,
}

impl TrigramCounter {
    /// Counts tokens below `n_vocab` (at most 2^21) in about `max_bytes` of memory; what is more goes to temporary files
    /// in `folder`, which vanish with this.
    #[must_use]
    pub fn new(n_vocab: u32, folder: &Path, max_bytes: usize) -> TrigramCounter {
        TrigramCounter {
            unigrams: vec![0.0; n_vocab.min(1 << TOKEN_BITS) as usize],
            buffer: Vec::new(),
            n_max: (max_bytes / size_of::<Entry>()).max(MIN_ENTRIES),
            runs: Runs::new(PathBuf::from(folder)),
        }
    }

    /// Counts `token` after the last two tokens of `context`, after its last one, and after none. `weight` is 1 for a
    /// token of a text; a probability, for one that could have been.
    ///
    /// # Errors
    /// When a token is not of the vocabulary, the weight is not a positive number, or the temporary files fail.
    pub fn add(&mut self, context: &[Token], token: Token, weight: f32) -> io::Result<()> {
        let id = self.id(token)?;
        if !(weight.is_finite() && weight > 0.0) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a count of {weight}")));
        }
        self.unigrams[id as usize] += f64::from(weight);
        let mut tail = context.iter().rev();
        let Some(&last) = tail.next() else { return Ok(()) };
        let bigram = self.id(last)? << TOKEN_BITS | id;
        self.buffer.push(Entry { key: bigram, weight });
        if let Some(&before) = tail.next() {
            let trigram = TRIGRAM | self.id(before)? << (2 * TOKEN_BITS) | bigram;
            self.buffer.push(Entry { key: trigram, weight });
        }
        if self.buffer.len() + 1 >= self.n_max { self.make_room() } else { Ok(()) }
    }

    /// Counts every token of a text, which begins at `start`: what comes before is context only.
    ///
    /// # Errors
    /// As [`TrigramCounter::add`].
    pub fn add_text(&mut self, text: &[Token], start: usize) -> io::Result<()> {
        (start..text.len()).try_for_each(|at| self.add(&text[at.saturating_sub(2)..at], text[at], 1.0))
    }

    fn id(&self, token: Token) -> io::Result<u64> {
        let id = u64::try_from(token.0).ok().filter(|&id| id < self.unigrams.len() as u64);
        id.ok_or_else(|| {
            let what = format!("token {} is not one of {}", token.0, self.unigrams.len());
            io::Error::new(io::ErrorKind::InvalidInput, what)
        })
    }

    fn make_room(&mut self) -> io::Result<()> {
        runs::sort_and_combine(&mut self.buffer);
        if self.buffer.len() > self.n_max / 2 {
            self.runs.spill(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// All rows in order, with every successor (more than a file keeps), by token.
    ///
    /// # Errors
    /// When the temporary files fail.
    pub fn finish(mut self) -> io::Result<CountedRows> {
        runs::sort_and_combine(&mut self.buffer);
        let mut merge = self.runs.merge(self.buffer)?;
        let next = merge.next_entry()?;
        Ok(CountedRows { unigrams: Some(self.unigrams), merge, next })
    }
}

/// See [`TrigramCounter::finish`].
#[derive(Debug)]
pub struct CountedRows {
    /// Until they have been handed out.
    unigrams: Option<Vec<f64>>,
    merge: Merge,
    next: Option<(u64, f64)>,
}

impl CountedRows {
    /// How much has been handed out, in 0 ..= 1.
    #[must_use]
    pub fn share_done(&self) -> f64 {
        self.merge.share_done()
    }

    fn next_row(&mut self) -> io::Result<Option<BaseRow>> {
        if let Some(counts) = self.unigrams.take() {
            let counted = (0..).zip(counts).filter(|(_, count)| *count > 0.0);
            let row = row(Context::EMPTY, counted);
            if !row.successors.is_empty() {
                return Ok(Some(row));
            }
        }
        let Some((key, count)) = self.next else { return Ok(None) };
        let mut counted = vec![(token_id(key), count)];
        loop {
            self.next = self.merge.next_entry()?;
            match self.next {
                Some((next, count)) if next >> TOKEN_BITS == key >> TOKEN_BITS => counted.push((token_id(next), count)),
                _ => return Ok(Some(row(context_of(key), counted.into_iter()))),
            }
        }
    }
}

impl Iterator for CountedRows {
    type Item = io::Result<BaseRow>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_row().transpose()
    }
}

fn token_id(key: u64) -> i32 {
    (key & TOKEN_MASK) as i32
}

fn context_of(key: u64) -> Context {
    let [before, last] = [2 * TOKEN_BITS, TOKEN_BITS].map(|shift| Token(token_id(key >> shift)));
    let tokens = [before, last];
    let tokens = if key & TRIGRAM == 0 { &tokens[1..] } else { &tokens[..] };
    Context::new(tokens).expect("one token or two")
}

fn row(context: Context, counted: impl Iterator<Item = (i32, f64)>) -> BaseRow {
    let mut total = 0.0;
    let successors = counted.map(|(id, count)| {
        total += count;
        Successor { token: Token(id), weight: count as f32 }
    });
    let successors = successors.collect();
    BaseRow { context, total: total as f32, successors }
}

#[cfg(test)]
mod tests;
