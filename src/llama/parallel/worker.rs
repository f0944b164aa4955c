//! A thread that owns a model and decodes many requests at a time: a freed slot takes the next request at once.
//!
//! It tells every emitted token with the likeliest of its row, and does nothing else with them: no text, no stop
//! strings.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crossbeam::channel::Receiver;

use crate::chat::template::Segment;
use crate::cost::CostCurve;
use crate::crowd::schedule::CrowdSchedule;
use crate::crowd::{Crowd, End, Text};
use crate::draft::table::Successor;
use crate::draft::top::TopK;
use crate::llama::model::Model;
use crate::llama::parallel::Parallel;
use crate::llama::sampler::{Sampling, sampler};
use crate::llama::session::SessionConfig;
use crate::llama::thread::{EngineThread, Outbox};
use crate::llama::worker::{Failure, Loaded, WallClock, WorkerConfig};
use crate::target::TargetError;
use crate::token::Token;

/// What a worker is made of.
#[derive(Clone, Debug)]
pub struct ParallelConfig {
    /// The model and the machine. Nothing is drafted, so no curve is needed.
    pub engine: WorkerConfig,
    /// Texts at a time, at most [`super::MAX_SLOTS`].
    pub n_slots: usize,
    /// Positions of each text; fewer where the model knows fewer.
    pub n_ctx: usize,
    /// Tokens told of each row.
    pub n_top: usize,
}

/// A text to continue.
#[derive(Clone, Debug)]
pub struct Request {
    /// The caller's name for it.
    pub id: u64,
    /// What comes before.
    pub prompt: Vec<Segment>,
    /// Most tokens to emit; at least one is.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// A token of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Emitted {
    /// The request's.
    pub id: u64,
    /// The token.
    pub token: Token,
    /// The likeliest tokens of its row, with their probabilities at temperature 1.
    pub top: Vec<Successor>,
    /// Whether it ends its text.
    pub is_last: bool,
}

/// What a worker tells.
#[derive(Debug)]
pub enum Event {
    /// Share of the model loaded, in 0 ..= 1.
    Loading(f32),
    /// The model is ready for requests.
    Loaded(Box<Loaded>),
    /// A request has its place; this is its prompt.
    Begun {
        /// The request's.
        id: u64,
        /// All tokens before the first emitted one.
        prompt: Vec<Token>,
    },
    /// A request is not taken.
    Refused {
        /// The request's.
        id: u64,
        /// Empty, or too long for the context.
        failure: Failure,
    },
    /// Tokens of the texts at work.
    Step(Vec<Emitted>),
    /// The end: loading or decoding failed, or was interrupted.
    Failed(Failure),
}

/// A running worker.
#[derive(Debug)]
pub struct ParallelWorker {
    thread: EngineThread<Request, Event>,
}

impl ParallelWorker {
    /// Starts loading the model. `interrupt` breaks off what is going on when it becomes true.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn spawn(config: ParallelConfig, interrupt: Arc<AtomicBool>) -> io::Result<ParallelWorker> {
        let n_slots = config.n_slots;
        let work = move |requests: &Receiver<Request>, outbox: &Outbox<Event>| {
            if let Err(failure) = work(&config, requests, outbox) {
                outbox.send(Event::Failed(failure));
            }
        };
        // One step frees all slots at most.
        Ok(ParallelWorker { thread: EngineThread::spawn(n_slots, interrupt, work)? })
    }

    /// Hands in a request, or gives it back while enough are waiting. Whoever tries again after every event keeps the
    /// slots filled.
    ///
    /// # Errors
    /// The request.
    pub fn try_submit(&self, request: Request) -> Result<(), Box<Request>> {
        self.thread.try_submit(request).map_err(Box::new)
    }

    /// The next event; `None` when the worker is gone.
    #[must_use]
    pub fn next_event(&self) -> Option<Event> {
        self.thread.next_event()
    }
}

fn work(config: &ParallelConfig, requests: &Receiver<Request>, outbox: &Outbox<Event>) -> Result<(), Failure> {
    let loading = outbox.clone();
    let progress = move |share| {
        loading.send(Event::Loading(share));
        !loading.is_interrupted()
    };
    let model = Model::load(&config.engine.model, progress)?;
    let n_ctx = config.n_ctx;
    let context = SessionConfig::new(n_ctx, config.engine.settings.at(n_ctx));
    let schedule = CrowdSchedule::new(CostCurve::default());
    let slots = Parallel::new(&model, &context, config.n_slots, schedule.max_rows(config.n_slots))?;
    outbox.send(Event::Loaded(Box::new(Loaded::of(&model))));
    let mut desk = Desk { model: &model, n_ctx, crowd: Crowd::new(slots, schedule), outbox };
    let clock = WallClock(Instant::now());
    let mut top = TopK::default();
    while desk.take_requests(requests)? {
        desk.step(&clock, &mut top, config.n_top)?;
    }
    Ok(())
}

/// Where requests come in and tokens go out.
struct Desk<'a> {
    model: &'a Model,
    /// Positions of a text: the context may be rounded up beyond what the model knows.
    n_ctx: usize,
    crowd: Crowd<Parallel<'a>>,
    outbox: &'a Outbox<Event>,
}

impl Desk<'_> {
    /// Gives free places to waiting requests; waits for one where there is nothing else to do. False at the end of all
    /// requests.
    fn take_requests(&mut self, requests: &Receiver<Request>) -> Result<bool, Failure> {
        while self.crowd.has_place() {
            let request = match requests.try_recv() {
                Ok(request) => request,
                Err(_) if self.crowd.n_working() > 0 => break,
                Err(_) => match requests.recv() {
                    Ok(request) => request,
                    Err(_) => return Ok(false),
                },
            };
            self.begin(request);
        }
        if self.outbox.is_interrupted() { Err(TargetError::Interrupted.into()) } else { Ok(true) }
    }

    fn begin(&mut self, request: Request) {
        let Request { id, prompt, max_tokens, sampling } = request;
        let prompt = self.model.tokenize(&prompt);
        let (n_prompt, n_ctx) = (prompt.len(), self.n_ctx);
        let n_ctx_train = self.model.n_ctx_train();
        let refused = match n_prompt {
            0 => Some(Failure::EmptyPrompt),
            _ if n_prompt >= n_ctx => Some(Failure::PromptTooLong { n_prompt, n_ctx, n_ctx_train }),
            _ => None,
        };
        if let Some(failure) = refused {
            return self.outbox.send(Event::Refused { id, failure });
        }
        self.outbox.send(Event::Begun { id, prompt: prompt.clone() });
        let sampler = sampler(&sampling, self.model, &prompt);
        self.crowd.admit(Text { id, prompt, max_tokens: max_tokens.clamp(1, n_ctx - n_prompt), sampler, form: None });
    }

    /// Some tokens, one for every text that has read its prompt.
    fn step(&mut self, clock: &WallClock, top: &mut TopK, n_top: usize) -> Result<(), Failure> {
        let mut emitted = Vec::new();
        let ended = self.crowd.step(clock, &mut |said| {
            let top = top.of(said.logits, n_top).to_vec();
            emitted.push(Emitted { id: said.id, token: said.token, top, is_last: false });
            if self.model.is_end(said.token) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        for ended in ended {
            if let End::Failed(error) = ended.end {
                return Err(error.into());
            }
            let last = emitted.iter_mut().rfind(|emitted| emitted.id == ended.id);
            last.expect("a text ends with a token").is_last = true;
        }
        self.outbox.send(Event::Step(emitted));
        Ok(())
    }
}
