//! The batch engine: a thread that owns a model and answers many [`Request`]s at once, as a
//! [`batch::engine::Engine`](crate::batch::engine::Engine).
//!
//! ```text
//! requests ──► prepare: tokens, limits, sampler ──► a free lane ──► Batcher::step ──► answering: text, stop ──► events
//!                 └ invalid: refused at once         └ no lane: wait; when the channel is full, `try_submit` returns it
//! ```
//!
//! [`start`] loads the model and returns what callers need to build prompts; then the engine takes requests. It refuses
//! a request that it cannot answer and continues with the others. It ends on an interrupt, when it is dropped, or when
//! the model fails. It knows nothing of input lines, files and results.

mod answering;
mod capacity;
mod shared_prefixes;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};

use crate::batch::engine::{Emitted, End, Engine, Event, Progress, Refusal, Request};
use crate::batching::schedule::BatchSchedule;
use crate::batching::{Batcher, Text};
use crate::chat::overflow::Budget;
use crate::draft::top::TopK;
use crate::llama::batching::answering::Answering;
use crate::llama::batching::capacity::Capacity;
use crate::llama::batching::shared_prefixes::SharedPrefixes;
use crate::llama::exact;
use crate::llama::model::Model;
use crate::llama::parallel::{MAX_LANES, Parallel};
use crate::llama::sampler::sampler;
use crate::llama::session::SessionConfig;
use crate::llama::structured::Constrainer;
use crate::llama::thread::{EngineThread, Outbox};
use crate::llama::worker::drafters::Drafters;
use crate::llama::worker::{Failure, Loaded, Notice, WallClock, WorkerConfig};
use crate::store::prompt_cache::PromptCacheConfig;
use crate::target::TargetError;
use crate::text::TextAssembler;
use crate::token::Token;

/// Capacity of the request channel.
const N_WAITING: usize = 4;

/// Most prepared requests that wait for a lane.
const N_READY: usize = 64;

/// Longest answer if neither the request nor the context limits it.
const DEFAULT_MAX_TOKENS: usize = 2048;

/// Time between two progress events.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// How often an idle engine checks the interrupt, and how long it waits for further requests before it starts.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Configuration of a batch engine.
#[derive(Clone, Debug)]
pub struct BatchEngineConfig {
    /// The model and the machine's settings.
    pub engine: WorkerConfig,
    /// Number of lanes, 1 to [`MAX_LANES`](crate::llama::parallel::MAX_LANES); `None`: as many as pay off and fit into
    /// memory.
    pub n_parallel: Option<usize>,
    /// Positions of each text; `None`: as many as the requests need.
    pub n_ctx: Option<usize>,
    /// Whether to draft where it pays off.
    pub drafts: bool,
    /// Where the prefix that lines share is cached; `None`: do not read or write the cache.
    pub prompt_cache: Option<PromptCacheConfig>,
}

/// Events before the engine takes requests.
#[derive(Debug)]
pub enum Startup {
    /// Fraction of the model loaded, from 0 to 1.
    Loading(f32),
    /// The cost curve is being measured.
    Measuring,
    /// A notice for the user.
    Notice(Notice),
}

/// Messages of the engine thread.
#[derive(Debug)]
enum Message {
    Startup(Startup),
    Loaded(Box<Loaded>),
    Event(Event),
    Failed(Failure),
}

/// A running engine. Dropping it interrupts the current work and waits for the thread.
#[derive(Debug)]
pub struct BatchEngine {
    thread: EngineThread<Request, Message>,
}

/// Starts an engine and waits until its model is loaded; `see` receives the events until then. Setting `interrupt` ends
/// the engine at any time, and [`Engine::next_event`] returns the error.
///
/// # Errors
/// If the model cannot be loaded, or on an interrupt.
pub fn start(
    config: BatchEngineConfig,
    interrupt: Arc<AtomicBool>,
    see: &mut dyn FnMut(Startup),
) -> Result<(BatchEngine, Loaded), Failure> {
    let work = move |requests: &Receiver<Request>, outbox: &Outbox<Message>| {
        if let Err(failure) = work(&config, requests, outbox) {
            outbox.send(Message::Failed(failure));
        }
    };
    let engine_error = |reason: String| Failure::Target(TargetError::Engine(reason));
    let thread = EngineThread::spawn(N_WAITING, interrupt, work);
    let thread = thread.map_err(|error| engine_error(format!("cannot start the engine's thread: {error}")))?;
    loop {
        match thread.next_event() {
            Some(Message::Startup(startup)) => see(startup),
            Some(Message::Loaded(loaded)) => return Ok((BatchEngine { thread }, *loaded)),
            Some(Message::Failed(failure)) => return Err(failure),
            Some(Message::Event(_)) | None => return Err(engine_error("the engine stopped while loading".to_owned())),
        }
    }
}

impl BatchEngine {
    /// Waits for the next event.
    ///
    /// # Errors
    /// The reason the engine ended.
    pub fn next(&self) -> Result<Event, Failure> {
        match self.thread.next_event() {
            Some(Message::Event(event)) => Ok(event),
            Some(Message::Failed(failure)) => Err(failure),
            Some(Message::Startup(_) | Message::Loaded(_)) | None => {
                Err(TargetError::Engine("the engine stopped".to_owned()).into())
            }
        }
    }
}

impl Engine for BatchEngine {
    fn has_room(&self) -> bool {
        self.thread.has_room()
    }

    fn try_submit(&self, request: Request) -> Result<(), Box<Request>> {
        self.thread.try_submit(request).map_err(Box::new)
    }

    fn next_event(&self) -> Result<Event, String> {
        self.next().map_err(|failure| failure.to_string())
    }
}

fn work(config: &BatchEngineConfig, requests: &Receiver<Request>, outbox: &Outbox<Message>) -> Result<(), Failure> {
    let loading = outbox.clone();
    let model = Rc::new(Model::load(&config.engine.model, move |share| {
        loading.send(Message::Startup(Startup::Loading(share)));
        !loading.is_interrupted()
    })?);
    let (drafters, notice) = Drafters::new(config.engine.drafters.clone());
    notice.into_iter().for_each(|notice| outbox.send(Message::Startup(Startup::Notice(notice))));
    let capacity = Capacity { model: &model, config, outbox };
    let mut settings = config.engine.settings.at(config.n_ctx.unwrap_or(0));
    if exact::is_demanded() {
        // Fail before the first request is taken.
        capacity.try_out(settings)?;
    }
    let mut curve = capacity.curve(settings)?;
    outbox.send(Message::Loaded(Box::new(Loaded::of(&model))));
    let mut batch_loop = BatchLoop {
        model: &model,
        capacity,
        n_available: None,
        constrainer: Constrainer::new(model.clone()),
        longest: config.n_ctx.unwrap_or_else(|| model.n_ctx_train()),
        most_tokens: config.n_ctx.map_or(DEFAULT_MAX_TOKENS, |_| usize::MAX),
        requests,
        ready: VecDeque::new(),
        answering: BTreeMap::new(),
        n_prepared: 0,
        done: Progress::default(),
        top: TopK::default(),
        outbox,
    };
    let mut n_ctx = config.n_ctx.map_or(0, |_| batch_loop.longest);
    while batch_loop.wait()? {
        n_ctx = batch_loop.ready.iter().map(|ready| ready.n_needed).fold(n_ctx, usize::max);
        if settings != config.engine.settings.at(n_ctx) {
            settings = config.engine.settings.at(n_ctx);
            if exact::is_demanded() {
                capacity.try_out(settings)?;
            }
            curve = capacity.curve(settings)?;
        }
        let n_lanes = capacity.n_lanes(&curve, n_ctx, settings);
        let schedule = BatchSchedule::new(curve.clone());
        let context = SessionConfig::new(n_ctx, settings);
        let target = Parallel::new(&model, &context, n_lanes, schedule.max_rows(n_lanes))?;
        let shared_prefixes = SharedPrefixes::new(config, &model, &context, n_lanes, &curve).unwrap_or_else(|notice| {
            batch_loop.notice(&notice);
            None
        });
        let batcher = Batcher::new(target, schedule);
        let drafting = config.drafts && !model.is_recurrent();
        let batcher = if drafting { batcher.with_drafting(drafters.make_for_batch(n_lanes)) } else { batcher };
        batch_loop.answer(batcher, shared_prefixes)?;
    }
    Ok(())
}

/// A request that is ready for a lane.
struct Ready {
    text: Text,
    answering: Answering,
    /// Most positions it may need.
    n_needed: usize,
}

/// The engine's queues: requests in, events out.
struct BatchLoop<'a> {
    model: &'a Model,
    capacity: Capacity<'a>,
    /// Memory available before the lanes were allocated; `None` without a memory check per text.
    n_available: Option<u64>,
    constrainer: Constrainer,
    /// Most positions of a text.
    longest: usize,
    /// Longest answer if a request does not set `max_tokens`.
    most_tokens: usize,
    requests: &'a Receiver<Request>,
    ready: VecDeque<Ready>,
    /// By the batcher's id of the text.
    answering: BTreeMap<u64, Answering>,
    n_prepared: u64,
    /// Counts of earlier batchers.
    done: Progress,
    /// Reused to avoid allocations.
    top: TopK,
    outbox: &'a Outbox<Message>,
}

impl BatchLoop<'_> {
    /// Waits until a request is ready, and takes those that arrive soon after it. Returns false when there are no more
    /// requests.
    fn wait(&mut self) -> Result<bool, Failure> {
        self.n_available = self.capacity.n_available();
        let n_wanted = self.capacity.config.n_parallel.unwrap_or(MAX_LANES).min(N_READY);
        while self.ready.len() < n_wanted {
            let is_idle = self.ready.is_empty();
            match self.requests.recv_timeout(LOOK_EVERY) {
                Ok(request) => self.prepare(request),
                Err(RecvTimeoutError::Disconnected) => return Ok(!is_idle),
                Err(RecvTimeoutError::Timeout) if !is_idle => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.check_interrupt()?;
        }
        Ok(true)
    }

    /// Answers requests until there are none left, or the next one needs a larger context.
    fn answer(
        &mut self,
        mut batcher: Batcher<Parallel<'_>>,
        mut shared_prefixes: Option<SharedPrefixes<'_>>,
    ) -> Result<(), Failure> {
        let n_ctx = batcher.n_positions();
        let clock = WallClock(Instant::now());
        let mut told = Instant::now();
        if let (Some(shared_prefixes), Some(first), Some(second)) =
            (&mut shared_prefixes, self.ready.front(), self.ready.get(1))
        {
            let notices = shared_prefixes.recall(&mut batcher, &first.text.prompt, &second.text.prompt);
            notices.iter().for_each(|notice| self.notice(notice));
        }
        loop {
            self.check_interrupt()?;
            while batcher.has_lane() {
                match self.ready.pop_front() {
                    Some(ready) if ready.n_needed <= n_ctx => {
                        self.answering.insert(ready.text.id, ready.answering.placed());
                        batcher.admit(ready.text);
                    }
                    Some(too_long) => {
                        self.ready.push_front(too_long);
                        break;
                    }
                    // Requests are prepared only when there is a lane for them: see `Engine::has_room`.
                    None => match self.requests.try_recv() {
                        Ok(request) => self.prepare(request),
                        Err(_) => break,
                    },
                }
            }
            if batcher.n_working() == 0 {
                break;
            }
            if self.step(&mut batcher, &clock)?
                && let Some(shared_prefixes) = &mut shared_prefixes
            {
                shared_prefixes.keep(&mut batcher).unwrap_or_else(|notice| self.notice(&notice));
            }
            if told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                self.tell(Event::Progress(self.progress(&batcher)));
            }
        }
        self.done = self.progress(&batcher);
        self.tell(Event::Progress(self.done));
        Ok(())
    }

    /// Runs one step of the batch. Returns whether a text ended and freed its lane.
    fn step(&mut self, batcher: &mut Batcher<Parallel<'_>>, clock: &WallClock) -> Result<bool, Failure> {
        let (model, outbox, answering, top) = (self.model, self.outbox, &mut self.answering, &mut self.top);
        let ended = batcher.step(clock, &mut |said| {
            let answering = answering.get_mut(&said.id).expect("every text at work is being answered");
            if answering.is_new() {
                outbox.send(Message::Event(Event::Begun { id: answering.id() }));
            }
            if let Some(n_top) = answering.n_top() {
                let top = top.of(said.logits, n_top).to_vec();
                let emitted = Emitted { id: answering.id(), token: said.token, top };
                outbox.send(Message::Event(Event::Token(emitted)));
            }
            answering.take(said, model)
        })?;
        let has_ended = !ended.is_empty();
        for ended in ended {
            if let Some(answering) = self.answering.remove(&ended.id) {
                self.tell(answering.finish(&ended));
            }
        }
        Ok(has_ended)
    }

    /// Queues a request for a lane, or refuses it.
    fn prepare(&mut self, request: Request) {
        let id = request.id;
        self.tell(Event::Taken { id });
        match self.ready(request) {
            Ok(ready) => self.ready.push_back(ready),
            Err(refusal) => self.tell(Event::Refused { id, refusal }),
        }
    }

    fn ready(&mut self, request: Request) -> Result<Ready, Refusal> {
        let refusal = |code: &str, message: String| Refusal { code: code.to_owned(), message };
        let prompt = self.prompt(&request);
        let (n_prompt, n_ctx) = (prompt.len(), self.longest);
        if prompt.is_empty() {
            return Err(refusal("empty_prompt", Failure::EmptyPrompt.to_string()));
        }
        if n_prompt >= n_ctx {
            let failure = Failure::PromptTooLong { n_prompt, n_ctx, n_ctx_train: self.model.n_ctx_train() };
            return Err(refusal("context_length_exceeded", failure.to_string()));
        }
        // Depends on the request alone, not on the lane it happens to get.
        let max_tokens = request.max_tokens.unwrap_or(self.most_tokens).clamp(1, n_ctx - n_prompt);
        if let Some(shortage) = self.n_available.and_then(|n| self.capacity.shortage(n_prompt, max_tokens, n)) {
            return Err(refusal("not_enough_memory", shortage));
        }
        let n_vocab = self.model.n_vocab();
        if let Some(token) = request.sampling.unknown_token(n_vocab) {
            return Err(refusal("invalid_value", TargetError::UnknownToken { token, n_vocab }.to_string()));
        }
        let assembler =
            TextAssembler::new(request.stop.clone()).map_err(|error| refusal("invalid_stop", error.to_string()))?;
        let (sampler, form) = match &request.constraint {
            None => (sampler(&request.sampling, self.model, &prompt), None),
            Some(constraint) => {
                let held = self.constrainer.sampler_and_filter(constraint, &request.sampling, &prompt);
                let (sampler, form) = held.map_err(|error| refusal("invalid_grammar", error.to_string()))?;
                (sampler, Some(form))
            }
        };
        // A limit that the request set itself is a normal end, not a full context.
        let at_limit = match request.max_tokens {
            Some(asked) if asked <= max_tokens => End::Length,
            None if max_tokens == self.most_tokens => End::DefaultLimit,
            _ => End::Context { n_ctx: n_prompt + max_tokens },
        };
        if request.n_top.is_some() {
            self.tell(Event::Prompt { id: request.id, tokens: prompt.clone() });
        }
        let answering = Answering::new(&request, n_prompt, assembler, at_limit);
        self.n_prepared += 1;
        let text = Text { id: self.n_prepared, prompt, max_tokens, sampler, form };
        Ok(Ready { text, answering, n_needed: n_prompt + max_tokens })
    }

    /// Tokenizes the prompt, or the first shorter version of it that leaves room for the answer.
    fn prompt(&self, request: &Request) -> Vec<Token> {
        let budget = Budget::new(self.longest, request.max_tokens);
        let mut prompt = self.model.tokenize(&request.prompt);
        let mut n_left_out = 0;
        for shorter in &request.shorter {
            if prompt.len() <= budget.n_prompt() {
                break;
            }
            (n_left_out, prompt) = (shorter.n_left_out, self.model.tokenize(&shorter.prompt));
        }
        if n_left_out > 0 && prompt.len() < self.longest {
            let text =
                format!("the messages do not fit into the context: the oldest {n_left_out} messages are left out");
            self.tell(Event::Notice { id: Some(request.id), text });
        }
        prompt
    }

    fn progress(&self, batcher: &Batcher<Parallel<'_>>) -> Progress {
        let counts = batcher.counts();
        Progress {
            n_running: batcher.n_working(),
            n_prompt: self.done.n_prompt + counts.n_prompt,
            n_predicted: self.done.n_predicted + counts.n_predicted,
            n_steps: self.done.n_steps + counts.n_steps,
        }
    }

    fn notice(&self, notice: &Notice) {
        self.tell(Event::Notice { id: None, text: notice.to_string() });
    }

    fn tell(&self, event: Event) {
        self.outbox.send(Message::Event(event));
    }

    fn check_interrupt(&self) -> Result<(), Failure> {
        if self.outbox.is_interrupted() { Err(TargetError::Interrupted.into()) } else { Ok(()) }
    }
}
