//! The engine of one text: a thread that owns the model, takes [`Job`]s and sends [`Event`]s.
//!
//! It prints nothing and reads no arguments.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::channel::Receiver;

use crate::available::available;
use crate::chat::template::Segment;
use crate::cost::{Clock, CostCurve};
use crate::generate::{Generation, Length, Prefilled};
use crate::llama::exact;
use crate::llama::logprobs::{Logprobs, LogprobsOf};
use crate::llama::model::{LoadError, Model, ModelConfig};
use crate::llama::sampler::sampler;
use crate::llama::session::{Session, SessionConfig};
use crate::llama::structured::Constrainer;
use crate::llama::thread::{EngineThread, Outbox};
use crate::llama::tune::{self, TuneConfig};
use crate::llama::worker::drafters::{Drafters, DraftersConfig};
use crate::llama::worker::explain::Explainer;
use crate::llama::worker::measure::Task;
use crate::llama::worker::states::{Context, States};
use crate::memory::ModelShape;
use crate::replay::trace::{Recorder, Trace};
use crate::store::curves::CurveKey;
use crate::target::{Target, TargetError};
use crate::text::TextAssembler;
use crate::token::Token;
use crate::tree::MAX_NODES;
use crate::tune::{BySpan, Settings};

pub mod job;

pub mod drafters;
pub mod explain;
pub mod forced;
pub mod measure;

mod curve;
pub(super) mod states;

pub use self::job::{Answer, DrafterKind, Event, Failure, Job, Loaded, Notice, StopType};

/// Longer answers count as this many tokens when the settings are chosen.
const USUAL_TOKENS: usize = 512;

/// Longest answer that a context is sized for if the job sets no limit.
pub const DEFAULT_MAX_TOKENS: usize = 2048;

/// Configuration of a worker.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The model.
    pub model: ModelConfig,
    /// Settings of contexts, by expected length of the text.
    pub settings: BySpan<Settings>,
    /// Folder of the cost curves, and their key without the settings; `None`: do not save curves.
    pub curves: Option<(PathBuf, CurveKey)>,
    /// Configuration of the drafters.
    pub drafters: DraftersConfig,
    /// The model's shape, to refuse contexts that do not fit into memory; `None`: no check.
    pub shape: Option<ModelShape>,
    /// File of the secret that seals states on disk, created if missing; `None`: no states on disk.
    pub secret: Option<PathBuf>,
}

/// A running worker. Dropping it interrupts the current job and waits for the thread.
#[derive(Debug)]
pub struct Worker {
    thread: EngineThread<Task, Event>,
}

impl Worker {
    /// Starts a worker and loads the model. Setting `interrupt` stops the current work.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn spawn(config: WorkerConfig, interrupt: Arc<AtomicBool>) -> io::Result<Worker> {
        Worker::start(interrupt, move |jobs, outbox| work(&config, jobs, outbox))
    }

    /// Starts measuring settings. The last event is [`Event::Tuned`] or [`Event::Failed`]; the worker takes no jobs.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn tune(config: TuneConfig, interrupt: Arc<AtomicBool>) -> io::Result<Worker> {
        Worker::start(interrupt, move |_, outbox| tune::tune(&config, outbox))
    }

    fn start(
        interrupt: Arc<AtomicBool>,
        work: impl FnOnce(&Receiver<Task>, &Outbox<Event>) -> Result<(), Failure> + Send + 'static,
    ) -> io::Result<Worker> {
        let work = move |jobs: &Receiver<Task>, outbox: &Outbox<Event>| {
            if let Err(failure) = work(jobs, outbox) {
                outbox.send(Event::Failed(failure));
            }
        };
        Ok(Worker { thread: EngineThread::spawn(1, interrupt, work)? })
    }

    /// Submits a task. Its last event is [`Event::Done`], [`Event::Measured`], [`Event::Counted`] or [`Event::Failed`].
    pub fn submit(&self, task: impl Into<Task>) {
        self.thread.submit(task.into());
    }

    /// Counts the tokens of a prompt; the result is an [`Event::Counted`].
    pub fn count(&self, prompt: Vec<Segment>) {
        self.thread.submit(Task::Count(prompt));
    }

    /// Waits for the next event; `None` if the worker has ended.
    #[must_use]
    pub fn next_event(&self) -> Option<Event> {
        self.thread.next_event()
    }
}

/// The system's monotonic clock.
pub(super) struct WallClock(pub(super) Instant);

impl Clock for WallClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

pub(super) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Loads a model and reports progress.
pub(super) fn load(config: &ModelConfig, outbox: &Outbox<Event>) -> Result<Model, LoadError> {
    let loading = outbox.clone();
    Model::load(config, move |share| {
        loading.send(Event::Loading(share));
        !loading.is_interrupted()
    })
}

fn work(config: &WorkerConfig, jobs: &Receiver<Task>, outbox: &Outbox<Event>) -> Result<(), Failure> {
    let model = Rc::new(load(&config.model, outbox)?);
    if model.is_recurrent() {
        outbox.send(Event::Notice(Notice::Recurrent));
    }
    outbox.send(Event::Loaded(Box::new(Loaded::of(&model))));
    let (drafters, notice) = Drafters::new(config.drafters.clone());
    let mut engine = Engine {
        config,
        model: &model,
        constrainer: Constrainer::new(model.clone()),
        drafters,
        states: States::new(config.secret.clone()),
        session: None,
        settings: config.settings.short,
        curve: CostCurve::default(),
        measured_unix_s: 0,
        curves: config.curves.clone(),
        clock: WallClock(Instant::now()),
        outbox,
    };
    engine.load_curve();
    notice.into_iter().for_each(|notice| outbox.send(Event::Notice(notice)));
    for task in jobs {
        match task {
            Task::Answer(job) => {
                let answer = engine.answer(&job).map(|answer| Event::Done(Box::new(answer)));
                outbox.send(answer.unwrap_or_else(Event::Failed));
                // After `Done`, so that it runs while the user reads the answer.
                engine.keep_own_state(&job);
            }
            Task::Count(prompt) => outbox.send(Event::Counted(model.tokenize(&prompt).len())),
            Task::Measure(what) => {
                let measured = engine.measurement(&what).map(|measured| Event::Measured(Box::new(measured)));
                outbox.send(measured.unwrap_or_else(Event::Failed));
            }
        }
    }
    Ok(())
}

struct Engine<'a> {
    config: &'a WorkerConfig,
    model: &'a Model,
    constrainer: Constrainer,
    drafters: Drafters,
    states: States,
    session: Option<Session<'a>>,
    /// Settings of the session and of the curve.
    settings: Settings,
    curve: CostCurve,
    /// Time of the curve's measurement.
    measured_unix_s: u64,
    /// Where to save the curve; `None` after a failed attempt.
    curves: Option<(PathBuf, CurveKey)>,
    clock: WallClock,
    outbox: &'a Outbox<Event>,
}

impl<'a> Engine<'a> {
    fn answer(&mut self, job: &Job) -> Result<Answer, Failure> {
        let prompt = self.model.tokenize(&job.prompt);
        let n_vocab = self.model.n_vocab();
        if let Some(token) = job.sampling.unknown_token(n_vocab) {
            return Err(TargetError::UnknownToken { token, n_vocab }.into());
        }
        let length = self.length(job, &prompt)?;
        let mut session = self.session(length, prompt.len())?;
        let answer = self.answer_in(&mut session, job, &prompt, length);
        // After an interrupt too: the next job reuses the decoded tokens.
        self.session = Some(session);
        answer
    }

    fn answer_in(
        &mut self,
        session: &mut Session<'a>,
        job: &Job,
        prompt: &[Token],
        length: Length,
    ) -> Result<Answer, Failure> {
        let mut assembler = TextAssembler::new(job.stops.clone())?;
        let (model, outbox) = (self.model, self.outbox);
        let prefilled = self.prefill(session, job, prompt)?;
        let can_draft = session.limits().max_nodes > 1;
        let kind = if can_draft { job.drafter } else { DrafterKind::None };
        let is_cost_aware = matches!(kind, DrafterKind::Auto | DrafterKind::AdedSized);
        if is_cost_aware {
            self.measure(job, session, prompt, length)?;
        }
        let max_rows = self.max_rows(length.n_ctx);
        let (mut drafter, mut schedule) = self.drafters.make(kind, self.curve.clone(), max_rows, job.learns);
        let mut sampler = match &job.constraint {
            None => sampler(&job.sampling, model, prompt),
            Some(constraint) => {
                let (sampler, form) = self.constrainer.sampler_and_filter(constraint, &job.sampling, prompt)?;
                drafter.set_filter(form);
                sampler
            }
        };
        let mut ended_by = None;
        let mut emit = |token| {
            ended_by = emit(model, outbox, &mut assembler, token);
            if ended_by.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let logprobs = job.n_logprobs.map(|n| LogprobsOf { model, logprobs: Logprobs::new(n), told: Vec::new() });
        let mut observers =
            ((job.record.then(Recorder::default), job.explain.then_some(Explainer { model, outbox })), logprobs);
        let mut generation = Generation {
            target: session,
            drafter: drafter.as_mut(),
            schedule: &mut schedule,
            sampler: sampler.as_mut(),
            clock: &self.clock,
            observer: &mut observers,
        };
        let generated = generation.run(prompt, prefilled, length, &mut emit);
        // Before returning an error too: this text belongs to the answer.
        let rest = assembler.finish();
        if !rest.is_empty() {
            outbox.send(Event::Text(rest.to_owned()));
        }
        let generated = generated?;
        if is_cost_aware {
            self.curve = schedule.curve().clone();
            self.keep_curve();
        }
        let kept = job.learns.then(|| self.drafters.keep(&drafter, &generated.tokens)).flatten();
        let notices = kept.into_iter().chain(self.drafters.damage());
        notices.for_each(|notice| outbox.send(Event::Notice(notice)));
        let mut tokens = generated.tokens;
        let reached = if job.max_tokens == Some(tokens.len()) { StopType::Limit } else { StopType::Context };
        if ended_by == Some(StopType::Eos) {
            tokens.pop();
        }
        let logprobs = observers.1.map(|of| of.told).unwrap_or_default();
        let trace = observers.0.0.map(|recorder| Box::new(self.trace(recorder, job, prompt)));
        let stop = ended_by.unwrap_or(reached);
        let (stats, n_ctx, settings) = (generated.stats, length.n_ctx, self.settings);
        let exactness = exact::of_work(&settings);
        Ok(Answer { tokens, stop, stats, n_ctx, settings, trace, logprobs, exactness })
    }

    fn trace(&self, recorder: Recorder, job: &Job, prompt: &[Token]) -> Trace {
        Trace {
            id: String::new(),
            model: self.config.model.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            n_vocab: self.model.n_vocab(),
            temperature: job.sampling.temperature,
            prompt: prompt.iter().map(|token| token.0).collect(),
            tokens: recorder.tokens,
            top: recorder.top,
        }
    }

    /// Decodes a prompt, starting from a state on disk if that is faster. Also stores what was decoded before an
    /// interrupt.
    fn prefill(&mut self, session: &mut Session<'a>, job: &Job, prompt: &[Token]) -> Result<Prefilled, Failure> {
        let (_root, before) = prompt.split_last().ok_or(Failure::EmptyPrompt)?;
        let outbox = self.outbox;
        let tell = |notice| outbox.send(Event::Notice(notice));
        self.states.prepare(&self.config.model, job).unwrap_or_else(tell);
        let context = self.state_context(session, job);
        let start = self.clock.now();
        self.states.recall(session, &context, before).into_iter().for_each(tell);
        let recalled = self.clock.now();
        let mut n_cached = None;
        let mut progress = |done, total| {
            n_cached.get_or_insert(done);
            outbox.send(Event::Prefill(done, total));
            outbox.go_on()
        };
        let prefilled = Generation::prefill(session, &self.clock, prompt, &mut progress);
        let ms = |from: Duration| (self.clock.now() - from).as_secs_f64() * 1e3;
        let n_new = session.n_past().saturating_sub(n_cached.unwrap_or(0));
        self.states.keep(session, &context, n_new, ms(recalled)).unwrap_or_else(tell);
        let Prefilled { n_prompt, n_cached, prompt_ms } = prefilled?;
        Ok(Prefilled { n_prompt, n_cached, prompt_ms: prompt_ms + (recalled - start).as_secs_f64() * 1e3 })
    }

    fn state_context<'b>(&self, session: &Session<'_>, job: &'b Job) -> Context<'b>
    where
        'a: 'b,
    {
        Context { job, model: self.model, settings: self.settings, n_ctx: session.n_ctx() }
    }

    /// Saves the context in the job's own state file.
    fn keep_own_state(&mut self, job: &Job) {
        let Some(mut session) = self.session.take() else { return };
        let context = self.state_context(&session, job);
        let kept = self.states.keep_own(&mut session, &context);
        kept.unwrap_or_else(|notice| self.outbox.send(Event::Notice(notice)));
        self.session = Some(session);
    }

    /// The most tokens of the answer, and the positions that prompt and answer need.
    fn length(&self, job: &Job, prompt: &[Token]) -> Result<Length, Failure> {
        if prompt.is_empty() {
            return Err(Failure::EmptyPrompt);
        }
        let n_prompt = prompt.len();
        let max_tokens = job.max_tokens.unwrap_or(usize::MAX);
        let needed = n_prompt.saturating_add(job.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS));
        let n_ctx_train = self.model.n_ctx_train();
        let n_ctx = job.n_ctx.unwrap_or_else(|| needed.min(n_ctx_train));
        if n_prompt >= n_ctx {
            return Err(Failure::PromptTooLong { n_prompt, n_ctx, n_ctx_train });
        }
        Ok(Length { max_tokens, n_ctx })
    }

    /// The current session if it is long enough and has the right settings, otherwise a new one.
    fn session(&mut self, length: Length, n_prompt: usize) -> Result<Session<'a>, Failure> {
        let n_expected = n_prompt + length.max_tokens.min(USUAL_TOKENS) / 2;
        let settings = *self.config.settings.at(n_expected);
        if settings != self.settings {
            // Drop the old context first: memory may not hold two.
            self.session = None;
            self.settings = settings;
            self.load_curve();
        }
        // Room for the widest tree beyond the text.
        let n_ctx = length.n_ctx + MAX_NODES;
        if let Some(session) = self.session.take()
            && session.n_ctx() >= n_ctx
        {
            return Ok(session);
        }
        self.check_memory(length.n_ctx, &settings)?;
        exact::reset();
        let mut session = Session::new(self.model, &SessionConfig::new(n_ctx, &settings))?;
        if exact::is_demanded() {
            session.try_out()?;
            Failure::unless_exact(exact::of_work(&settings))?;
        }
        Ok(session)
    }

    /// Refuses a context that does not fit into memory: the system might kill this process, or another.
    fn check_memory(&self, n_ctx: usize, settings: &Settings) -> Result<(), Failure> {
        let (Some(shape), Some(available)) = (&self.config.shape, available()) else { return Ok(()) };
        let needed = shape.estimate(n_ctx, settings).context();
        if needed > available {
            return Err(Failure::NotEnoughMemory { n_ctx, needed, available });
        }
        Ok(())
    }
}

/// Sends the text of a token. Returns why the answer ends with it, if it does.
fn emit(model: &Model, outbox: &Outbox<Event>, assembler: &mut TextAssembler, token: Token) -> Option<StopType> {
    if model.is_end(token) {
        return Some(StopType::Eos);
    }
    let text = assembler.push(&model.bytes(token));
    if !text.is_empty() {
        outbox.send(Event::Text(text.to_owned()));
    }
    if let Some(stop) = assembler.stopped() {
        return Some(StopType::Word(stop.to_owned()));
    }
    outbox.is_interrupted().then_some(StopType::Interrupted)
}
