//! The stages of a job, each on a thread of its own, with bounded channels between them:
//!
//! ```text
//! read + parse ─► render, look ahead ─► engine ─► write, sync
//!        └───────────────┴── what is refused ──────▲
//! ```
//!
//! A [`InFlight`] bounds the lines under way from the file to the output, and their bytes: memory does not grow with the
//! input. A stage that ends lets go of its channels, and so ends its neighbours; nothing is lost by that but what was
//! under way.

mod driver;
mod reading;
mod writing;

use std::io;
use std::sync::atomic::AtomicBool;
use std::thread;

use crossbeam::channel::bounded;

use crate::batch::engine::{self, Answer, Engine, Refusal, Request};
use crate::batch::in_flight::InFlight;
use crate::batch::input::parameters::{Defaults, Parameters};
use crate::batch::input::request::{Endpoint, Prompt};
use crate::batch::input::shard::Shard;
use crate::batch::input::source::{Source, SourceError};
use crate::batch::ledger::LedgerError;
use crate::batch::progress::Progress;
use crate::batch::record::Origin;
use crate::batch::render::Renderer;

pub use self::writing::Sink;
pub(in crate::batch) use self::writing::unix_ms;

/// Lines under way where results come as they come: also how far is looked ahead.
const MAX_LINES: usize = 1024;
/// Lines under way where results wait for their turn: fewer, since what waits is lost by a kill.
const MAX_LINES_ORDERED: usize = 512;
/// Their bytes.
const MAX_BYTES: usize = 64 << 20;
/// Messages between two stages.
const CHANNEL: usize = 64;
/// Fewer, since who goes next is decided as late as possible.
const CHANNEL_TO_ENGINE: usize = 8;

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    /// The lines.
    pub source: Source,
    /// Which of them.
    pub shard: Shard,
    /// How prompts are rendered.
    pub renderer: Renderer,
    /// What holds where a line asks for nothing else.
    pub defaults: Defaults,
    /// What all records have in common.
    pub origin: Origin,
    /// How results look, and in which order.
    pub form: OutputShape,
}

/// How results look, and in which order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputShape {
    /// Texts alone, not records.
    pub is_text: bool,
    /// In the order of the lines, not as they are done.
    pub is_ordered: bool,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ended {
    /// The last figures.
    pub progress: Progress,
    /// Whether it was asked to stop.
    pub is_interrupted: bool,
    /// Answers that are not kept: broken off by that, or made before those that come before them in the output.
    pub n_lost: usize,
}

/// Why a job ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The input cannot be read to its end.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Output or journal cannot be written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A stream that results go to failed.
    #[error("cannot write the output: {0}")]
    Stream(io::Error),
    /// The engine ended.
    #[error("{0}")]
    Engine(String),
    /// A thread cannot be started.
    #[error("cannot start: {0}")]
    Thread(io::Error),
}

/// Who looks on.
pub trait Watcher {
    /// How it goes, several times a second.
    fn progress(&mut self, progress: &Progress);

    /// A line failed.
    fn failed(&mut self, number: u64, refusal: &Refusal);

    /// A line has an answer, and the user should know something of it.
    fn doubtful(&mut self, number: u64, doubt: Doubt) {
        self.notice(&format!("line {number}: {doubt}"));
    }

    /// The user should know this.
    fn notice(&mut self, text: &str);
}

/// What can be wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// It is not whole, and nobody asked for that.
    #[error("the answer was cut off: the context of {n_ctx} tokens is full; hint: use a larger -c")]
    ContextFull {
        /// The positions it had.
        n_ctx: usize,
    },
    /// The same, where there was neither a limit nor a size of the context.
    #[error(
        "the answer was cut off: without max_tokens, -n and -c, an answer has at most {n_tokens} tokens; hint: use -n"
    )]
    DefaultLimit {
        /// The tokens it has.
        n_tokens: usize,
    },
    /// There is no content.
    #[error("the answer ended within the model's thinking, so it is empty; hint: use a larger -n or max_tokens")]
    ThinkingOnly,
}

/// A line on its way.
#[derive(Clone, Debug)]
struct Ticket {
    /// Its place among the lines of this run.
    place: u64,
    /// Its place in the input.
    index: u64,
    /// The number that an editor shows.
    number: u64,
    n_bytes: usize,
    custom_id: Option<String>,
    endpoint: Endpoint,
    wants_logprobs: bool,
    /// The seed of its draws, once that is known.
    seed: Option<u32>,
    /// It was at work when the process crashed.
    is_suspect: bool,
    /// Whether the prompt opens the model's thinking; `None` where the answer is not taken apart.
    is_thinking_open: Option<bool>,
}

/// A line that was read.
struct Parsed {
    ticket: Ticket,
    ask: Result<(Prompt, Parameters), Refusal>,
}

/// A line for the engine.
struct Ready {
    ticket: Ticket,
    request: Request,
}

/// What the last stage is told.
enum Told {
    Settled(Ticket, Result<Answer, Refusal>),
    Notice(String),
    Progress(engine::Progress),
}

/// Does a job, or what is left of it. The engine is dropped when it is done. `interrupt` ends it in time.
///
/// # Errors
/// See [`BatchError`]; what was done until then is kept.
pub fn run(
    plan: Plan,
    engine: Box<dyn Engine + '_>,
    sink: Sink<'_>,
    interrupt: &AtomicBool,
    watcher: &mut dyn Watcher,
) -> Result<Ended, BatchError> {
    let Plan { source, shard, renderer, defaults, origin, form } = plan;
    let gauge = InFlight::new(if form.is_ordered { MAX_LINES_ORDERED } else { MAX_LINES }, MAX_BYTES);
    let (to_renderer, parsed) = bounded(CHANNEL);
    let (to_engine, ready) = bounded(CHANNEL_TO_ENGINE);
    let (to_writer, told) = bounded(CHANNEL);
    let done = sink.journal().cloned();
    let log = sink.engine_log();
    let writer = writing::Writer::new(sink, origin, form, shard, &gauge, source.n_lines());
    thread::scope(|scope| {
        let start = |name: &str| thread::Builder::new().name(name.to_owned());
        let refused = to_writer.clone();
        let (gauge, renderer, defaults) = (&gauge, &renderer, &defaults);
        let reader = start("batch-read")
            .spawn_scoped(scope, move || reading::read(source, shard, done.as_ref(), gauge, &to_renderer))
            .map_err(BatchError::Thread)?;
        start("batch-render")
            .spawn_scoped(scope, move || reading::render(renderer, defaults, &parsed, &to_engine, &refused))
            .map_err(BatchError::Thread)?;
        let driver = start("batch-engine")
            .spawn_scoped(scope, move || {
                let driven = driver::drive(engine, log.as_ref(), &ready, &to_writer, interrupt);
                gauge.close();
                driven
            })
            .map_err(BatchError::Thread)?;
        let written = writer.write(told, watcher);
        // Nothing leaves any more: whoever waits for room must not wait for ever.
        gauge.close();
        let driven = driver.join().expect("it does not panic");
        let read = reader.join().expect("it does not panic");
        let (progress, n_unwritten) = written?;
        let driver::Driven { is_interrupted, n_broken_off } = driven?;
        read?;
        Ok(Ended { progress, is_interrupted, n_lost: n_broken_off + n_unwritten })
    })
}
