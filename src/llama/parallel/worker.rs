//! A thread that owns a model and decodes many requests at a time: a freed slot takes the next request at once.
//!
//! It tells every emitted token with the likeliest of its row, and does nothing else with them: no text, no stop
//! strings.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam::channel::{Receiver, TryRecvError};

use crate::accept::Sampler;
use crate::chat::template::Segment;
use crate::draft::table::Successor;
use crate::draft::top::TopK;
use crate::llama::model::Model;
use crate::llama::parallel::Parallel;
use crate::llama::sampler::{Sampling, sampler};
use crate::llama::session::SessionConfig;
use crate::llama::thread::{EngineThread, Outbox};
use crate::llama::worker::{Failure, Loaded, StopType, WorkerConfig};
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
    /// Why it is the last one, if it is.
    pub end: Option<StopType>,
}

/// What a worker tells.
#[derive(Debug)]
pub enum Event {
    /// Share of the model loaded, in 0 ..= 1.
    Loading(f32),
    /// The model is ready for requests.
    Loaded(Box<Loaded>),
    /// A request has its slot; this is its prompt.
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
    /// One token for each text at work.
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
    pub fn try_submit(&self, request: Request) -> Result<(), Request> {
        self.thread.try_submit(request)
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
    let n_ctx = config.n_ctx.min(model.n_ctx_train());
    let context = SessionConfig::new(n_ctx, config.engine.settings.at(n_ctx));
    let parallel = Parallel::new(&model, &context, config.n_slots)?;
    outbox.send(Event::Loaded(Box::new(Loaded::of(&model))));
    let texts = (0..config.n_slots).map(|_| None).collect();
    let mut crowd = Crowd { model: &model, parallel, n_ctx, n_top: config.n_top, top: TopK::default(), texts, outbox };
    while crowd.take_requests(requests)? {
        crowd.step()?;
    }
    Ok(())
}

/// A text at work.
struct Text {
    id: u64,
    sampler: Box<dyn Sampler>,
    /// The last token, not yet decoded.
    last: Token,
    /// Tokens that may still come.
    n_left: usize,
    /// Why no more than that.
    limit: StopType,
}

/// All texts at work.
struct Crowd<'a> {
    model: &'a Model,
    parallel: Parallel<'a>,
    /// Positions of a text: the context may be rounded up beyond what the model knows.
    n_ctx: usize,
    n_top: usize,
    top: TopK,
    /// Per slot.
    texts: Vec<Option<Text>>,
    outbox: &'a Outbox<Event>,
}

impl Crowd<'_> {
    /// Fills free slots with waiting requests; waits for one where there is nothing else to do. False at the end of
    /// all requests.
    fn take_requests(&mut self, requests: &Receiver<Request>) -> Result<bool, Failure> {
        while let Some(slot) = self.texts.iter().position(Option::is_none) {
            let is_idle = self.texts.iter().all(Option::is_none);
            let request = match requests.try_recv() {
                Ok(request) => request,
                Err(TryRecvError::Empty) if is_idle => match requests.recv() {
                    Ok(request) => request,
                    Err(_) => return Ok(false),
                },
                Err(TryRecvError::Disconnected) if is_idle => return Ok(false),
                Err(_) => break,
            };
            self.begin(slot, request)?;
        }
        Ok(true)
    }

    fn begin(&mut self, slot: usize, request: Request) -> Result<(), Failure> {
        let prompt = self.model.tokenize(&request.prompt);
        let (n_prompt, n_ctx) = (prompt.len(), self.n_ctx);
        let refused = |failure| Event::Refused { id: request.id, failure };
        let Some((&last, before)) = prompt.split_last() else {
            self.outbox.send(refused(Failure::EmptyPrompt));
            return Ok(());
        };
        if n_prompt >= n_ctx {
            let n_ctx_train = self.model.n_ctx_train();
            self.outbox.send(refused(Failure::PromptTooLong { n_prompt, n_ctx, n_ctx_train }));
            return Ok(());
        }
        let outbox = self.outbox;
        self.parallel.fill(slot, before, &mut |_, _| outbox.go_on())?;
        let room = n_ctx - n_prompt;
        self.texts[slot] = Some(Text {
            id: request.id,
            sampler: sampler(&request.sampling, self.model, &prompt),
            last,
            n_left: request.max_tokens.clamp(1, room),
            limit: if request.max_tokens <= room { StopType::Limit } else { StopType::Context },
        });
        self.outbox.send(Event::Begun { id: request.id, prompt });
        Ok(())
    }

    /// One token for every text at work.
    fn step(&mut self) -> Result<(), Failure> {
        if self.outbox.is_interrupted() {
            return Err(TargetError::Interrupted.into());
        }
        let at_work = self.texts.iter().enumerate().filter_map(|(slot, text)| Some((slot, text.as_ref()?.last)));
        let rows: Vec<(usize, Token)> = at_work.collect();
        self.parallel.step(&rows)?;
        let mut emitted = Vec::with_capacity(rows.len());
        for (row, &(slot, _)) in rows.iter().enumerate() {
            let logits = self.parallel.logits(row);
            let text = self.texts[slot].as_mut().expect("it is at work");
            let token = text.sampler.sample(logits)?;
            let top = self.top.of(logits, self.n_top).to_vec();
            text.last = token;
            text.n_left -= 1;
            let end = match text.n_left {
                _ if self.model.is_end(token) => Some(StopType::Eos),
                0 => Some(text.limit.clone()),
                _ => None,
            };
            emitted.push(Emitted { id: text.id, token, top, end: end.clone() });
            if end.is_some() {
                self.texts[slot] = None;
                self.parallel.empty(slot);
            }
        }
        self.outbox.send(Event::Step(emitted));
        Ok(())
    }
}
