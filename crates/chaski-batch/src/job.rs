//! Runs a batch job from its description: surveys the input, opens the output, and does the lines that are left.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use twox_hash::XxHash3_64;

use crate::chat::template::LocalTime;
use crate::disk::Disk;
use crate::engine::Engine;
use crate::gguf::ModelId;
use crate::input::format::Format;
use crate::input::parameters::Defaults;
use crate::input::shard::Shard;
use crate::input::source::{Source, SourceError, Survey};
use crate::input::template::LineTemplate;
use crate::journal::{Journal, Key, Totals};
use crate::ledger::{Ledger, LedgerError, OpenOptions};
use crate::pipeline::{self, BatchError, Ended, OutputShape, Plan, Sink, Watcher};
use crate::progress::Progress;
use crate::record::Origin;
use crate::render::Renderer;
use crate::sampling::{SAMPLING_OPTIONS, Sampling};

/// A batch job as the command line describes it.
#[derive(Clone, Debug)]
pub struct Job {
    /// The input file.
    pub input: PathBuf,
    /// The input's format; `None`: detect it from the file.
    pub format: Option<Format>,
    /// The template that makes prompts from lines.
    pub template: Option<String>,
    /// The lines to do.
    pub shard: Shard,
    /// Form and order of the results.
    pub form: OutputShape,
    /// Parameters for lines that set none of their own.
    pub defaults: Defaults,
    /// Whether the user set the seed in `defaults`. If not, the seed of an earlier run is used.
    pub has_seed: bool,
    /// The model.
    pub model: ModelId,
    /// The model's name in results.
    pub model_name: String,
    /// All other parameters that affect the results, by flag.
    pub parameters: BTreeMap<String, String>,
    /// Whether to do failed lines again.
    pub retry_failed: bool,
    /// Whether the previous process crashed.
    pub after_crash: bool,
    /// When the job began, in milliseconds since 1970, for a shard of a job that another process began. `None`: now.
    pub created_ms: Option<u64>,
}

/// The destination of results.
pub enum Output<'d> {
    /// A file with a journal.
    File(&'d dyn Disk, &'d Path),
    /// The file of a claimed shard, with a journal, and the files of its earlier owners, whose records it adopts.
    Claimed(&'d dyn Disk, &'d Path, &'d [PathBuf]),
    /// A stream, without a journal.
    Stream(Box<dyn Write + 'd>),
}

impl std::fmt::Debug for Output<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Output::File(_, path) | Output::Claimed(_, path, _) => path.fmt(f),
            Output::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// A job that is ready to run.
#[derive(Debug)]
pub struct Prepared<'d> {
    source: Source,
    sink: Sink<'d>,
    shard: Shard,
    form: OutputShape,
    defaults: Defaults,
    origin: Origin,
    survey: Survey,
    created_ms: u64,
    abandoned: Arc<AtomicBool>,
    unread: Vec<LedgerError>,
}

impl Job {
    /// Reads the input once, checks that the output belongs to this job, and locks it.
    ///
    /// # Errors
    /// When the input or the output cannot be used. Files of another job are not changed.
    pub fn prepare<'d>(&self, output: Output<'d>) -> Result<Prepared<'d>, BatchError> {
        self.prepare_surveyed(self.survey()?, output)
    }

    /// Reads the input once.
    ///
    /// # Errors
    /// When it cannot be read, or is not one request per line.
    pub fn survey(&self) -> Result<Survey, BatchError> {
        let io = |error: io::Error| SourceError::Io { path: self.input.clone(), error };
        let survey = Survey::of(&self.input, self.format).map_err(io)?;
        survey.check_lines(&self.input)?;
        Ok(survey)
    }

    /// Like [`Job::prepare`], for an input that was surveyed before.
    ///
    /// # Errors
    /// As [`Job::prepare`].
    pub fn prepare_surveyed<'d>(&self, survey: Survey, output: Output<'d>) -> Result<Prepared<'d>, BatchError> {
        let template = self.template.as_deref().map(LineTemplate::parse).transpose();
        let template = template.map_err(|message| SourceError::Template { message })?;
        if template.is_none() && matches!(survey.format, Format::Table(_)) {
            return Err(SourceError::NoTemplate(self.input.clone()).into());
        }
        let source = Source::open(&self.input, survey.clone(), template)?;
        let mut key = self.key(&survey, self.created_ms.unwrap_or_else(pipeline::unix_ms));
        let (disk, path, earlier) = match output {
            Output::Stream(stream) => return Ok(self.ready(source, Sink::Stream(stream), survey, key)),
            Output::File(disk, path) => (disk, path, None),
            Output::Claimed(disk, path, earlier) => (disk, path, Some(earlier)),
        };
        let Job { has_seed, retry_failed, after_crash, .. } = *self;
        let ms = pipeline::unix_ms();
        let options = OpenOptions { ms, after_crash, has_seed, retry_failed, is_claimed: earlier.is_some() };
        let mut ledger = Ledger::open(disk, path, &key, &options)?;
        let mut unread = Vec::new();
        for earlier in earlier.into_iter().flatten() {
            unread.extend(ledger.adopt(earlier, ms)?.unread);
        }
        key = ledger.journal().key().clone();
        Ok(Prepared { unread, ..self.ready(source, Sink::Ledger(Box::new(ledger)), survey, key) })
    }

    fn ready<'d>(&self, source: Source, sink: Sink<'d>, survey: Survey, key: Key) -> Prepared<'d> {
        let mut defaults = self.defaults.clone();
        defaults.sampling.seed = key.seed;
        let job = XxHash3_64::oneshot(format!("{}{:?}", key.created_ms, key.input).as_bytes());
        let origin = Origin { model: self.model_name.clone(), job };
        let (shard, form, created_ms) = (self.shard, self.form, key.created_ms);
        let (abandoned, unread) = (Arc::default(), Vec::new());
        Prepared { source, sink, shard, form, defaults, origin, survey, created_ms, abandoned, unread }
    }

    /// The job's key, which must match for another process to resume the job.
    pub(crate) fn key(&self, survey: &Survey, created_ms: u64) -> Key {
        let sampling = &self.defaults.sampling;
        let mut parameters = self.parameters.clone();
        let mut add = |name: &str, value: String| drop(parameters.insert(name.to_owned(), value));
        add("--format", survey.format.name().to_owned());
        add("--shard", self.shard.to_string());
        add("--text", self.form.is_text.to_string());
        add("--ordered", self.form.is_ordered.to_string());
        let (mut own, mut default) = (sampling.clone(), Sampling::default());
        for option in &SAMPLING_OPTIONS {
            let (number, usual) = (option.get(&mut own), option.get(&mut default));
            // Every journal's key has the options of `ALWAYS_KEYED`. The others are added only if they differ from their
            // default, so that journals written before a option existed still match.
            if number != usual || ALWAYS_KEYED.contains(&option.flag) {
                add(option.flag, (number as f32).to_string());
            }
        }
        let others = (&sampling.samplers, &sampling.dry_breakers, &sampling.logit_bias, sampling.ignore_eos);
        if others != (&None, &None, &Vec::new(), false) {
            add("--samplers", format!("{others:?}"));
        }
        add("--n-predict", self.defaults.max_tokens.map_or_else(|| "-1".to_owned(), |n| n.to_string()));
        add("--reverse-prompt", format!("{:?}", self.defaults.stop));
        add("--template", self.template.as_ref().map_or_else(|| "none".to_owned(), |text| summary(text)));
        Key {
            input: survey.fingerprint(),
            model: self.model.clone(),
            n_lines: survey.n_lines,
            n_own: self.shard.n_of(survey.n_lines),
            seed: sampling.seed,
            parameters,
            created_ms,
        }
    }
}

/// Knobs that are part of every key.
const ALWAYS_KEYED: [&str; 5] = ["--temp", "--top-k", "--top-p", "--min-p", "--repeat-penalty"];

/// A long text as part of a key: its beginning and its hash.
#[must_use]
pub fn summary(text: &str) -> String {
    let start: String = text.chars().take(40).collect();
    format!("{start:?} ({:016x})", XxHash3_64::oneshot(text.as_bytes()))
}

impl Prepared<'_> {
    /// The input file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// The survey of the input.
    #[must_use]
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// Seed of all sampling.
    #[must_use]
    pub fn seed(&self) -> u32 {
        self.defaults.sampling.seed
    }

    /// The journal with the results of earlier runs; `None` for a stream.
    #[must_use]
    pub fn journal(&self) -> Option<&Journal> {
        self.sink.journal()
    }

    /// Damaged or torn bytes dropped from the end of the journal.
    #[must_use]
    pub fn n_dropped_bytes(&self) -> u64 {
        match &self.sink {
            Sink::Ledger(ledger) => ledger.n_dropped_bytes(),
            Sink::Stream(_) => 0,
        }
    }

    /// Why results of earlier owners of a claimed shard could not be read. Their lines are done again.
    #[must_use]
    pub fn unread(&self) -> &[LedgerError] {
        &self.unread
    }

    /// Lines of this shard that are not done.
    #[must_use]
    pub fn n_left(&self) -> u64 {
        self.journal().map_or_else(|| self.shard.n_of(self.survey.n_lines), Journal::n_left)
    }

    /// The time that templates see: when the job began, also if it is resumed later.
    #[must_use]
    pub fn now(&self) -> LocalTime {
        LocalTime { unix_s: i64::try_from(self.created_ms / 1000).unwrap_or(0), utc_offset_s: 0 }
    }
}

impl Prepared<'_> {
    /// Ends the run early once `abandoned` is set; see [`Plan`].
    #[must_use]
    pub fn until(self, abandoned: Arc<AtomicBool>) -> Self {
        Prepared { abandoned, ..self }
    }

    /// Does the lines that are left.
    ///
    /// # Errors
    /// See [`BatchError`].
    pub fn run(
        self,
        engine: Box<dyn Engine + '_>,
        renderer: impl Into<Arc<Renderer>>,
        interrupt: &AtomicBool,
        watcher: &mut dyn Watcher,
    ) -> Result<Ended, BatchError> {
        let Prepared { source, sink, shard, form, defaults, origin, abandoned, .. } = self;
        let plan = Plan { source, shard, renderer: renderer.into(), defaults, origin, form, abandoned };
        pipeline::run(plan, engine, sink, interrupt, watcher)
    }

    /// Closes a job that has no lines left.
    ///
    /// # Errors
    /// See [`BatchError`].
    pub fn finish(self) -> Result<Ended, BatchError> {
        let n_lines = self.shard.n_of(self.survey.n_lines);
        let totals = match self.sink {
            Sink::Ledger(ledger) => ledger.close(pipeline::unix_ms(), self.form.is_ordered)?.totals(),
            Sink::Stream(_) => Totals::default(),
        };
        Ok(Ended { progress: Progress { n_lines, totals, ..Progress::default() }, is_interrupted: false, n_lost: 0 })
    }
}
