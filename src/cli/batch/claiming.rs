//! `chaski batch --shard claim`: one shard after another with one engine, and the status of such a job.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use super::{Show, Work, failures, show, tell_appended};
use crate::batch::claims::Owner;
use crate::batch::disk::Files;
use crate::batch::job::{Job, Prepared};
use crate::batch::pipeline::Ended;
use crate::batch::render::Renderer;
use crate::batch::status::claimed::ClaimedStatus;
use crate::batch::work::{Facts, Lender, Shards, work};
use crate::cli::batch::args::StatusFormat;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::output::{Bars, stderr_line, write_stdout};
use crate::cli::prompt::local;
use crate::gguf::Gguf;
use crate::llama::engine::{Engine, EngineConfig};
use crate::llama::exact;

/// Environment variable of a worker process: the id of its claims, which stays the same when the worker is started
/// again after a crash.
pub(super) const OWNER: &str = "CHASKI_BATCH_OWNER";

/// A new id for the claims of this process's workers.
pub(super) fn owner_id() -> String {
    Owner::random_id()
}

impl Work<'_> {
    /// Rejects arguments that do not go with claims.
    pub(super) fn check_claim(&self) -> Result<(), Failure> {
        if self.is_stream() {
            return Err(Failure::usage("--shard claim needs an output file")
                .with_hint("give one that all processes can reach, as in -o results.jsonl"));
        }
        if self.args.retry_failed {
            return Err(Failure::usage("--retry-failed does not go with --shard claim")
                .with_hint("join the shards with chaski batch merge; then run --retry-failed without --shard"));
        }
        Ok(())
    }

    /// Does shards until all are finished.
    pub(super) fn claim(
        &self,
        job: &Job,
        n_shards: Option<u64>,
        config: EngineConfig,
        gguf: &Gguf,
        interrupt: Arc<AtomicBool>,
    ) -> Result<ExitCode, Failure> {
        let settings = *config.settings.at(0);
        let id = std::env::var(OWNER).unwrap_or_else(|_| owner_id());
        let owner = Owner::this_process(id, Duration::from_secs(self.args.lease.seconds));
        let interrupted = interrupt.clone();
        let mut one =
            OneEngine { work: self, config, gguf, interrupt: interrupted, engine: None, has_told_appended: false };
        let done = work(&Files, &self.output, job, n_shards, owner, &interrupt, &mut one)?;
        if let Some(n_lost) = done.n_lost {
            return Err(failures::claims_interrupted(n_lost));
        }
        let output = self.output.display();
        stderr_line(&format!(
            "notice: all {} shards are finished, {} of them by this process; hint: join them with chaski batch merge -o \
             {output}",
            done.n_shards, done.n_own
        ));
        if one.engine.is_some() {
            self.args.exact.check(&exact::of_work(&settings), self.args.engine.0.verbose)?;
        }
        Ok(if done.n_failed == 0 { ExitCode::Success } else { ExitCode::LinesFailed })
    }
}

/// Does all shards with one engine, which starts with the first shard that has lines left.
struct OneEngine<'w> {
    work: &'w Work<'w>,
    config: EngineConfig,
    gguf: &'w Gguf,
    interrupt: Arc<AtomicBool>,
    engine: Option<(Lender<Engine>, Arc<Renderer>)>,
    /// The notice about lines that were added to the input was printed.
    has_told_appended: bool,
}

impl Shards for OneEngine<'_> {
    type Error = Failure;

    fn run(&mut self, prepared: Prepared<'_>, claim: &Facts) -> Result<Ended, Failure> {
        let Facts { number, n_shards, generation } = *claim;
        let n_done = prepared.journal().map_or(0, |journal| journal.totals().n_done());
        if n_done > 0 {
            let by = if generation > 1 { " by another process" } else { "" };
            stderr_line(&format!("notice: shard {number} of {n_shards}: {n_done} lines were already done{by}"));
        }
        for error in prepared.unread() {
            stderr_line(&format!(
                "notice: shard {number} of {n_shards}: results of an earlier process cannot be read, so their lines run \
                 again: {error}"
            ));
        }
        let seed = prepared.seed();
        let ended = match prepared.n_left() {
            0 => prepared.finish()?,
            _ => self.answer(prepared)?,
        };
        if !self.work.args.quiet && !ended.is_interrupted {
            stderr_line(&format!("shard {number} of {n_shards}: {}", show::summary(&ended, seed, None)));
        }
        Ok(ended)
    }

    fn lost(&mut self, claim: &Facts) {
        let Facts { number, n_shards, .. } = claim;
        stderr_line(&format!(
            "notice: shard {number} of {n_shards}: another process has taken it over, because this one was silent for \
             longer than --lease; hint: give a larger --lease if it was only slow"
        ));
    }

    fn waiting(&mut self, n_shards: u64) {
        let shards = if n_shards == 1 { "1 shard".to_owned() } else { format!("{n_shards} shards") };
        stderr_line(&format!("notice: no shard is free; waiting for other processes to finish {shards}"));
    }
}

impl OneEngine<'_> {
    fn answer(&mut self, prepared: Prepared<'_>) -> Result<Ended, Failure> {
        let (engine, renderer) = match &mut self.engine {
            Some(started) => started,
            none => {
                let now = local(prepared.now().unix_s);
                let (engine, renderer) =
                    self.work.start(self.config.clone(), self.gguf, now, self.interrupt.clone())?;
                none.insert((Lender::new(engine), Arc::new(renderer)))
            }
        };
        let mut show = Show::new(Bars::default(), self.work.args.quiet);
        let (path, survey) = (prepared.path().to_owned(), prepared.survey().clone());
        let ended = prepared.run(engine.lend(), renderer.clone(), &self.interrupt, &mut show);
        show.clear();
        if !std::mem::replace(&mut self.has_told_appended, true) {
            tell_appended(&survey, &path);
        }
        Ok(ended?)
    }
}

/// Prints the status of a job whose shards are claimed.
pub(super) fn status(output: &Path, format: StatusFormat) -> Result<ExitCode, Failure> {
    let silence = |path: &Path| {
        let written = fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
        Some(SystemTime::now().duration_since(written).unwrap_or_default())
    };
    let status = ClaimedStatus::read(&Files, output, &silence)?.ok_or_else(|| {
        Failure::new(format!("{}: no process has claimed a shard of this job", output.display()))
            .with_hint("give the -o that you gave to chaski batch --shard claim")
    })?;
    match format {
        StatusFormat::Text => write_stdout(&status.text())?,
        StatusFormat::Json => {
            write_stdout(&(serde_json::to_string(&status).expect("strings and numbers serialize") + "\n"))?;
        }
    }
    Ok(ExitCode::Success)
}
