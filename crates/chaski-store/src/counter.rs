//! Counts tri-grams, bi-grams and uni-grams of any amount of text in bounded memory.
//!
//! Counts go into a buffer. A full buffer is sorted and equal entries are added up. If that does not free half of it,
//! the buffer goes to a temporary file as a sorted run. At the end all runs are merged, and rows come out in the order
//! of a drafter file. Uni-grams are few and stay in memory.
//!
//! The counter takes tokens and returns rows; it reads no text, and no files except its own.

mod runs;

use std::io;
use std::path::{Path, PathBuf};

use crate::counter::runs::{Entry, Merge, Runs};
use crate::draft::table::Successor;
use crate::drafter_file::{BaseRow, Context, KeySpace};
use crate::token::Token;

/// Bits of a token in a packed key: as many as `gguf` allows for a vocabulary.
const TOKEN_BITS: u32 = 21;
const TOKEN_MASK: u64 = (1 << TOKEN_BITS) - 1;

/// Minimum buffer in entries, small so that tests can fill it.
const MIN_ENTRIES: usize = 16;

/// Counts n-grams; see the module.
#[derive(Debug)]
pub struct TrigramCounter {
    keys: KeySpace,
    n_vocab: usize,
    /// Count per token; the last element is the rest, counted by [`TrigramCounter::add_rest`].
    unigrams: Vec<f64>,
    /// The key is the context's key, followed by the token.
    buffer: Vec<Entry>,
    n_max: usize,
    runs: Runs,
}

impl TrigramCounter {
    /// Counts tokens below `n_vocab` (at most 2^21) in about `max_bytes` of memory. The rest goes to temporary files in
    /// `folder`, which are deleted when this is dropped.
    #[must_use]
    pub fn new(n_vocab: u32, folder: &Path, max_bytes: usize) -> TrigramCounter {
        TrigramCounter {
            keys: KeySpace::new(n_vocab),
            n_vocab: n_vocab.min(1 << TOKEN_BITS) as usize,
            unigrams: vec![0.0; n_vocab.min(1 << TOKEN_BITS) as usize + 1],
            buffer: Vec::new(),
            n_max: (max_bytes / size_of::<Entry>()).max(MIN_ENTRIES),
            runs: Runs::new(PathBuf::from(folder)),
        }
    }

    /// Counts `token` after the last two tokens of `context`, after the last one, and after none. `weight` is 1 for a
    /// token of a text, and a probability for a possible token.
    ///
    /// # Errors
    /// When a token is not in the vocabulary, the weight is not a positive number, or the temporary files fail.
    pub fn add(&mut self, context: &[Token], token: Token, weight: f32) -> io::Result<()> {
        let id = usize::try_from(token.0).ok().filter(|&id| id < self.n_vocab);
        let id = id.ok_or_else(|| self.unknown(context, token.0.to_string()))?;
        self.add_id(context, id, weight)
    }

    /// Adds `weight` to the totals of the rows of `context`, without naming a token.
    ///
    /// # Errors
    /// As [`TrigramCounter::add`], and for a vocabulary of 2^21 tokens, whose keys have no room for it.
    pub fn add_rest(&mut self, context: &[Token], weight: f32) -> io::Result<()> {
        if self.n_vocab as u64 > TOKEN_MASK {
            return Err(self.unknown(context, "the rest".to_owned()));
        }
        self.add_id(context, self.n_vocab, weight)
    }

    fn add_id(&mut self, context: &[Token], id: usize, weight: f32) -> io::Result<()> {
        if !(weight.is_finite() && weight > 0.0) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a count of {weight}")));
        }
        let n_known = context.len().min(2);
        let last = &context[context.len() - n_known..];
        let keys = [1, 2].map(|order| (order <= n_known).then(|| self.keys.key(&last[n_known - order..])));
        for key in keys.into_iter().flatten() {
            let key = key.ok_or_else(|| self.unknown(context, id.to_string()))? << TOKEN_BITS | id as u64;
            self.buffer.push(Entry { key, weight });
        }
        self.unigrams[id] += f64::from(weight);
        if self.buffer.len() + 1 >= self.n_max { self.make_room() } else { Ok(()) }
    }

    fn unknown(&self, context: &[Token], what: String) -> io::Error {
        let what = format!("token {what} after {context:?} is not of {} tokens", self.n_vocab);
        io::Error::new(io::ErrorKind::InvalidInput, what)
    }

    /// Counts the tokens of a text from index `start`; earlier tokens are context only.
    ///
    /// # Errors
    /// As [`TrigramCounter::add`].
    pub fn add_text(&mut self, text: &[Token], start: usize) -> io::Result<()> {
        (start..text.len()).try_for_each(|at| self.add(&text[at.saturating_sub(2)..at], text[at], 1.0))
    }

    fn make_room(&mut self) -> io::Result<()> {
        runs::sort_and_combine(&mut self.buffer);
        if self.buffer.len() > self.n_max / 2 {
            self.runs.spill(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// All rows in key order, with all successors (more than a file keeps) sorted by token.
    ///
    /// # Errors
    /// When the temporary files fail.
    pub fn finish(mut self) -> io::Result<CountedRows> {
        runs::sort_and_combine(&mut self.buffer);
        let mut merge = self.runs.merge(self.buffer)?;
        let next = merge.next_entry()?;
        let (keys, n_vocab, unigrams) = (self.keys, self.n_vocab, Some(self.unigrams));
        Ok(CountedRows { keys, n_vocab, unigrams, merge, next })
    }
}

/// Rows in key order; see [`TrigramCounter::finish`].
#[derive(Debug)]
pub struct CountedRows {
    keys: KeySpace,
    n_vocab: usize,
    /// `None` once they have been returned.
    unigrams: Option<Vec<f64>>,
    merge: Merge,
    next: Option<(u64, f64)>,
}

impl CountedRows {
    /// The share of the entries returned so far, in 0 ..= 1.
    #[must_use]
    pub fn share_done(&self) -> f64 {
        self.merge.share_done()
    }

    fn next_row(&mut self) -> io::Result<Option<BaseRow>> {
        // The empty context has key 0, so its row comes first.
        if let Some(counts) = self.unigrams.take() {
            let counted = (0..).zip(counts).filter(|(_, count)| *count > 0.0);
            let row = self.row(Context::EMPTY, counted);
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
                _ => {
                    let context = self.keys.context(key >> TOKEN_BITS).expect("the key of a context");
                    return Ok(Some(self.row(context, counted.into_iter())));
                }
            }
        }
    }

    fn row(&self, context: Context, counted: impl Iterator<Item = (i32, f64)>) -> BaseRow {
        let mut total = 0.0;
        let successors = counted.filter_map(|(id, count)| {
            total += count;
            let is_token = (id as usize) < self.n_vocab;
            is_token.then_some(Successor { token: Token(id), weight: count as f32 })
        });
        let successors = successors.collect();
        BaseRow { context, total: total as f32, successors }
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

#[cfg(test)]
mod tests;
