//! The status of a job whose shards are claimed.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::Phase;
use crate::claims::{Content, End, Owner, Plan, claim_path, latest};
use crate::disk::Disk;
use crate::input::shard::Shard;
use crate::journal::{Journal, Key, Totals};
use crate::ledger::{LedgerError, journal_path, read_journal};
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
    /// Those that are done.
    pub n_done: u64,
}

/// The status of a job whose shards are claimed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClaimedStatus {
    /// The phase: running if a claim has not expired.
    pub phase: Phase,
    /// Number of shards.
    pub n_shards: u64,
    /// Shards that are finished.
    pub n_finished: u64,
    /// Shards that were never claimed.
    pub n_free: u64,
    /// Lines of the job.
    pub n_lines: u64,
    /// Sums over all lines done.
    #[serde(flatten)]
    pub totals: Totals,
    /// The other shards.
    pub claims: Vec<ClaimStatus>,
    /// The job's key.
    pub job: Key,
}

impl ClaimedStatus {
    /// The status of an output's job; `None` if its shards are not claimed. `silence`: the time since a file was
    /// written.
    ///
    /// # Errors
    /// When a claim or a journal cannot be read.
    pub fn read(
        disk: &dyn Disk,
        output: &Path,
        silence: &dyn Fn(&Path) -> Option<Duration>,
    ) -> Result<Option<ClaimedStatus>, LedgerError> {
        let Some(Plan { n_shards, key }) = Plan::read(disk, output)? else { return Ok(None) };
        let (mut n_finished, mut n_free, mut totals, mut claims) = (0, 0, Totals::default(), Vec::new());
        for number in 1..=n_shards {
            let shard = Shard { number, n_shards };
            let Some((generation, content)) = latest(disk, output, shard, 0)? else {
                n_free += 1;
                continue;
            };
            let path = shard.claimed_output(output, generation);
            let journal = read_journal(disk, &journal_path(&path))?;
            let done = journal.map_or_else(Totals::default, |(journal, _): (Journal, u64)| journal.totals());
            add(&mut totals, &done);
            if content.end == Some(End::Finished) {
                n_finished += 1;
                continue;
            }
            let n_lines = shard.n_of(key.n_lines);
            claims.push(ClaimStatus {
                n_lines,
                n_done: done.n_done(),
                ..claim(number, generation, content, &path, silence)
            });
        }
        let is_running = claims.iter().any(|claim| claim.state == ClaimState::Claimed);
        let phase = match is_running {
            true => Phase::Running,
            false if n_finished == n_shards => Phase::Finished,
            false => Phase::Stopped,
        };
        let n_lines = key.n_lines;
        Ok(Some(ClaimedStatus { phase, n_shards, n_finished, n_free, n_lines, totals, claims, job: key }))
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
    use crate::claims::{Claims, Next};
    use crate::disk::Files;

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
}
