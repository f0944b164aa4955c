//! The status of a job whose shards are claimed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::Phase;
use crate::claims::{Content, Owner, Plan, claim_path, finished_generation, owners};
use crate::disk::Disk;
use crate::input::shard::Shard;
use crate::journal::{Key, Totals};
use crate::ledger::{LedgerError, journal_path, read_finished, read_journal};
use crate::progress::duration;

/// The state of a shard that was claimed and is not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimState {
    /// A process works on it.
    Claimed,
    /// Its owner has not renewed the claim for a lease, by the file's time and the clock of the machine that asks.
    Expired,
    /// Its owner was interrupted.
    Released,
}

/// A shard that was claimed and is not finished.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClaimStatus {
    /// The shard's number.
    pub shard: u64,
    /// How many owners it has had.
    pub generation: u64,
    /// Its state.
    pub state: ClaimState,
    /// Its owner; `None` if it has not written its name.
    pub owner: Option<Owner>,
    /// Seconds since the last renewal.
    pub silent_seconds: Option<f64>,
    /// Its lines.
    pub n_lines: u64,
    /// Those that any of its owners has done.
    pub n_done: u64,
}

/// The status of a job whose shards are claimed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClaimedStatus {
    /// The phase: running if a claim has not expired.
    pub phase: Phase,
    /// Number of shards.
    pub n_shards: u64,
    /// Shards that one of their owners has finished.
    pub n_finished: u64,
    /// Shards that were never claimed.
    pub n_free: u64,
    /// Lines of the job.
    pub n_lines: u64,
    /// Sums over all lines done. The working time is that of all owners, except those of a finished shard whose journals
    /// cannot be read.
    #[serde(flatten)]
    pub totals: Totals,
    /// The other shards.
    pub claims: Vec<ClaimStatus>,
    /// Errors of journals that cannot be read. Their lines are not counted as done.
    pub unread: Vec<String>,
    /// The job's key.
    pub job: Key,
}

impl ClaimedStatus {
    /// The status of an output's job; `None` if its shards are not claimed. `silence`: the time since a file was
    /// written.
    ///
    /// # Errors
    /// When the plan or a claim cannot be read.
    pub fn read(
        disk: &dyn Disk,
        output: &Path,
        silence: &dyn Fn(&Path) -> Option<Duration>,
    ) -> Result<Option<ClaimedStatus>, LedgerError> {
        let Some(Plan { n_shards, key }) = Plan::read(disk, output)? else { return Ok(None) };
        let (mut n_finished, mut n_free, mut totals, mut claims) = (0, 0, Totals::default(), Vec::new());
        let mut unread = Vec::new();
        for number in 1..=n_shards {
            let shard = Shard { number, n_shards };
            let mut owners = owners(disk, output, shard)?;
            let finished = finished_generation(&owners);
            let generations = 1..=owners.len() as u64;
            let files: Vec<PathBuf> = generations.map(|generation| shard.claimed_output(output, generation)).collect();
            let mut key = Key { n_own: shard.n_of(key.n_lines), ..key.clone() };
            key.parameters.insert("--shard".to_owned(), shard.to_string());
            let done = done(disk, &files, finished, &key, &mut unread);
            add(&mut totals, &done);
            let generation = owners.len() as u64;
            let Some(content) = owners.pop() else {
                n_free += 1;
                continue;
            };
            if finished.is_some() {
                n_finished += 1;
                continue;
            }
            let path = shard.claimed_output(output, generation);
            let (n_lines, n_done) = (shard.n_of(key.n_lines), done.n_done());
            claims.push(ClaimStatus { n_lines, n_done, ..claim(number, generation, content, &path, silence) });
        }
        let is_running = claims.iter().any(|claim| claim.state == ClaimState::Claimed);
        let phase = match is_running {
            true => Phase::Running,
            false if n_finished == n_shards => Phase::Finished,
            false => Phase::Stopped,
        };
        let n_lines = key.n_lines;
        Ok(Some(ClaimedStatus { phase, n_shards, n_finished, n_free, n_lines, totals, claims, unread, job: key }))
    }

    /// The status as text.
    #[must_use]
    pub fn text(&self) -> String {
        let count = |state| self.claims.iter().filter(|claim| claim.state == state).count();
        let (n_claimed, n_expired) = (count(ClaimState::Claimed), count(ClaimState::Expired));
        let n_released = count(ClaimState::Released);
        let Totals { n_ok, n_failed, n_prompt, n_predicted, .. } = self.totals;
        let ClaimedStatus { n_shards, n_finished, n_free, n_lines, .. } = self;
        let n_left = n_lines.saturating_sub(self.totals.n_done());
        let mut text = format!(
            "{}: {n_finished} of {n_shards} shards finished, {n_claimed} claimed, {n_expired} expired, {n_released} \
             released, {n_free} free\n{n_ok} ok + {n_failed} failed of {n_lines} lines, {n_left} left\n{n_prompt} prompt \
             tokens, and {n_predicted} generated\n",
            self.phase.name(),
        );
        for claim in &self.claims {
            text += &claim.line();
        }
        for error in &self.unread {
            writeln!(text, "not counted: {error}").expect("a text takes all");
        }
        let Key { input, model, seed, .. } = &self.job;
        writeln!(text, "input: {input}\nmodel: {}\nseed: {seed}", model.name()).expect("a text takes all");
        text
    }
}

impl ClaimStatus {
    fn line(&self) -> String {
        let ClaimStatus { shard, n_done, n_lines, .. } = self;
        let state = match self.state {
            ClaimState::Claimed => "claimed",
            ClaimState::Expired => "expired",
            ClaimState::Released => "released",
        };
        let owner = self.owner.as_ref().map(|owner| format!(" by {} (pid {})", owner.host, owner.pid));
        let silence = self.silent_seconds.map(|seconds| format!(", renewed {} ago", duration(seconds)));
        let (owner, silence) = (owner.unwrap_or_default(), silence.unwrap_or_default());
        format!("shard {shard}: {n_done} of {n_lines} lines, {state}{owner}{silence}\n")
    }
}

fn claim(
    shard: u64,
    generation: u64,
    content: Content,
    path: &Path,
    silence: &dyn Fn(&Path) -> Option<Duration>,
) -> ClaimStatus {
    let silent = silence(&claim_path(path));
    let lease = content.owner.as_ref().map(Owner::lease);
    let state = match content.end {
        Some(_) => ClaimState::Released,
        None if silent.zip(lease).is_some_and(|(silent, lease)| silent > lease) => ClaimState::Expired,
        None => ClaimState::Claimed,
    };
    let silent_seconds = silent.map(|silent| silent.as_secs_f64());
    ClaimStatus { shard, generation, state, owner: content.owner, silent_seconds, n_lines: 0, n_done: 0 }
}

/// Sums over the lines that the owners of a shard have done, each line once, and over the working time of all of them.
/// `files`: their outputs, by generation from 1 on; `whole`: the generation whose file has all lines of the shard. Until
/// the latest owner has copied the records of the others, they are only in the files of the others. Files of another job
/// than `key`'s do not count.
fn done(disk: &dyn Disk, files: &[PathBuf], whole: Option<u64>, key: &Key, unread: &mut Vec<String>) -> Totals {
    let (mut totals, mut lines) = (Totals::default(), BTreeSet::new());
    // One owner has each line once.
    let whole = if files.len() == 1 { Some(1) } else { whole };
    for (index, file) in files.iter().enumerate().rev() {
        let generation = index as u64 + 1;
        let log = journal_path(file);
        let read = read_journal(disk, &log).and_then(|found| match found {
            Some((journal, _)) if journal.key().difference(key).is_none() => {
                let finished = if whole.is_none() { read_finished(disk, &log)? } else { Vec::new() };
                Ok(Some((journal.totals(), finished)))
            }
            _ => Ok(None),
        });
        match read {
            Ok(Some((own, _))) if whole == Some(generation) => add(&mut totals, &own),
            Ok(Some((own, finished))) => {
                totals.active_ms += own.active_ms;
                for (start, finished) in finished {
                    if lines.insert(finished.line) {
                        let is_ok = finished.error.is_none();
                        add(
                            &mut totals,
                            &Totals {
                                n_ok: u64::from(is_ok),
                                n_failed: u64::from(!is_ok),
                                n_prompt: finished.n_prompt,
                                n_predicted: finished.n_predicted,
                                n_bytes: finished.end - start,
                                active_ms: 0,
                            },
                        );
                    }
                }
            }
            // It has not begun to write, or wrote for another job.
            Ok(None) => {}
            // All lines are counted from another file; only the time of this owner is missing.
            Err(_) if whole.is_some_and(|whole| whole != generation) => {}
            Err(error) => unread.push(error.to_string()),
        }
    }
    totals
}

fn add(totals: &mut Totals, more: &Totals) {
    totals.n_ok += more.n_ok;
    totals.n_failed += more.n_failed;
    totals.n_prompt += more.n_prompt;
    totals.n_predicted += more.n_predicted;
    totals.n_bytes += more.n_bytes;
    totals.active_ms += more.active_ms;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::{Claims, End, Next};
    use crate::disk::Files;
    use crate::journal::Finished;
    use crate::ledger::{Ledger, OpenOptions};

    #[test]
    fn each_state_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("results.jsonl");
        let read = |silent: u64| ClaimedStatus::read(&Files, &output, &|_| Some(Duration::from_secs(silent))).unwrap();
        assert_eq!(read(0), None);
        let key = Key {
            input: "40 lines".to_owned(),
            model: "m.gguf 7a".to_owned().into(),
            n_lines: 40,
            n_own: 40,
            seed: 7,
            parameters: std::collections::BTreeMap::new(),
            created_ms: 0,
        };
        Plan::agree(&Files, &output, Some(4), &key, true).unwrap();
        assert_eq!(read(0).unwrap().phase, Phase::Stopped);
        let claim = |name: &str| {
            let owner = Owner { host: name.to_owned(), pid: 7, id: name.to_owned(), lease_ms: 60_000 };
            match Claims::new(&Files, &output, 4, owner).next(&|| Duration::ZERO).unwrap() {
                Next::Claimed(claim) => claim,
                next => panic!("{next:?}"),
            }
        };
        let (first, second, _third) = (claim("a"), claim("b"), claim("c"));
        first.end(End::Finished).unwrap();
        second.end(End::Released).unwrap();
        let status = read(3).unwrap();
        assert_eq!((status.phase, status.n_finished, status.n_free), (Phase::Running, 1, 1));
        let expected = "running: 1 of 4 shards finished, 1 claimed, 0 expired, 1 released, 1 free\n0 ok + 0 failed of 40 \
             lines, 40 left\n0 prompt tokens, and 0 generated\nshard 2: 0 of 10 lines, released by b (pid 7), renewed 3s \
             ago\nshard 3: 0 of 10 lines, claimed by c (pid 7), renewed 3s ago\ninput: 40 lines\nmodel: m.gguf\nseed: 7\n";
        assert_eq!(status.text(), expected);
        let late = read(61).unwrap();
        assert_eq!((late.phase, late.claims[1].state), (Phase::Stopped, ClaimState::Expired));
        let json = serde_json::to_value(&late).unwrap();
        assert_eq!((&json["claims"][1]["state"], &json["n_shards"]), (&"expired".into(), &4.into()));
    }

    /// The second owner of a shard has not yet copied what the first one has done, and has done a line again.
    #[test]
    fn the_lines_of_all_owners_are_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("results.jsonl");
        let key = |shard: Shard| Key {
            input: "6 lines".to_owned(),
            model: "m.gguf 7a".to_owned().into(),
            n_lines: 6,
            n_own: shard.n_of(6),
            seed: 7,
            parameters: [("--shard".to_owned(), shard.to_string())].into(),
            created_ms: 0,
        };
        Plan::agree(&Files, &output, Some(1), &key(Shard::ALL), true).unwrap();
        let claim = |name: &str| {
            let owner = Owner { host: name.to_owned(), pid: 7, id: name.to_owned(), lease_ms: 1000 };
            match Claims::new(&Files, &output, 1, owner).next(&|| Duration::ZERO).unwrap() {
                Next::Claimed(claim) => claim,
                next => panic!("{next:?}"),
            }
        };
        let answer_as = |key: &Key, output: &Path, lines: &[u64]| {
            let options =
                OpenOptions { ms: 1, after_crash: false, has_seed: true, retry_failed: false, is_claimed: true };
            let mut ledger = Ledger::open(&Files, output, key, &options).unwrap();
            for &line in lines {
                let error = (line == 2).then(|| "code".to_owned());
                let finished = Finished { line, end: 0, n_prompt: 10, n_predicted: 1, error };
                ledger.record(finished, b"{}\n").unwrap();
            }
            ledger.close(5, true).unwrap();
        };
        let answer = |output: &Path, lines: &[u64]| answer_as(&key(Shard::ALL), output, lines);
        let first = claim("a");
        answer(&first.output(), &[3, 0, 2]);
        let first_log = journal_path(&first.output());
        first.end(End::Released).unwrap();
        let second = claim("b");
        let read = || ClaimedStatus::read(&Files, &output, &|_| Some(Duration::ZERO)).unwrap().unwrap();
        assert_eq!((read().totals.n_ok, read().totals.n_failed, read().claims[0].n_done), (2, 1, 3));
        answer(&second.output(), &[0, 5]);
        let status = read();
        let expected = Totals { n_ok: 3, n_failed: 1, n_prompt: 40, n_predicted: 4, n_bytes: 12, active_ms: 8 };
        assert_eq!((status.totals, status.claims[0].n_done, status.claims[0].generation), (expected, 4, 2));
        // A file of another job is not counted.
        let first_entries = std::fs::read(&first_log).unwrap();
        let other = folder.path().join("other");
        answer_as(&Key { seed: 8, ..key(Shard::ALL) }, &other, &[3, 4]);
        std::fs::copy(journal_path(&other), &first_log).unwrap();
        let status = read();
        assert_eq!((status.totals.n_ok, status.totals.active_ms, status.unread.len()), (2, 4, 0));
        // The first owner's journal is lost: its lines are not counted, and the status says so.
        std::fs::remove_file(&first_log).unwrap();
        std::fs::create_dir(&first_log).unwrap();
        let status = read();
        assert_eq!((status.totals.n_ok, status.unread.len()), (2, 1));
        assert!(status.text().contains(&format!("not counted: {}: ", first_log.display())), "{}", status.text());
        // A finished shard has all of its lines in one file.
        answer(&second.output(), &[1, 2, 3, 4]);
        second.end(End::Finished).unwrap();
        let status = read();
        assert_eq!((status.n_finished, status.totals.n_done(), status.unread.len()), (1, 6, 0));
        // The time is that of all owners still: 4 ms for the first one, and two times 4 ms for the second one.
        std::fs::remove_dir(&first_log).unwrap();
        std::fs::write(&first_log, first_entries).unwrap();
        assert_eq!((read().totals.n_done(), read().totals.active_ms), (6, 12));
    }
}
