//! The engine of a batch: a thread that owns a model and answers many [`Request`]s at a time, as a
//! [`batch::engine::Engine`](crate::batch::engine::Engine).
//!
//! ```text
//! requests ──► prepare: tokens, limits, sampler ──► a free lane ──► Batcher::step ──► answering: text, stop ──► events
//!                 └ refused: told at once            └ none: they wait, the channel fills, `try_submit` gives back
//! ```
//!
//! [`start`] waits until the model is loaded and tells what is needed to make prompts; from then on requests flow. A
//! request that cannot be answered is refused and the others go on; what ends the engine is an interrupt, an engine that
//! is dropped, or a failure of the model itself. Lines, files and results are none of its business.

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
use crate::llama::parallel::Parallel;
use crate::llama::sampler::sampler;
use crate::llama::session::SessionConfig;
use crate::llama::structured::Former;
use crate::llama::thread::{EngineThread, Outbox};
use crate::llama::worker::drafters::Drafters;
use crate::llama::worker::{Failure, Loaded, Notice, WallClock, WorkerConfig};
use crate::store::prompt_cache::PromptCacheConfig;
use crate::target::TargetError;
use crate::text::TextAssembler;
use crate::token::Token;

/// Requests that wait for the engine to look at them.
const N_WAITING: usize = 64;

/// Requests that are prepared and wait for a lane.
const N_READY: usize = 64;

/// Longest answer where neither a request nor the context gives a length.
const DEFAULT_MAX_TOKENS: usize = 2048;

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// How often an engine that has nothing to do looks at the interrupt, and how long one with few requests waits for more
/// before it begins.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What an engine is made of.
#[derive(Clone, Debug)]
pub struct BatchEngineConfig {
    /// The model and the machine.
    pub engine: WorkerConfig,
    /// Texts at a time, 1 to [`MAX_LANES`](crate::llama::parallel::MAX_LANES); `None` is as many as pay and fit.
    pub n_parallel: Option<usize>,
    /// Positions of each text; `None` is as many as the requests need.
    pub n_ctx: Option<usize>,
    /// Whether anything is drafted; it is where it pays.
    pub drafts: bool,
    /// Where a beginning that lines have in common is kept; `None` neither reads nor writes there.
    pub prompt_cache: Option<PromptCacheConfig>,
}

/// What an engine tells before it takes requests.
#[derive(Debug)]
pub enum Startup {
    /// Share of the model loaded, in 0 ..= 1.
    Loading(f32),
    /// What rows cost is being measured.
    Measuring,
    /// Something the user should know.
    Notice(Notice),
}

/// What the thread tells.
#[derive(Debug)]
enum Told {
    Startup(Startup),
    Loaded(Box<Loaded>),
    Event(Event),
    Failed(Failure),
}

/// A running engine. Dropping it breaks off the work at hand and waits for the thread.
#[derive(Debug)]
pub struct BatchEngine {
    thread: EngineThread<Request, Told>,
}

/// Starts an engine and waits until its model is loaded; `see` is told how that goes. `interrupt` ends the engine when
/// it becomes true, now or later: [`Engine::next_event`] says so.
///
/// # Errors
/// When the model cannot be loaded, or the interrupt came first.
pub fn start(
    config: BatchEngineConfig,
    interrupt: Arc<AtomicBool>,
    see: &mut dyn FnMut(Startup),
) -> Result<(BatchEngine, Loaded), Failure> {
    let work = move |requests: &Receiver<Request>, outbox: &Outbox<Told>| {
        if let Err(failure) = work(&config, requests, outbox) {
            outbox.send(Told::Failed(failure));
        }
    };
    let engine_error = |reason: String| Failure::Target(TargetError::Engine(reason));
    let thread = EngineThread::spawn(N_WAITING, interrupt, work);
    let thread = thread.map_err(|error| engine_error(format!("cannot start the engine's thread: {error}")))?;
    loop {
        match thread.next_event() {
            Some(Told::Startup(startup)) => see(startup),
            Some(Told::Loaded(loaded)) => return Ok((BatchEngine { thread }, *loaded)),
            Some(Told::Failed(failure)) => return Err(failure),
            Some(Told::Event(_)) | None => return Err(engine_error("the engine stopped while loading".to_owned())),
        }
    }
}

impl BatchEngine {
    /// The next event: it waits.
    ///
    /// # Errors
    /// Why the engine ended.
    pub fn next(&self) -> Result<Event, Failure> {
        match self.thread.next_event() {
            Some(Told::Event(event)) => Ok(event),
            Some(Told::Failed(failure)) => Err(failure),
            Some(Told::Startup(_) | Told::Loaded(_)) | None => {
                Err(TargetError::Engine("the engine stopped".to_owned()).into())
            }
        }
    }
}

impl Engine for BatchEngine {
    fn try_submit(&self, request: Request) -> Result<(), Box<Request>> {
        self.thread.try_submit(request).map_err(Box::new)
    }

    fn next_event(&self) -> Result<Event, String> {
        self.next().map_err(|failure| failure.to_string())
    }
}

fn work(config: &BatchEngineConfig, requests: &Receiver<Request>, outbox: &Outbox<Told>) -> Result<(), Failure> {
    let loading = outbox.clone();
    let model = Rc::new(Model::load(&config.engine.model, move |share| {
        loading.send(Told::Startup(Startup::Loading(share)));
        !loading.is_interrupted()
    })?);
    let (drafters, notice) = Drafters::new(config.engine.drafters.clone());
    notice.into_iter().for_each(|notice| outbox.send(Told::Startup(Startup::Notice(notice))));
    let capacity = Capacity { model: &model, config, outbox };
    let mut settings = config.engine.settings.at(config.n_ctx.unwrap_or(0));
    if exact::is_demanded() {
        // Before the first request is taken.
        capacity.try_out(settings)?;
    }
    let mut curve = capacity.curve(settings)?;
    outbox.send(Told::Loaded(Box::new(Loaded::of(&model))));
    let mut desk = Desk {
        model: &model,
        capacity,
        n_available: None,
        former: Former::new(model.clone()),
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
    let mut n_ctx = config.n_ctx.map_or(0, |_| desk.longest);
    while desk.wait()? {
        n_ctx = desk.ready.iter().map(|ready| ready.n_needed).fold(n_ctx, usize::max);
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
            desk.notice(&notice);
            None
        });
        let batcher = Batcher::new(target, schedule);
        let drafting = config.drafts && !model.is_recurrent();
        let batcher = if drafting { batcher.with_drafting(drafters.make_for_batch(n_lanes)) } else { batcher };
        desk.answer(batcher, shared_prefixes)?;
    }
    Ok(())
}

/// A request that waits for a lane.
struct Ready {
    text: Text,
    answering: Answering,
    /// Positions that it may come to need.
    n_needed: usize,
}

/// Where requests come in and answers go out.
struct Desk<'a> {
    model: &'a Model,
    capacity: Capacity<'a>,
    /// Memory that there was before there were lanes, where that is to be looked at.
    n_available: Option<u64>,
    former: Former,
    /// Positions that a text can have.
    longest: usize,
    /// Tokens of an answer where a request does not say.
    most_tokens: usize,
    requests: &'a Receiver<Request>,
    ready: VecDeque<Ready>,
    /// By the number under which the batcher knows them.
    answering: BTreeMap<u64, Answering>,
    n_prepared: u64,
    /// What batchers before this one did.
    done: Progress,
    /// Kept for its memory.
    top: TopK,
    outbox: &'a Outbox<Told>,
}

impl Desk<'_> {
    /// Waits until a request is ready, and takes in what else has come. False at the end of all requests.
    fn wait(&mut self) -> Result<bool, Failure> {
        self.n_available = self.capacity.n_available();
        while self.ready.len() < N_READY {
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

    /// Answers requests until there are no more, or the next one needs a larger context.
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
            while self.ready.len() < N_READY
                && let Ok(request) = self.requests.try_recv()
            {
                self.prepare(request);
            }
            while batcher.has_lane() && self.ready.front().is_some_and(|ready| ready.n_needed <= n_ctx) {
                let Some(ready) = self.ready.pop_front() else { break };
                self.answering.insert(ready.text.id, ready.answering.placed());
                batcher.admit(ready.text);
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

    /// Tells whether a text has left its lane.
    fn step(&mut self, batcher: &mut Batcher<Parallel<'_>>, clock: &WallClock) -> Result<bool, Failure> {
        let (model, outbox, answering, top) = (self.model, self.outbox, &mut self.answering, &mut self.top);
        let ended = batcher.step(clock, &mut |said| {
            let answering = answering.get_mut(&said.id).expect("every text at work is being answered");
            if answering.is_new() {
                outbox.send(Told::Event(Event::Begun { id: answering.id() }));
            }
            if let Some(n_top) = answering.n_top() {
                let top = top.of(said.logits, n_top).to_vec();
                let emitted = Emitted { id: answering.id(), token: said.token, top };
                outbox.send(Told::Event(Event::Token(emitted)));
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

    /// Makes a request ready, or refuses it.
    fn prepare(&mut self, request: Request) {
        let id = request.id;
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
        // Of the request alone, not of the lane it happens to get.
        let max_tokens = request.max_tokens.unwrap_or(self.most_tokens).clamp(1, n_ctx - n_prompt);
        if let Some(lack) = self.n_available.and_then(|n| self.capacity.lack(n_prompt, max_tokens, n)) {
            return Err(refusal("not_enough_memory", lack));
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
                let held = self.former.held(constraint, &request.sampling, &prompt);
                let (sampler, form) = held.map_err(|error| refusal("invalid_grammar", error.to_string()))?;
                (sampler, Some(form))
            }
        };
        // Whoever asked for fewer tokens expects the answer to end there.
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

    /// The tokens of a prompt, or those of the first shorter one that leaves room for the answer.
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
            let text = format!("the messages do not fit into the context: the oldest {n_left_out} are left out");
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
        self.outbox.send(Told::Event(event));
    }

    fn check_interrupt(&self) -> Result<(), Failure> {
        if self.outbox.is_interrupted() { Err(TargetError::Interrupted.into()) } else { Ok(()) }
    }
}
