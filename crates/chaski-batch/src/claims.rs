//! Shards of unequal machines: every process claims one free shard after another, until all shards are finished.
//!
//! ```text
//! results.jsonl.claims                 the plan: number of shards, the job's key
//! results.5-of-64.g1.jsonl.claim       the claim of the first owner of shard 5
//! results.5-of-64.g1.jsonl             what this owner answered, with a journal beside it
//! results.5-of-64.g2.jsonl.claim       the second owner, after the first one's lease expired
//! ```
//!
//! **Safety.** Each owner of a shard has a *generation*, and output files of its own. A claim of a generation is a file
//! created with `O_EXCL`. It is never deleted or renamed, so each generation has one owner for ever, and two processes
//! can never write to one output. An owner that was stopped, lost its claim, and comes back writes only to files that
//! belong to it. Reading those at any time is safe: a journal grows at its end, and an entry follows its synced record.
//! `merge` reads one finished generation of each shard, whichever it is: all of them have the same lines.
//! Nothing here needs a lock or a clock that two machines share, and a wrong judgement about a lease costs time only.
//!
//! Taking over means to create the claim of the next generation: at most one process succeeds. (To rename an old claim
//! away and create a new one would not be safe: a slow process could rename the new claim away.) The new owner copies
//! the finished records of all earlier generations and answers the rest.
//!
//! **Progress.** An owner appends a byte to its claim, four times per lease. Another process believes that the owner is
//! gone only after it has itself seen the same length at two times that are a lease apart by its own monotonic clock.
//! It cannot happen that all wait for a dead one, since a claim without content expires like any other.
//!
//! **Network file systems.** Needed: creating with `O_EXCL` succeeds for one process; a file that was synced and closed
//! or is being written is seen in its current state, or an earlier one, by a process that opens it; the plan appears by
//! a hard link with all of its content. NFS 3 and later have all this. A file that is seen late delays a takeover or
//! causes one too many.
//!
//! Apart from [`Owner::this_process`] this module is pure: files are behind [`Disk`], and the time is passed in.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::disk::{Appended, Disk, random};
use crate::input::shard::Shard;
use crate::journal::{Difference, Key};
use crate::ledger::{LedgerError, journal_path, with_suffix};

/// Renewals per lease.
const RENEWALS: u32 = 4;

/// Longest claim or plan to read. A claim grows by one byte per renewal.
const MAX_BYTES: u64 = 16 << 20;

/// Shards of a job if the user gives no number: fewer than a process needs to look at in a moment, and enough for
/// several on each of ten machines.
const N_SHARDS: u64 = 64;

/// Lines of a shard, at least, if the user gives no number: a shard's last lines leave lanes empty.
const MIN_LINES: u64 = 32;

/// Shards of a short job if the user gives no number.
const MIN_SHARDS: u64 = 8;

/// What a finished owner adds to its claim.
const FINISHED: &str = "\nfinished\n";

/// What an interrupted owner adds to its claim, so that nobody needs to wait for the end of its lease.
const RELEASED: &str = "\nreleased\n";

/// What all processes of a claimed job have agreed on. The first process writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Number of shards.
    pub n_shards: u64,
    /// The key of the whole job. Its seed and its time hold for all shards.
    pub key: Key,
}

impl Plan {
    /// The file of the plan.
    #[must_use]
    pub fn path(output: &Path) -> PathBuf {
        with_suffix(output, ".claims")
    }

    /// The plan of an output's job; `None` if no process has begun it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(disk: &dyn Disk, output: &Path) -> Result<Option<Plan>, LedgerError> {
        let path = Plan::path(output);
        let bytes = read_all(disk, &path).map_err(at(&path))?;
        let plan = bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(|_| LedgerError::BadPlan(path)));
        plan.transpose()
    }

    /// Joins the job that has begun, or begins it. `n_shards`: `None` if the user gave no number; `has_seed`: whether
    /// the user gave the key's seed.
    ///
    /// # Errors
    /// When another job has begun, or the plan cannot be read or written.
    pub fn agree(
        disk: &dyn Disk,
        output: &Path,
        n_shards: Option<u64>,
        key: &Key,
        has_seed: bool,
    ) -> Result<Plan, LedgerError> {
        let path = Plan::path(output);
        let plan = match Plan::read(disk, output)? {
            Some(plan) => plan,
            None => {
                // Perhaps the job is merged, and its files are deleted.
                if disk.read(output).map_err(at(output))?.is_some() {
                    return Err(LedgerError::Exists(output.to_owned()));
                }
                let n_shards = n_shards.unwrap_or_else(|| default_n_shards(key.n_lines));
                let plan = Plan { n_shards, key: key.clone() };
                let text = serde_json::to_string(&plan).expect("strings and numbers serialize") + "\n";
                // If another process was first, its plan holds.
                disk.publish(&path, text.as_bytes()).map_err(at(&path))?;
                Plan::read(disk, output)?.ok_or_else(|| LedgerError::BadPlan(path.clone()))?
            }
        };
        let claim = |n: u64| format!("claim/{n}");
        let other_n = n_shards.filter(|&n| n != plan.n_shards).map(|n| Difference {
            what: "--shard".to_owned(),
            was: claim(plan.n_shards),
            is: claim(n),
        });
        let now = Key { seed: if has_seed { key.seed } else { plan.key.seed }, ..key.clone() };
        match other_n.or_else(|| plan.key.difference(&now)) {
            Some(difference) => Err(LedgerError::OtherKey { path, difference }),
            None => Ok(plan),
        }
    }
}

fn default_n_shards(n_lines: u64) -> u64 {
    (n_lines / MIN_LINES).clamp(MIN_SHARDS, N_SHARDS).min(n_lines.max(1))
}

/// A process that claims shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Name of the machine; for people.
    pub host: String,
    /// Number of the process; for people.
    pub pid: u32,
    /// A random name, which a process keeps if it is started again after a crash.
    pub id: String,
    /// The lease of its claims, in milliseconds.
    pub lease_ms: u64,
}

impl Owner {
    /// This process. `id`: a name that no other process has; see [`Owner::random_id`].
    #[must_use]
    pub fn this_process(id: String, lease: Duration) -> Owner {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let variable = |name: &str| std::env::var(name).ok();
        let host = host.or_else(|| variable("HOSTNAME")).or_else(|| variable("COMPUTERNAME"));
        let host = host.map_or_else(|| "unknown".to_owned(), |host| host.trim().to_owned());
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        Owner { host, pid: std::process::id(), id, lease_ms }
    }

    /// A random name for a process.
    #[must_use]
    pub fn random_id() -> String {
        format!("{:016x}", random())
    }

    /// The time after which a claim that is not renewed expires.
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// The time between two renewals.
    #[must_use]
    pub fn renewal(&self) -> Duration {
        self.lease() / RENEWALS
    }
}

/// The content of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The owner; `None` if it has not written its name yet.
    pub owner: Option<Owner>,
    /// Whether and how the owner ended its work.
    pub end: Option<End>,
    /// Length in bytes, which grows with each renewal.
    n_bytes: u64,
}

/// How an owner ended its work on a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All lines are done.
    Finished,
    /// It was interrupted.
    Released,
}

impl Content {
    fn of(bytes: &[u8]) -> Content {
        let owner = bytes.split_inclusive(|&byte| byte == b'\n').next().filter(|line| line.ends_with(b"\n"));
        let end = match bytes {
            _ if bytes.ends_with(FINISHED.as_bytes()) => Some(End::Finished),
            _ if bytes.ends_with(RELEASED.as_bytes()) => Some(End::Released),
            _ => None,
        };
        Content { owner: owner.and_then(|line| serde_json::from_slice(line).ok()), end, n_bytes: bytes.len() as u64 }
    }

    /// Reads the claim of one generation; `None` if there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(disk: &dyn Disk, output: &Path, shard: Shard, generation: u64) -> Result<Option<Content>, LedgerError> {
        read(disk, &shard.claimed_output(output, generation))
    }
}

/// Reads the claim that belongs to the output of one owner; `None` if there is none.
///
/// # Errors
/// When it cannot be read.
pub fn read(disk: &dyn Disk, output: &Path) -> Result<Option<Content>, LedgerError> {
    let path = claim_path(output);
    Ok(read_all(disk, &path).map_err(at(&path))?.map(|bytes| Content::of(&bytes)))
}

/// The path of the claim that belongs to an output.
#[must_use]
pub fn claim_path(output: &Path) -> PathBuf {
    with_suffix(output, ".claim")
}

/// The latest generation of a shard from `after` on, and its claim; `None` if there is none after `after`.
///
/// # Errors
/// When a claim cannot be read.
pub fn latest(disk: &dyn Disk, output: &Path, shard: Shard, after: u64) -> Result<Option<(u64, Content)>, LedgerError> {
    let mut latest = None;
    let mut generation = after;
    while let Some(content) = Content::read(disk, output, shard, generation + 1)? {
        generation += 1;
        latest = Some((generation, content));
    }
    Ok(latest)
}

/// The claims of all owners of a shard, by generation from 1 on.
///
/// # Errors
/// When a claim cannot be read.
pub fn owners(disk: &dyn Disk, output: &Path, shard: Shard) -> Result<Vec<Content>, LedgerError> {
    let mut owners = Vec::new();
    while let Some(content) = Content::read(disk, output, shard, owners.len() as u64 + 1)? {
        owners.push(content);
    }
    Ok(owners)
}

/// The journal of the shard that an owner has claimed and not ended; `None` if there is none.
///
/// # Errors
/// When a claim cannot be read.
pub fn journal_of(disk: &dyn Disk, output: &Path, id: &str) -> Result<Option<PathBuf>, LedgerError> {
    let Some(Plan { n_shards, .. }) = Plan::read(disk, output)? else { return Ok(None) };
    for number in 1..=n_shards {
        let shard = Shard { number, n_shards };
        if let Some((generation, content)) = latest(disk, output, shard, 0)?
            && content.end.is_none()
            && content.owner.is_some_and(|owner| owner.id == id)
        {
            return Ok(Some(journal_path(&shard.claimed_output(output, generation))));
        }
    }
    Ok(None)
}

/// The outputs of the shards that an owner has finished.
///
/// # Errors
/// When a claim cannot be read.
pub fn finished_by(disk: &dyn Disk, output: &Path, n_shards: u64, id: &str) -> Result<Vec<PathBuf>, LedgerError> {
    let mut finished = Vec::new();
    for number in 1..=n_shards {
        let shard = Shard { number, n_shards };
        for (generation, content) in (1..).zip(owners(disk, output, shard)?) {
            if content.end == Some(End::Finished) && content.owner.is_some_and(|owner| owner.id == id) {
                finished.push(shard.claimed_output(output, generation));
            }
        }
    }
    Ok(finished)
}

/// The outputs to merge: one finished generation of each shard, and the number of shards without one.
///
/// # Errors
/// When a claim cannot be read.
pub fn parts(disk: &dyn Disk, output: &Path, n_shards: u64) -> Result<(Vec<PathBuf>, u64), LedgerError> {
    let (mut parts, mut n_left) = (Vec::new(), 0);
    for number in 1..=n_shards {
        let shard = Shard { number, n_shards };
        match finished_generation(&owners(disk, output, shard)?) {
            Some(generation) => parts.push(shard.claimed_output(output, generation)),
            None => n_left += 1,
        }
    }
    Ok((parts, n_left))
}

/// The latest generation that has finished a shard; `None` if there is none.
#[must_use]
pub fn finished_generation(owners: &[Content]) -> Option<u64> {
    owners.iter().rposition(|content| content.end == Some(End::Finished)).map(|index| index as u64 + 1)
}

/// What this process knows about a shard.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// The latest generation; 0: none.
    generation: u64,
    /// Length of its claim.
    n_bytes: u64,
    /// When the claim was first seen with this length.
    since: Duration,
    is_finished: bool,
}

/// The state of a shard, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// Claimed by this process before it was started again.
    Own,
    /// Never claimed.
    Free,
    /// Its owner was interrupted.
    Released,
    /// Its owner has not renewed its claim for a lease.
    Expired,
    /// Another process works on it.
    Held,
    Finished,
}

/// What to do next.
#[derive(Debug)]
pub enum Next<'d> {
    /// Do this shard.
    Claimed(Box<Claim<'d>>),
    /// Look again later: other processes work on this many shards, and no other shards are left.
    Wait(u64),
    /// All shards are finished.
    Finished,
}

/// The claims of a job, as one process sees them.
pub struct Claims<'d> {
    disk: &'d dyn Disk,
    output: PathBuf,
    owner: Owner,
    seen: Vec<Seen>,
}

impl std::fmt::Debug for Claims<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claims").field("output", &self.output).field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl<'d> Claims<'d> {
    /// The claims of a job with this output and number of shards.
    #[must_use]
    pub fn new(disk: &'d dyn Disk, output: &Path, n_shards: u64, owner: Owner) -> Claims<'d> {
        let seen = (0..n_shards).map(|_| Seen::default()).collect();
        Claims { disk, output: output.to_owned(), owner, seen }
    }

    /// The owner of the claims that this process makes.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Claims the next shard, if there is one. A process must end its claim before it asks for the next. `clock`: this
    /// machine's monotonic clock.
    ///
    /// # Errors
    /// When a claim cannot be read or written.
    pub fn next(&mut self, clock: &dyn Fn() -> Duration) -> Result<Next<'d>, LedgerError> {
        let n_shards = self.seen.len() as u64;
        let (mut open, mut n_held) = (Vec::new(), 0);
        for number in 1..=n_shards {
            match self.look(Shard { number, n_shards }, clock)? {
                State::Finished => {}
                State::Held => n_held += 1,
                state => open.push((state, number)),
            }
        }
        open.sort_unstable();
        for (state, number) in open {
            match self.take(Shard { number, n_shards }, state)? {
                Some(claim) => return Ok(Next::Claimed(Box::new(claim))),
                // Another process was first.
                None => n_held += 1,
            }
        }
        Ok(if n_held == 0 { Next::Finished } else { Next::Wait(n_held) })
    }

    /// Reads the latest claim of a shard.
    fn look(&mut self, shard: Shard, clock: &dyn Fn() -> Duration) -> Result<State, LedgerError> {
        let seen = &mut self.seen[(shard.number - 1) as usize];
        if seen.is_finished {
            return Ok(State::Finished);
        }
        let before = clock();
        // Begin with the generation known so far, because its claim may have changed.
        let latest = latest(self.disk, &self.output, shard, seen.generation.saturating_sub(1))?;
        let Some((generation, content)) = latest else {
            // A claim is never deleted, so one that is not found is only not seen.
            return Ok(if seen.generation == 0 { State::Free } else { State::Held });
        };
        if (generation, content.n_bytes) != (seen.generation, seen.n_bytes) {
            // It had this length when it was read, not before: take the time after reading.
            *seen = Seen { generation, n_bytes: content.n_bytes, since: clock(), is_finished: false };
        }
        let lease = content.owner.as_ref().map_or(self.owner.lease(), Owner::lease);
        Ok(match content.end {
            Some(End::Finished) => {
                seen.is_finished = true;
                State::Finished
            }
            Some(End::Released) => State::Released,
            None if content.owner.is_some_and(|owner| owner.id == self.owner.id) => State::Own,
            // It still had this length after `before`.
            None if before.saturating_sub(seen.since) >= lease => State::Expired,
            None => State::Held,
        })
    }

    /// Claims a shard; `None` if another process was first.
    fn take(&self, shard: Shard, state: State) -> Result<Option<Claim<'d>>, LedgerError> {
        let seen = self.seen[(shard.number - 1) as usize];
        let is_resumed = state == State::Own;
        let generation = if is_resumed { seen.generation } else { seen.generation + 1 };
        let path = claim_path(&shard.claimed_output(&self.output, generation));
        let file = match is_resumed {
            true => self.disk.append(&path).map(Some),
            false => self.disk.create_new(&path),
        };
        let Some(file) = file.map_err(at(&path))? else { return Ok(None) };
        let mut claim = Claim { disk: self.disk, output: self.output.clone(), shard, generation, is_resumed, file };
        if !is_resumed {
            let owner = serde_json::to_string(&self.owner).expect("strings and numbers serialize");
            claim.add(&(owner + "\n"))?;
        }
        Ok(Some(claim))
    }
}

/// A claim of this process.
pub struct Claim<'d> {
    disk: &'d dyn Disk,
    output: PathBuf,
    shard: Shard,
    generation: u64,
    is_resumed: bool,
    file: Box<dyn Appended>,
}

impl std::fmt::Debug for Claim<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").field("output", &self.output()).finish_non_exhaustive()
    }
}

impl Claim<'_> {
    /// The shard.
    #[must_use]
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// How many owners the shard has had, with this one.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether this process had the claim before it was started again.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// The output, which only this process writes.
    #[must_use]
    pub fn output(&self) -> PathBuf {
        self.shard.claimed_output(&self.output, self.generation)
    }

    /// The outputs of the earlier owners, latest first.
    #[must_use]
    pub fn earlier(&self) -> Vec<PathBuf> {
        (1..self.generation).rev().map(|generation| self.shard.claimed_output(&self.output, generation)).collect()
    }

    /// Renews the claim. Returns false if another process has taken over the shard: then the work is no longer needed.
    ///
    /// # Errors
    /// When the claim cannot be read or written.
    pub fn renew(&mut self) -> Result<bool, LedgerError> {
        if Content::read(self.disk, &self.output, self.shard, self.generation + 1)?.is_some() {
            return Ok(false);
        }
        self.add(".").map(|()| true)
    }

    /// Ends the claim.
    ///
    /// # Errors
    /// When the claim cannot be written. It then expires.
    pub fn end(mut self, end: End) -> Result<(), LedgerError> {
        self.add(match end {
            End::Finished => FINISHED,
            End::Released => RELEASED,
        })
    }

    fn add(&mut self, text: &str) -> Result<(), LedgerError> {
        let added = self.file.append(text.as_bytes()).and_then(|()| self.file.sync());
        added.map_err(at(&claim_path(&self.output())))
    }
}

fn read_all(disk: &dyn Disk, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = disk.read(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn at(path: &Path) -> impl Fn(io::Error) -> LedgerError {
    move |error| LedgerError::Io { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests;
