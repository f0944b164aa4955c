//! The engine: a thread that owns a model and answers requests. It has one protocol, [`chaski_core::engine`], and two ways to
//! decode:
//!
//! - one text at a time, with token trees (`one_text`);
//! - many texts at once in lanes, with chains (`many_texts`).
//!
//! ```text
//! client                        engine thread
//! start ─────────────────────►  load the model, prepare the policy
//!       ◄── Startup, Loaded ──
//! submit, count, measure ────►  Policy::serve
//!       ◄── Event ────────────
//! ```
//!
//! It prints nothing and reads no arguments.

pub mod draft_model;
pub mod drafters;
pub mod forced;
pub mod measure;
pub mod tune;

mod admission;
mod curves;
mod explain;
mod failure;
mod many_texts;
mod one_text;
mod state_recorder;
mod states;

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::channel::Receiver;

use crate::chat::template::Segment;
use crate::constrained_sampler::Constrainer;
use crate::cost::Clock;
use crate::engine::curves::Curves;
use crate::engine::drafters::{Drafters, DraftersConfig};
use crate::engine::many_texts::ManyTextsPolicy;
use crate::engine::measure::{Measured, Measurement};
use crate::engine::one_text::OneTextPolicy;
use crate::hidden::{HiddenDraftModel, HiddenError};
use crate::memory::ModelShape;
use crate::model::{LoadError, Model, ModelConfig};
use crate::store::curves::CurveKey;
use crate::store::hidden_file::HiddenFile;
use crate::thread::{EngineThread, Outbox};
use crate::tune::{BySpan, Settings};
use chaski_core::engine::PromptCacheConfig;
use chaski_core::engine::{self, Event, Request, RequestError};

pub use self::failure::{Failure, Loaded, Notice};

/// Requests that wait in the channel.
const N_WAITING: usize = 4;

/// The model and the machine's settings.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The model.
    pub model: ModelConfig,
    /// A small model of the same vocabulary that drafts with the drafter `auto`, for an engine of one text.
    pub draft_model: Option<ModelConfig>,
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

/// How the engine decodes.
#[derive(Clone, Debug)]
pub enum Mode {
    /// One text at a time, with token trees.
    OneText,
    /// Many texts at once, with chains.
    ManyTexts(ManyTexts),
}

/// Options of [`Mode::ManyTexts`].
#[derive(Clone, Debug)]
pub struct ManyTexts {
    /// Number of lanes, 1 to [`MAX_LANES`](crate::parallel::MAX_LANES); `None`: as many as pay off and fit into
    /// memory.
    pub n_parallel: Option<usize>,
    /// Positions of each text; `None`: as many as the requests need.
    pub n_ctx: Option<usize>,
    /// Whether to draft where it pays off.
    pub drafts: bool,
    /// Whether [`Emitted`](chaski_core::engine::Emitted) tokens come with their hidden states. Reading prompts then takes
    /// longer.
    pub states: bool,
    /// Where the prefix that texts share is cached; `None`: do not read or write the cache.
    pub prompt_cache: Option<PromptCacheConfig>,
}

/// Events before the engine takes requests.
#[derive(Debug)]
pub enum Startup {
    /// Fraction of the model loaded, from 0 to 1.
    Loading(f32),
    /// Fraction of the draft model loaded, from 0 to 1.
    LoadingDraftModel(f32),
    /// The cost curve is being measured.
    Measuring,
    /// A notice for the user.
    Notice(Notice),
}

/// Events of a measurement.
#[derive(Debug)]
pub enum Measuring<'a> {
    /// Steps done, and in total.
    Steps(usize, usize),
    /// A notice for the user.
    Notice(&'a str),
}

#[derive(Debug)]
enum Task {
    Answer(Box<Request>),
    Count(Vec<Segment>),
    Measure(Box<Measurement>),
}

/// Messages of the engine thread.
#[derive(Debug)]
enum Message {
    Startup(Startup),
    Loaded(Box<Loaded>),
    Event(Event),
    Counted(usize),
    Steps(usize, usize),
    Measured(Result<Box<Measured>, RequestError>),
    Failed(Failure),
}

/// A running engine. Dropping it interrupts the current work and waits for the thread.
#[derive(Debug)]
pub struct Engine {
    thread: EngineThread<Task, Message>,
}

impl Engine {
    /// Starts an engine and waits until its model is loaded; `see` receives the events until then. Setting `interrupt`
    /// stops the current work at any time.
    ///
    /// # Errors
    /// If the model cannot be loaded, or on an interrupt.
    pub fn start(
        config: EngineConfig,
        mode: Mode,
        interrupt: Arc<AtomicBool>,
        see: &mut dyn FnMut(Startup),
    ) -> Result<(Engine, Loaded), Failure> {
        let work = move |tasks: &Receiver<Task>, outbox: &Outbox<Message>| {
            if let Err(failure) = work(&config, &mode, tasks, outbox) {
                outbox.send(Message::Failed(failure));
            }
        };
        let thread = EngineThread::spawn(N_WAITING, interrupt, work).map_err(Failure::Thread)?;
        loop {
            match thread.next_event() {
                Some(Message::Startup(startup)) => see(startup),
                Some(Message::Loaded(loaded)) => return Ok((Engine { thread }, *loaded)),
                Some(Message::Failed(failure)) => return Err(failure),
                Some(_) | None => return Err(Failure::Ended),
            }
        }
    }

    /// Submits a request. Its last event is [`Event::Done`] or [`Event::Refused`].
    pub fn submit(&self, request: Request) {
        self.thread.submit(Task::Answer(Box::new(request)));
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// The reason the engine ended.
    pub fn next(&self) -> Result<Event, Failure> {
        match self.thread.next_event() {
            Some(Message::Event(event)) => Ok(event),
            Some(Message::Failed(failure)) => Err(failure),
            Some(_) | None => Err(Failure::Ended),
        }
    }

    /// Counts the tokens of a prompt. No request may be running. `notice` receives notices of the request before.
    ///
    /// # Errors
    /// The reason the engine ended.
    pub fn count(&self, prompt: Vec<Segment>, notice: &mut dyn FnMut(&str)) -> Result<usize, Failure> {
        self.thread.submit(Task::Count(prompt));
        loop {
            match self.thread.next_event() {
                Some(Message::Counted(n)) => return Ok(n),
                Some(Message::Event(Event::Notice { text, .. })) => notice(&text),
                Some(Message::Failed(failure)) => return Err(failure),
                Some(_) | None => return Err(Failure::Ended),
            }
        }
    }

    /// Measures something, with an engine of one text that runs no request.
    ///
    /// # Errors
    /// If it cannot be measured, or the engine ended.
    pub fn measure(&self, what: Measurement, see: &mut dyn FnMut(Measuring<'_>)) -> Result<Measured, Failure> {
        self.thread.submit(Task::Measure(Box::new(what)));
        loop {
            match self.thread.next_event() {
                Some(Message::Steps(n_done, n_total)) => see(Measuring::Steps(n_done, n_total)),
                Some(Message::Event(Event::Notice { text, .. })) => see(Measuring::Notice(&text)),
                Some(Message::Measured(measured)) => return Ok(*measured?),
                Some(Message::Failed(failure)) => return Err(failure),
                Some(_) | None => return Err(Failure::Ended),
            }
        }
    }
}

impl engine::Engine for Engine {
    fn has_room(&self) -> bool {
        self.thread.has_room()
    }

    fn try_submit(&self, request: Request) -> Result<(), Box<Request>> {
        match self.thread.try_submit(Task::Answer(Box::new(request))) {
            Err(Task::Answer(request)) => Err(request),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn next_event(&self) -> Result<Event, String> {
        self.next().map_err(|failure| failure.to_string())
    }
}

/// Decodes texts: how, is the policy's choice.
trait Policy {
    /// Works on tasks until there are no more.
    fn serve(&mut self, tasks: &Receiver<Task>) -> Result<(), Failure>;
}

/// What both policies use.
struct Parts<'a> {
    config: &'a EngineConfig,
    model: &'a Model,
    draft_model: Option<&'a Model>,
    hidden: Option<HiddenDraftModel>,
    drafters: Drafters,
    constrainer: Constrainer,
    curves: Curves<'a>,
    outbox: &'a Outbox<Message>,
}

impl Parts<'_> {
    fn send(&self, event: Event) {
        self.outbox.send(Message::Event(event));
    }

    fn notice(&self, notice: &Notice) {
        self.send(Event::Notice { id: None, text: notice.to_string() });
    }
}

fn work(config: &EngineConfig, mode: &Mode, tasks: &Receiver<Task>, outbox: &Outbox<Message>) -> Result<(), Failure> {
    let model = Rc::new(load(&config.model, outbox, |share| Message::Startup(Startup::Loading(share)))?);
    let draft_model = config.draft_model.as_ref().map(|config| load_beside(&model, config, outbox)).transpose()?;
    let mut drafters = config.drafters.clone();
    let (hidden, unusable_hidden) = match drafters.hidden.take() {
        Some(file) if config.draft_model.is_none() && matches!(mode, Mode::OneText) => match open_hidden(&file, config)
        {
            Ok(hidden) => {
                drafters.hidden = Some(file);
                (Some(hidden), None)
            }
            Err(error) => {
                // What is learned without it says nothing about drafting with it.
                drafters.learned = None;
                (None, Some(Notice::HiddenUnusable(error)))
            }
        },
        _ => (None, None),
    };
    let (drafters, unusable) = Drafters::new(drafters);
    let without_drafts = match mode {
        Mode::ManyTexts(ManyTexts { drafts: true, .. }) if model.is_recurrent() => Some(Notice::Recurrent),
        Mode::OneText if model.is_recurrent() && !model.can_checkpoint() => Some(Notice::NoCheckpoint),
        _ => None,
    };
    let notices = unusable.into_iter().chain(without_drafts).chain(unusable_hidden);
    notices.for_each(|notice| outbox.send(Message::Startup(Startup::Notice(notice))));
    let constrainer = Constrainer::new(model.clone());
    let curves = Curves::new(config.curves.as_ref(), outbox);
    let draft_model = draft_model.as_ref();
    let parts = Parts { config, model: &model, draft_model, hidden, drafters, constrainer, curves, outbox };
    let mut policy: Box<dyn Policy + '_> = match mode {
        Mode::OneText => Box::new(OneTextPolicy::new(parts)),
        Mode::ManyTexts(options) => Box::new(ManyTextsPolicy::new(parts, options)?),
    };
    outbox.send(Message::Loaded(Box::new(Loaded::of(&model))));
    policy.serve(tasks)
}

/// Loads a model; `loading` makes a message of the fraction loaded.
fn load<M: Send + 'static>(
    config: &ModelConfig,
    outbox: &Outbox<M>,
    loading: impl Fn(f32) -> M + Send + 'static,
) -> Result<Model, LoadError> {
    Model::load(config, report(outbox, loading))
}

/// Prepares the drafter on hidden states.
fn open_hidden(file: &HiddenFile, config: &EngineConfig) -> Result<HiddenDraftModel, HiddenError> {
    HiddenDraftModel::open(file, &config.model.path, config.settings.short.n_threads)
}

fn load_beside(model: &Model, config: &ModelConfig, outbox: &Outbox<Message>) -> Result<Model, LoadError> {
    model.load_beside(config, report(outbox, |share| Message::Startup(Startup::LoadingDraftModel(share))))
}

/// Sends the progress of loading; false after an interrupt.
fn report<M: Send + 'static>(
    outbox: &Outbox<M>,
    loading: impl Fn(f32) -> M + Send + 'static,
) -> impl FnMut(f32) -> bool + 'static {
    let outbox = outbox.clone();
    move |share| {
        outbox.send(loading(share));
        !outbox.is_interrupted()
    }
}

/// The system's monotonic clock.
struct WallClock(Instant);

impl Clock for WallClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
