//! Does one claimed shard after another, and renews the claim meanwhile. [`crate::claims`] says which shard is next.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};

use crate::claims::{self, Claim, Claims, End, Next, Owner, Plan};
use crate::disk::Disk;
use crate::engine::{Engine, Event, Progress, Request};
use crate::input::source::Survey;
use crate::job::{Job, Output, Prepared};
use crate::ledger::{LedgerError, journal_path, read_journal};
use crate::pipeline::{BatchError, Ended, unix_ms};

/// How often a process that waits checks for an interrupt.
const TICK: Duration = Duration::from_millis(50);

/// Longest time between two looks at the claims of others.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Looks at the claims of others per lease, at least.
const LOOKS: u32 = 8;

/// Answers the lines of shards.
pub trait Shards {
    /// Why a shard failed.
    type Error: From<BatchError>;

    /// Answers the lines that are left of this shard.
    ///
    /// # Errors
    /// When the process cannot go on.
    fn run(&mut self, prepared: Prepared<'_>, claim: &Facts) -> Result<Ended, Self::Error>;

    /// Another process took over the shard, because this one was silent for longer than its lease.
    fn lost(&mut self, claim: &Facts);

    /// All shards that are left are claimed by others; called once each time this process begins to wait.
    fn waiting(&mut self, n_shards: u64);
}

/// Facts about a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The shard's number.
    pub number: u64,
    /// Shards of the job.
    pub n_shards: u64,
    /// How many owners the shard has had, with this one.
    pub generation: u64,
}

/// What a process has done. After an interrupt only `n_shards` and `n_lost` are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Shards of the job.
    pub n_shards: u64,
    /// Shards that this process finished.
    pub n_own: u64,
    /// Lines answered in these, also by earlier owners.
    pub n_ok: u64,
    /// Lines that failed in these.
    pub n_failed: u64,
    /// Answers lost by an interrupt; `None` if there was none.
    pub n_lost: Option<usize>,
}

/// Joins the job that other processes have begun, or begins it. Then does shards until all are finished, or until an
/// interrupt. `job` is the whole job; `n_shards`: `None` if the user gave no number.
///
/// # Errors
/// When a claim, the input or an output cannot be used, or a shard fails. The claim is released.
pub fn work<S: Shards>(
    disk: &dyn Disk,
    output: &Path,
    job: &Job,
    n_shards: Option<u64>,
    owner: Owner,
    interrupt: &AtomicBool,
    shards: &mut S,
) -> Result<Done, S::Error> {
    let start = Instant::now();
    let survey = job.survey()?;
    let key = job.key(&survey, unix_ms());
    let Plan { n_shards, key } = Plan::agree(disk, output, n_shards, &key, job.has_seed).map_err(BatchError::from)?;
    let mut job = Job { has_seed: true, created_ms: Some(key.created_ms), ..job.clone() };
    job.defaults.sampling.seed = key.seed;
    let mut claims = Claims::new(disk, output, n_shards, owner);
    let pause = (claims.owner().lease() / LOOKS).min(MAX_PAUSE);
    let renewal = claims.owner().renewal();
    let (mut is_waiting, mut n_lost) = (false, 0);
    while !interrupt.load(Ordering::Relaxed) {
        let claim = match claims.next(&|| start.elapsed()).map_err(BatchError::from)? {
            Next::Finished => return Ok(done(disk, output, n_shards, &claims.owner().id)?),
            Next::Wait(n_shards) => {
                if !std::mem::replace(&mut is_waiting, true) {
                    shards.waiting(n_shards);
                }
                if Plan::read(disk, output).map_err(BatchError::from)?.is_none() {
                    return Err(BatchError::from(LedgerError::PlanDeleted(Plan::path(output))).into());
                }
                wait(pause, interrupt);
                continue;
            }
            Next::Claimed(claim) => claim,
        };
        is_waiting = false;
        let after_crash = job.after_crash && claim.is_resumed();
        let job = Job { shard: claim.shard(), after_crash, ..job.clone() };
        let Some(ended) = one(disk, &job, survey.clone(), *claim, renewal, shards)? else { continue };
        if ended.is_interrupted {
            n_lost = ended.n_lost;
            break;
        }
    }
    Ok(Done { n_shards, n_lost: Some(n_lost), ..Done::default() })
}

/// What an owner has finished, also before its process was started again after a crash.
fn done(disk: &dyn Disk, output: &Path, n_shards: u64, id: &str) -> Result<Done, BatchError> {
    let mut done = Done { n_shards, ..Done::default() };
    for path in claims::finished_by(disk, output, n_shards, id)? {
        let journal = read_journal(disk, &journal_path(&path))?;
        let totals = journal.map(|(journal, _)| journal.totals()).unwrap_or_default();
        done.n_own += 1;
        done.n_ok += totals.n_ok;
        done.n_failed += totals.n_failed;
    }
    Ok(done)
}

/// Does one shard; `None` if another process took it over.
fn one<S: Shards>(
    disk: &dyn Disk,
    job: &Job,
    survey: Survey,
    mut claim: Claim<'_>,
    renewal: Duration,
    shards: &mut S,
) -> Result<Option<Ended>, S::Error> {
    let facts = Facts { number: job.shard.number, n_shards: job.shard.n_shards, generation: claim.generation() };
    let (path, earlier): (PathBuf, Vec<PathBuf>) = (claim.output(), claim.earlier());
    let is_lost = Arc::new(AtomicBool::new(false));
    let ended = thread::scope(|scope| {
        let (over, is_over) = bounded::<()>(0);
        let (claim, lost) = (&mut claim, &is_lost);
        let keeper = thread::Builder::new().name("batch-claim".to_owned());
        let kept = keeper.spawn_scoped(scope, move || keep(claim, renewal, &is_over, lost));
        kept.map_err(BatchError::Thread)?;
        // Copying the records of earlier owners can take longer than a lease, so the claim is renewed meanwhile.
        let prepared = job.prepare_surveyed(survey, Output::Claimed(disk, &path, &earlier))?;
        let ended = shards.run(prepared.until(is_lost.clone()), &facts);
        drop(over);
        ended
    });
    if is_lost.load(Ordering::Relaxed) {
        shards.lost(&facts);
        return ended.map(|_| None);
    }
    // If the claim of a failed shard cannot be released, it expires.
    match ended {
        Ok(ended) => {
            let end = if ended.is_interrupted { End::Released } else { End::Finished };
            claim.end(end).map_err(BatchError::from)?;
            Ok(Some(ended))
        }
        Err(error) => {
            let _ = claim.end(End::Released);
            Err(error)
        }
    }
}

/// Renews a claim until the work is over. Sets `lost` and returns if another process has taken over the shard.
fn keep(claim: &mut Claim<'_>, renewal: Duration, is_over: &Receiver<()>, lost: &AtomicBool) {
    while is_over.recv_timeout(renewal) == Err(RecvTimeoutError::Timeout) {
        // An error is not final: the file server may be back at the next renewal. If not, writing the results fails too.
        if matches!(claim.renew(), Ok(false)) {
            lost.store(true, Ordering::Relaxed);
            return;
        }
    }
}

fn wait(pause: Duration, interrupt: &AtomicBool) {
    let end = Instant::now() + pause;
    while let left = end.saturating_duration_since(Instant::now())
        && !left.is_zero()
        && !interrupt.load(Ordering::Relaxed)
    {
        thread::sleep(left.min(TICK));
    }
}

/// An engine that does one shard after another.
#[derive(Debug)]
pub struct Lender<E> {
    engine: E,
    /// The engine's latest counts.
    latest: Mutex<Progress>,
}

impl<E: Engine + Sync> Lender<E> {
    /// Takes the engine.
    #[must_use]
    pub fn new(engine: E) -> Lender<E> {
        Lender { engine, latest: Mutex::default() }
    }

    /// The engine for one shard. The one before it must have ended.
    pub fn lend(&self) -> Box<dyn Engine + '_> {
        Box::new(Lent { lender: self, before: self.latest() })
    }

    fn latest(&self) -> Progress {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lent engine. It counts from zero.
struct Lent<'e, E> {
    lender: &'e Lender<E>,
    before: Progress,
}

impl<E: Engine + Sync> Engine for Lent<'_, E> {
    fn has_room(&self) -> bool {
        self.lender.engine.has_room()
    }

    fn try_submit(&self, request: Request) -> Result<(), Box<Request>> {
        self.lender.engine.try_submit(request)
    }

    fn next_event(&self) -> Result<Event, String> {
        let event = self.lender.engine.next_event()?;
        let Event::Progress(now) = event else { return Ok(event) };
        *self.lender.latest.lock().unwrap_or_else(PoisonError::into_inner) = now;
        let since = |now: u64, before: u64| now.saturating_sub(before);
        Ok(Event::Progress(Progress {
            n_running: now.n_running,
            n_prompt: since(now.n_prompt, self.before.n_prompt),
            n_predicted: since(now.n_predicted, self.before.n_predicted),
            n_steps: since(now.n_steps, self.before.n_steps),
        }))
    }
}
