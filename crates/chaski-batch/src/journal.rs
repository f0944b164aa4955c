//! The state of a job, line by line: a state machine over the entries of a journal, and the entries' file format.
//!
//! ```text
//! chaski batch journal 1
//! 9f86d081 {"key":{...}}                 identifies the job; another key is another job
//! 60303ae2 {"opened":{"ms":...}}         a process begins or resumes the job
//! fd61a03a {"begun":{"line":17}}         a line is given to the engine
//! 2c6ee24b {"answered":{"line":17}}      the engine has finished it; its record is not safe yet
//! e4e8d4a0 {"finished":{"line":17,...}}  its record is synced to the output, and ends there
//! ```
//!
//! Each entry is one line: a checksum and JSON. A `finished` entry is written only after the output was synced, so
//! every entry that survives describes a record that survived. The first torn, damaged or inconsistent line ends a
//! journal; the rest is dropped. Pure: no IO, and the time is passed in;
//! [`ledger`](crate::ledger) reads a journal back and resumes the job.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::gguf::ModelId;

/// First line of a journal.
pub const MAGIC: &str = "chaski batch journal 1\n";

/// Longest line; a longer one is damaged.
pub const MAX_ENTRY_BYTES: usize = 256 << 10;

/// Crashes after which a line is given up.
pub const MAX_CRASHES: u32 = 2;

/// Identifies a job. A process may resume a job only if it has the same key, except for `created_ms` and a seed that
/// the user did not set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The input: number of lines, bytes, hash.
    pub input: String,
    /// The model.
    pub model: ModelId,
    /// Lines of the whole input.
    pub n_lines: u64,
    /// Lines of this shard.
    pub n_own: u64,
    /// Seed of all sampling.
    pub seed: u32,
    /// All other parameters that affect the results, by flag.
    pub parameters: BTreeMap<String, String>,
    /// When the job began, in milliseconds since 1970.
    pub created_ms: u64,
}

/// How two keys differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The parameter that differs.
    pub what: String,
    /// Its old value.
    pub was: String,
    /// Its new value.
    pub is: String,
}

impl Key {
    /// The first difference between this key and `now`.
    #[must_use]
    pub fn difference(&self, now: &Key) -> Option<Difference> {
        if self.model != now.model {
            let (was, is) = (self.model.to_string(), now.model.to_string());
            return Some(Difference { what: "model".to_owned(), was, is });
        }
        let parts = |key: &Key| {
            let fixed = [("input", key.input.clone()), ("--seed", key.seed.to_string())];
            let fixed = fixed.map(|(name, value)| (name.to_owned(), value));
            let lines = ("number of lines".to_owned(), format!("{} of {}", key.n_own, key.n_lines));
            fixed.into_iter().chain([lines]).chain(key.parameters.clone()).collect::<Vec<(String, String)>>()
        };
        let (was, is) = (parts(self), parts(now));
        let value = |parts: &[(String, String)], what: &str| {
            parts.iter().find(|(name, _)| name == what).map_or_else(|| "nothing".to_owned(), |(_, value)| value.clone())
        };
        let names = was.iter().chain(&is).map(|(name, _)| name);
        let mut differences = names.filter(|name| value(&was, name) != value(&is, name));
        differences.next().map(|what| Difference { what: what.clone(), was: value(&was, what), is: value(&is, what) })
    }
}

/// A line that is done: answered or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Position among all lines of the input.
    pub line: u64,
    /// Offset where its record ends in the output; it begins where the previous record ends.
    pub end: u64,
    /// Tokens of the prompt.
    #[serde(rename = "prompt")]
    pub n_prompt: u64,
    /// Tokens of the answer.
    #[serde(rename = "predicted")]
    pub n_predicted: u64,
    /// The error code, if the line failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An entry of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// The first entry.
    Key(Key),
    /// A process begins or resumes the job.
    Opened {
        /// Milliseconds since 1970.
        ms: u64,
        /// Whether the previous process crashed, rather than being killed or interrupted.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        after_crash: bool,
    },
    /// A line is given to the engine.
    Begun {
        /// The line.
        line: u64,
    },
    /// The engine has finished a line. Its record is not safe yet.
    Answered {
        /// The line.
        line: u64,
    },
    /// A line's record is synced to the output.
    Finished(Finished),
    /// A group of records has been synced.
    Synced {
        /// Milliseconds since 1970.
        ms: u64,
    },
    /// The process ends regularly: finished or interrupted.
    Closed {
        /// Milliseconds since 1970.
        ms: u64,
    },
    /// Output and journal were rewritten; the finished lines follow.
    Rewritten {
        /// Milliseconds since 1970.
        ms: u64,
        /// Working time before, in milliseconds.
        active_ms: u64,
    },
}

impl Entry {
    /// The entry as a line.
    #[must_use]
    pub fn encode(&self) -> String {
        let json = serde_json::to_string(self).expect("strings and numbers serialize");
        format!("{:08x} {json}\n", checksum(&json))
    }

    /// Reads an entry from a line with its line break; `None` if it is not valid.
    #[must_use]
    pub fn decode(line: &[u8]) -> Option<Entry> {
        let text = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
        let (sum, json) = text.split_once(' ')?;
        let is_sound = sum.len() == 8 && u32::from_str_radix(sum, 16) == Ok(checksum(json));
        is_sound.then(|| serde_json::from_str(json).ok())?
    }
}

fn checksum(json: &str) -> u32 {
    XxHash3_64::oneshot(json.as_bytes()) as u32
}

/// A set of lines, one bit per line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Bits(Vec<u64>);

impl Bits {
    fn of(n: u64) -> Bits {
        Bits(vec![0; usize::try_from(n.div_ceil(64)).expect("lines that were counted")])
    }

    fn has(&self, n: u64) -> bool {
        self.0[(n / 64) as usize] >> (n % 64) & 1 == 1
    }

    fn set(&mut self, n: u64) {
        self.0[(n / 64) as usize] |= 1 << (n % 64);
    }
}

/// The state of a job, from the entries applied so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    key: Key,
    done: Bits,
    /// Lines given to the engine by the latest process and not finished.
    at_work: BTreeSet<u64>,
    /// Number of crashes while a line was at work.
    crashes: BTreeMap<u64, u32>,
    totals: Totals,
    /// The line that finished last.
    latest: Option<u64>,
    is_sorted: bool,
    clock: Option<u64>,
    is_closed: bool,
    is_rewritten: bool,
}

/// Sums over a journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Lines answered.
    pub n_ok: u64,
    /// Lines that failed.
    pub n_failed: u64,
    /// Tokens of prompts.
    pub n_prompt: u64,
    /// Tokens of answers.
    pub n_predicted: u64,
    /// Bytes of the output.
    pub n_bytes: u64,
    /// Working time of all processes, in milliseconds.
    pub active_ms: u64,
}

impl Totals {
    /// Lines answered or failed.
    #[must_use]
    pub fn n_done(&self) -> u64 {
        self.n_ok + self.n_failed
    }
}

impl Journal {
    /// A job with no line done.
    #[must_use]
    pub fn new(key: Key) -> Journal {
        Journal {
            done: Bits::of(key.n_lines),
            key,
            at_work: BTreeSet::new(),
            crashes: BTreeMap::new(),
            totals: Totals::default(),
            latest: None,
            is_sorted: true,
            clock: None,
            is_closed: false,
            is_rewritten: false,
        }
    }

    /// Applies an entry. If it is inconsistent with the state, returns false and changes nothing.
    pub fn apply(&mut self, entry: &Entry) -> bool {
        let is_line = |line: u64| line < self.key.n_lines;
        match *entry {
            Entry::Key(_) => return false,
            Entry::Begun { line } | Entry::Answered { line } | Entry::Finished(Finished { line, .. })
                if !is_line(line) || self.done.has(line) =>
            {
                return false;
            }
            Entry::Finished(Finished { end, .. }) if end < self.totals.n_bytes => return false,
            Entry::Rewritten { .. } if self.totals.n_done() > 0 => return false,
            Entry::Opened { ms, after_crash } => {
                let at_work = std::mem::take(&mut self.at_work);
                if after_crash {
                    at_work.into_iter().for_each(|line| *self.crashes.entry(line).or_default() += 1);
                }
                self.clock = Some(ms);
                self.is_closed = false;
                self.is_rewritten = false;
            }
            Entry::Begun { line } => drop(self.at_work.insert(line)),
            Entry::Answered { line } => self.clear(line),
            Entry::Finished(ref finished) => self.finish(finished),
            Entry::Synced { ms } => self.tick(ms),
            Entry::Closed { ms } => {
                self.tick(ms);
                self.at_work.clear();
                self.is_closed = true;
            }
            Entry::Rewritten { ms, active_ms } => {
                self.totals.active_ms = active_ms;
                self.clock = Some(ms);
                self.is_closed = true;
                self.is_rewritten = true;
            }
        }
        true
    }

    fn finish(&mut self, finished: &Finished) {
        self.done.set(finished.line);
        self.clear(finished.line);
        self.is_sorted &= self.latest.is_none_or(|latest| latest < finished.line);
        self.latest = Some(finished.line);
        let totals = &mut self.totals;
        *(if finished.error.is_none() { &mut totals.n_ok } else { &mut totals.n_failed }) += 1;
        totals.n_prompt = totals.n_prompt.saturating_add(finished.n_prompt);
        totals.n_predicted = totals.n_predicted.saturating_add(finished.n_predicted);
        totals.n_bytes = finished.end;
    }

    /// The engine finished the line, so it is not blamed for earlier crashes.
    fn clear(&mut self, line: u64) {
        self.at_work.remove(&line);
        self.crashes.remove(&line);
    }

    /// Adds the time since the last entry; zero if the clock was set back.
    fn tick(&mut self, ms: u64) {
        let passed = self.clock.map_or(0, |clock| ms.saturating_sub(clock));
        self.totals.active_ms = self.totals.active_ms.saturating_add(passed);
        self.clock = Some(ms);
    }

    /// The job's key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Sums over all lines done.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Whether a line is answered or failed.
    #[must_use]
    pub fn is_done(&self, line: u64) -> bool {
        self.done.has(line)
    }

    /// Lines of this shard that are not done.
    #[must_use]
    pub fn n_left(&self) -> u64 {
        self.key.n_own.saturating_sub(self.totals.n_done())
    }

    /// Number of crashes while this line was at work. A line with one crash must run alone, so that no other line is
    /// blamed; after [`MAX_CRASHES`] it is given up.
    #[must_use]
    pub fn n_crashes(&self, line: u64) -> u32 {
        self.crashes.get(&line).copied().unwrap_or(0)
    }

    /// Lines given to the engine and not finished.
    #[must_use]
    pub fn n_at_work(&self) -> usize {
        self.at_work.len()
    }

    /// The line of the last record in the output.
    #[must_use]
    pub fn latest(&self) -> Option<u64> {
        self.latest
    }

    /// Whether the records are in line order.
    #[must_use]
    pub fn is_sorted(&self) -> bool {
        self.is_sorted
    }

    /// Whether the latest process ended regularly.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Time of the latest entry that has one, in milliseconds since 1970.
    #[must_use]
    pub fn clock_ms(&self) -> Option<u64> {
        self.clock
    }

    /// Whether both files were rewritten and not opened since.
    #[must_use]
    pub fn is_rewritten(&self) -> bool {
        self.is_rewritten
    }
}

#[cfg(test)]
mod tests;
