//! Runs a batch job as a pipeline of stages, each on its own thread, connected by bounded channels:
//!
//! ```text
//! read + parse ─► render, look ahead ─► engine ─► write, sync
//!        └───────────────┴── refused lines ────────▲
//! ```
//!
//! [`InFlight`] bounds the number and bytes of the lines between input and output, so memory does not grow with the
//! input. A stage that ends drops its channels, which ends its neighbours; only the lines in flight are lost.

mod driver;
mod reading;
mod writing;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use crossbeam::channel::bounded;

use crate::engine::{self, Answer, Engine, Request};
use crate::in_flight::InFlight;
use crate::input::parameters::{Defaults, Parameters};
use crate::input::request::{Endpoint, Prompt};
use crate::input::shard::Shard;
use crate::input::source::{Source, SourceError};
use crate::ledger::LedgerError;
use crate::progress::Progress;
use crate::record::Origin;
use crate::refuse::Refusal;
use crate::render::Renderer;

pub use self::writing::Sink;
pub(crate) use self::writing::unix_ms;

/// Most lines in flight if results are written in completion order; also the look-ahead.
const MAX_LINES: usize = 1024;
/// Most lines in flight if results are written in input order. Fewer, because a kill loses the results that wait for
/// their turn.
const MAX_LINES_ORDERED: usize = 512;
/// Most bytes of lines in flight.
const MAX_BYTES: usize = 64 << 20;
/// Capacity of a channel between two stages.
const CHANNEL: usize = 64;
/// Capacity of the channel to the engine: small, to choose the next request as late as possible.
const CHANNEL_TO_ENGINE: usize = 8;

/// What a pipeline runs.
#[derive(Debug)]
pub struct Plan {
    /// The input.
    pub source: Source,
    /// The lines of it to answer.
    pub shard: Shard,
    /// Renders prompts.
    pub renderer: Arc<Renderer>,
    /// Parameters for lines that set none of their own.
    pub defaults: Defaults,
    /// What all records share.
    pub origin: Origin,
    /// Form and order of the results.
    pub form: OutputShape,
    /// Set when the results are no longer wanted, because another process has taken over the shard. The lines in the
    /// engine are still answered, so that the engine can do another shard.
    pub abandoned: Arc<AtomicBool>,
}

/// Form and order of the results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputShape {
    /// Write plain text instead of JSON records.
    pub is_text: bool,
    /// Write results in input order instead of completion order.
    pub is_ordered: bool,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ended {
    /// The final counts.
    pub progress: Progress,
    /// Whether it was interrupted or abandoned.
    pub is_interrupted: bool,
    /// Answers lost by the interrupt: unfinished ones, and finished ones that could not be written before earlier
    /// lines.
    pub n_lost: usize,
}

/// Why a job failed.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The input cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The output or the journal cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The output stream cannot be written.
    #[error("cannot write the output: {0}")]
    Stream(io::Error),
    /// The engine failed.
    #[error("{0}")]
    Engine(String),
    /// A thread cannot be started.
    #[error("cannot start: {0}")]
    Thread(io::Error),
}

/// Receives the progress and problems of a running job.
pub trait Watcher {
    /// Called with the progress several times a second.
    fn progress(&mut self, progress: &Progress);

    /// A line failed.
    fn failed(&mut self, number: u64, refusal: &Refusal);

    /// A line was answered, but the answer has a problem.
    fn doubtful(&mut self, number: u64, doubt: Doubt) {
        self.notice(&format!("line {number}: {doubt}"));
    }

    /// A message for the user.
    fn notice(&mut self, text: &str);
}

/// A problem with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// The answer was cut off because the context is full.
    #[error("the answer was cut off: the context of {n_ctx} tokens is full; hint: use a larger -c")]
    ContextFull {
        /// Context size for this text, in tokens.
        n_ctx: usize,
    },
    /// The answer was cut off at the engine's default limit, because neither a token limit nor a context size was set.
    #[error(
        "the answer was cut off: without max_tokens, -n and -c, an answer has at most {n_tokens} tokens; hint: use -n"
    )]
    DefaultLimit {
        /// Tokens of the answer.
        n_tokens: usize,
    },
    /// The answer has only thinking and no content.
    #[error("the answer ended within the model's thinking, so it is empty; hint: use a larger -n or max_tokens")]
    ThinkingOnly,
}

/// A line in flight, without its prompt.
#[derive(Clone, Debug)]
struct Ticket {
    /// Position among the lines of this run.
    place: u64,
    /// Position among all lines of the input.
    index: u64,
    /// Line number as an editor shows it.
    number: u64,
    n_bytes: usize,
    custom_id: Option<String>,
    endpoint: Endpoint,
    wants_logprobs: bool,
    /// The seed for sampling, set once the request is rendered.
    seed: Option<u32>,
    /// Whether the engine was decoding it when the process crashed.
    is_suspect: bool,
    /// Whether the prompt has opened the thinking block; `None` if the answer is not split.
    is_thinking_open: Option<bool>,
}

/// A parsed line.
struct Parsed {
    ticket: Ticket,
    ask: Result<(Prompt, Parameters), Refusal>,
}

/// A line ready for the engine.
struct Ready {
    ticket: Ticket,
    request: Request,
}

/// A message to the writer.
enum WriterMessage {
    Settled(Ticket, Box<Result<Answer, Refusal>>),
    Notice(String),
    Progress(engine::Progress),
}

/// Runs a job, or what is left of it, and drops the engine at the end. Setting `interrupt` stops it early.
///
/// # Errors
/// See [`BatchError`]. The results written before the error are kept.
pub fn run(
    plan: Plan,
    engine: Box<dyn Engine + '_>,
    sink: Sink<'_>,
    interrupt: &AtomicBool,
    watcher: &mut dyn Watcher,
) -> Result<Ended, BatchError> {
    let Plan { source, shard, renderer, defaults, origin, form, abandoned } = plan;
    let in_flight = InFlight::new(if form.is_ordered { MAX_LINES_ORDERED } else { MAX_LINES }, MAX_BYTES);
    let (to_renderer, parsed) = bounded(CHANNEL);
    let (to_engine, ready) = bounded(CHANNEL_TO_ENGINE);
    let (to_writer, told) = bounded(CHANNEL);
    let done = sink.journal().cloned();
    let log = sink.engine_log();
    let writer = writing::Writer::new(sink, origin, form, shard, &in_flight, source.n_lines());
    thread::scope(|scope| {
        let start = |name: &str| thread::Builder::new().name(name.to_owned());
        let refused = to_writer.clone();
        let (in_flight, renderer, defaults, abandoned) = (&in_flight, &*renderer, &defaults, &*abandoned);
        let reader = start("batch-read")
            .spawn_scoped(scope, move || reading::read(source, shard, done.as_ref(), in_flight, &to_renderer))
            .map_err(BatchError::Thread)?;
        start("batch-render")
            .spawn_scoped(scope, move || reading::render(renderer, defaults, &parsed, &to_engine, &refused))
            .map_err(BatchError::Thread)?;
        let driver = start("batch-engine")
            .spawn_scoped(scope, move || {
                let driven = driver::drive(engine, log.as_ref(), &ready, &to_writer, [interrupt, abandoned]);
                in_flight.close();
                driven
            })
            .map_err(BatchError::Thread)?;
        let written = writer.write(told, watcher);
        // The writer has ended, so no room is freed any more: wake the reader if it waits for some.
        in_flight.close();
        let driven = driver.join().expect("it does not panic");
        let read = reader.join().expect("it does not panic");
        let (progress, n_unwritten) = written?;
        let driver::Driven { is_interrupted, n_broken_off } = driven?;
        read?;
        Ok(Ended { progress, is_interrupted, n_lost: n_broken_off + n_unwritten })
    })
}
