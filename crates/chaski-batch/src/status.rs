//! The status of a job from its journal, as text and as JSON.

pub mod claimed;

use std::fmt::Write as _;

use serde::Serialize;

use crate::journal::{Journal, Key, Totals};
use crate::progress::duration;

/// The phase of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// A process is working on it.
    Running,
    /// All lines are done.
    Finished,
    /// It was interrupted, or ended with an error.
    Stopped,
    /// It was killed or crashed, or the machine went down.
    Killed,
}

impl Phase {
    /// The name shown to users.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Running => "running",
            Phase::Finished => "finished",
            Phase::Stopped => "stopped",
            Phase::Killed => "killed",
        }
    }
}

/// The status of a job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// The phase.
    pub phase: Phase,
    /// Lines of this shard.
    pub n_lines: u64,
    /// Lines not done.
    pub n_left: u64,
    /// Lines given to the engine and not finished; 0 if no process is running.
    pub n_at_work: usize,
    /// Sums over all lines done.
    #[serde(flatten)]
    pub totals: Totals,
    /// Generated tokens per second of working time.
    pub predicted_per_second: f64,
    /// Lines per second of working time.
    pub lines_per_second: f64,
    /// Estimated seconds until all lines are done, at that rate.
    pub seconds_left: Option<f64>,
    /// Time of the journal's latest timed entry, in milliseconds since 1970.
    pub updated_ms: Option<u64>,
    /// The job's key.
    pub job: Key,
}

impl Status {
    /// The status of a journal's job. `is_running`: whether a process is working on it.
    #[must_use]
    pub fn of(journal: &Journal, is_running: bool) -> Status {
        let totals = journal.totals();
        let seconds = totals.active_ms as f64 / 1e3;
        let per_second = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        let (n_left, lines_per_second) = (journal.n_left(), per_second(totals.n_done()));
        Status {
            phase: match (is_running, n_left) {
                (true, _) => Phase::Running,
                (false, 0) => Phase::Finished,
                _ if journal.is_closed() => Phase::Stopped,
                _ => Phase::Killed,
            },
            n_lines: journal.key().n_own,
            n_left,
            n_at_work: if is_running { journal.n_at_work() } else { 0 },
            totals,
            predicted_per_second: per_second(totals.n_predicted),
            lines_per_second,
            seconds_left: (lines_per_second > 0.0).then(|| n_left as f64 / lines_per_second),
            updated_ms: journal.clock_ms(),
            job: journal.key().clone(),
        }
    }

    /// The status as text.
    #[must_use]
    pub fn text(&self) -> String {
        let Totals { n_ok, n_failed, n_prompt, n_predicted, active_ms, .. } = self.totals;
        let mut text = format!("{}: {n_ok} ok + {n_failed} failed of {} lines", self.phase.name(), self.n_lines);
        match self.seconds_left.filter(|_| self.n_left > 0) {
            Some(seconds) => writeln!(text, ", {} left (about {})", self.n_left, duration(seconds)),
            None => writeln!(text, ", {} left", self.n_left),
        }
        .expect("a text takes all");
        let spent = duration(active_ms as f64 / 1e3);
        let rate = self.predicted_per_second;
        writeln!(text, "{n_prompt} prompt tokens, and {n_predicted} generated in {spent}: {rate:.1} tokens/s")
            .expect("a text takes all");
        let Key { input, model, seed, .. } = &self.job;
        writeln!(text, "input: {input}\nmodel: {}\nseed: {seed}", model.name()).expect("a text takes all");
        for (name, value) in &self.job.parameters {
            writeln!(text, "{name} {value}").expect("a text takes all");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::journal::{Entry, Finished};

    fn journal(entries: &[Entry]) -> Journal {
        let mut journal = Journal::new(Key {
            input: "10 lines".to_owned(),
            model: "m.gguf 7a".to_owned().into(),
            n_lines: 10,
            n_own: 10,
            seed: 7,
            parameters: BTreeMap::from([("--temp".to_owned(), "0".to_owned())]),
            created_ms: 0,
        });
        assert!(entries.iter().all(|entry| journal.apply(entry)));
        journal
    }

    fn half() -> Vec<Entry> {
        let finished = |line| Entry::Finished(Finished { line, end: line, n_prompt: 10, n_predicted: 20, error: None });
        let opened = [Entry::Opened { ms: 0, after_crash: false }, Entry::Begun { line: 9 }];
        opened.into_iter().chain((0..5).map(finished)).chain([Entry::Synced { ms: 10_000 }]).collect()
    }

    #[test]
    fn it_says_where_a_job_is() {
        let phase = |entries: &[Entry], is_running| Status::of(&journal(entries), is_running).phase;
        assert_eq!(phase(&half(), true), Phase::Running);
        assert_eq!(phase(&half(), false), Phase::Killed);
        assert_eq!(phase(&[half(), vec![Entry::Closed { ms: 11_000 }]].concat(), false), Phase::Stopped);
        let rest = (5..10).map(|line| {
            Entry::Finished(Finished { line, end: line, n_prompt: 0, n_predicted: 0, error: Some("e".to_owned()) })
        });
        assert_eq!(phase(&half().into_iter().chain(rest).collect::<Vec<Entry>>(), false), Phase::Finished);
    }

    #[test]
    fn it_is_told_to_people_and_programs() {
        let status = Status::of(&journal(&half()), true);
        let expected = "running: 5 ok + 0 failed of 10 lines, 5 left (about 10s)\n\
             50 prompt tokens, and 100 generated in 10s: 10.0 tokens/s\ninput: 10 lines\nmodel: m.gguf\nseed: 7\n--temp 0\n";
        assert_eq!(status.text(), expected);
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!((&json["phase"], &json["n_ok"], &json["n_at_work"]), (&"running".into(), &5.into(), &1.into()));
        assert_eq!((&json["seconds_left"], &json["job"]["parameters"]["--temp"]), (&10.0.into(), &"0".into()));
    }
}
