//! Decodes many texts at once, each in a lane of one context, with chains.
//!
//! ```text
//! requests ──► prepare: admission, memory, sampler ──► a free lane ──► Batcher::step ──► answering: text, stop ──► events
//!                 └ invalid: refused at once             └ none: requests stay in the channel
//! ```
//!
//! A request that cannot be answered is refused; the others continue. It ends on an interrupt, or when the model fails.

mod answering;
mod capacity;
mod shared_prefixes;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};

use crate::batching::schedule::BatchSchedule;
use crate::batching::{Batcher, Text};
use crate::cost::CostCurve;
use crate::draft::top::TopK;
use crate::engine::admission::{Admitted, admit};
use crate::engine::many_texts::answering::Answering;
use crate::engine::many_texts::capacity::Capacity;
use crate::engine::many_texts::shared_prefixes::SharedPrefixes;
use crate::engine::{Failure, ManyTexts, Message, Parts, Policy, Task, WallClock};
use crate::exact;
use crate::parallel::{MAX_LANES, Parallel};
use crate::sampler::sampler;
use crate::session::SessionConfig;
use crate::target::TargetError;
use crate::tune::Settings;
use chaski_core::engine::{DEFAULT_MAX_TOKENS, Emitted, End, Event, Progress, Request, RequestError};

/// Most prepared requests that wait for a lane.
const N_READY: usize = 64;

/// Time between two progress events.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// How often an idle engine checks the interrupt, and how long it waits for further requests before it starts.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A request that is ready for a lane.
struct Ready {
    text: Text,
    answering: Answering,
    /// Most positions it may need.
    n_needed: usize,
}

/// Decodes many texts at once.
pub(super) struct ManyTextsPolicy<'a> {
    parts: Parts<'a>,
    options: &'a ManyTexts,
    capacity: Capacity<'a>,
    /// Settings of the context and of the curve.
    settings: Settings,
    curve: CostCurve,
    /// Memory available before the lanes were allocated; `None` without a memory check per text.
    n_available: Option<u64>,
    /// Most positions of a text.
    longest: usize,
    /// Longest answer if a request does not set `max_tokens`.
    most_tokens: usize,
    ready: VecDeque<Ready>,
    /// By the batcher's id of the text.
    answering: BTreeMap<u64, Answering>,
    n_prepared: u64,
    /// Counts of earlier batchers.
    done: Progress,
    /// Reused to avoid allocations.
    top: TopK,
}

impl Policy for ManyTextsPolicy<'_> {
    fn serve(&mut self, tasks: &Receiver<Task>) -> Result<(), Failure> {
        let mut n_ctx = self.options.n_ctx.map_or(0, |_| self.longest);
        while self.wait(tasks)? {
            n_ctx = self.ready.iter().map(|ready| ready.n_needed).fold(n_ctx, usize::max);
            self.adapt(n_ctx)?;
            let model = self.parts.model;
            let n_lanes = self.capacity.n_lanes(&self.curve, n_ctx, &self.settings);
            let schedule = BatchSchedule::new(self.curve.clone());
            let context = SessionConfig::new(n_ctx, &self.settings);
            let target = Parallel::new(model, &context, n_lanes, schedule.max_rows(n_lanes))?;
            let target = if self.options.states { target.with_states(model)? } else { target };
            let config = self.parts.config;
            let shared = SharedPrefixes::new(config, self.options, model, &context, n_lanes, &self.curve);
            let shared = shared.unwrap_or_else(|notice| {
                self.parts.notice(&notice);
                None
            });
            let mut batcher = Batcher::new(target, schedule);
            if self.options.drafts && !model.is_recurrent() {
                batcher = batcher.with_drafting(self.parts.drafters.make_for_batch(n_lanes));
            }
            self.answer(batcher, shared, tasks)?;
        }
        Ok(())
    }
}

impl<'a> ManyTextsPolicy<'a> {
    pub(super) fn new(parts: Parts<'a>, options: &'a ManyTexts) -> Result<ManyTextsPolicy<'a>, Failure> {
        let capacity = Capacity { model: parts.model, config: parts.config, options, outbox: parts.outbox };
        let mut policy = ManyTextsPolicy {
            capacity,
            options,
            settings: *parts.config.settings.at(options.n_ctx.unwrap_or(0)),
            curve: CostCurve::default(),
            n_available: None,
            longest: options.n_ctx.unwrap_or_else(|| parts.model.n_ctx_train()),
            most_tokens: options.n_ctx.map_or(DEFAULT_MAX_TOKENS, |_| usize::MAX),
            ready: VecDeque::new(),
            answering: BTreeMap::new(),
            n_prepared: 0,
            done: Progress::default(),
            top: TopK::default(),
            parts,
        };
        policy.prepare_settings()?;
        Ok(policy)
    }

    /// Switches to the settings for texts of `n_ctx` positions.
    fn adapt(&mut self, n_ctx: usize) -> Result<(), Failure> {
        let settings = *self.parts.config.settings.at(n_ctx);
        if settings != self.settings {
            self.settings = settings;
            self.prepare_settings()?;
        }
        Ok(())
    }

    /// Checks that the settings can be used, and measures their curve.
    fn prepare_settings(&mut self) -> Result<(), Failure> {
        if exact::is_demanded() {
            // Fail before the first request is taken.
            self.capacity.try_out(&self.settings)?;
        }
        self.curve = self.capacity.curve(&self.settings, &mut self.parts.curves)?;
        Ok(())
    }

    /// Waits until a request is ready, and takes those that arrive soon after it. Returns false when there are no more
    /// requests.
    fn wait(&mut self, tasks: &Receiver<Task>) -> Result<bool, Failure> {
        self.n_available = self.capacity.n_available();
        let n_wanted = self.options.n_parallel.unwrap_or(MAX_LANES).min(N_READY);
        while self.ready.len() < n_wanted {
            let is_idle = self.ready.is_empty();
            match tasks.recv_timeout(LOOK_EVERY) {
                Ok(task) => self.take(task),
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
        tasks: &Receiver<Task>,
    ) -> Result<(), Failure> {
        let n_ctx = batcher.n_positions();
        let clock = WallClock(Instant::now());
        let mut reported = Instant::now();
        if let (Some(shared_prefixes), Some(first), Some(second)) =
            (&mut shared_prefixes, self.ready.front(), self.ready.get(1))
        {
            let notices = shared_prefixes.recall(&mut batcher, &first.text.prompt, &second.text.prompt);
            notices.iter().for_each(|notice| self.parts.notice(notice));
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
                    None => match tasks.try_recv() {
                        Ok(task) => self.take(task),
                        Err(_) => break,
                    },
                }
            }
            if batcher.n_working() == 0 {
                // The context stays while the client is slow: the next texts may share what its lanes hold.
                self.parts.send(Event::Progress(self.progress(&batcher)));
                if !self.ready.is_empty() || !self.wait(tasks)? {
                    break;
                }
                continue;
            }
            if self.step(&mut batcher, &clock)?
                && let Some(shared_prefixes) = &mut shared_prefixes
            {
                shared_prefixes.keep(&mut batcher).unwrap_or_else(|notice| self.parts.notice(&notice));
            }
            if reported.elapsed() >= PROGRESS_EVERY {
                reported = Instant::now();
                self.parts.send(Event::Progress(self.progress(&batcher)));
            }
        }
        self.done = self.progress(&batcher);
        self.parts.send(Event::Progress(self.done));
        Ok(())
    }

    /// Runs one step of the batch. Returns whether a text ended and freed its lane.
    fn step(&mut self, batcher: &mut Batcher<Parallel<'_>>, clock: &WallClock) -> Result<bool, Failure> {
        let (model, outbox) = (self.parts.model, self.parts.outbox);
        let (answering, top) = (&mut self.answering, &mut self.top);
        let ended = batcher.step(clock, &mut |said| {
            let answering = answering.get_mut(&said.id).expect("every text at work is being answered");
            if answering.is_new() {
                outbox.send(Message::Event(Event::Begun { id: answering.id() }));
            }
            if let Some(n_top) = answering.n_top() {
                let top = top.of(said.logits, n_top).to_vec();
                let state = said.state.map(<[f32]>::to_vec).unwrap_or_default();
                let emitted = Emitted { id: answering.id(), token: said.token, top, state };
                outbox.send(Message::Event(Event::Token(emitted)));
            }
            answering.take(said, model)
        })?;
        let has_ended = !ended.is_empty();
        for ended in ended {
            if let Some(answering) = self.answering.remove(&ended.id) {
                self.parts.send(answering.finish(&ended));
            }
        }
        Ok(has_ended)
    }

    fn take(&mut self, task: Task) {
        match task {
            Task::Answer(request) => self.prepare(*request),
            Task::Count(prompt) => {
                let n_tokens = self.parts.model.tokenize(&prompt).len();
                self.parts.outbox.send(Message::Counted(n_tokens));
            }
            Task::Measure(_) => {
                let error = TargetError::Engine("an engine of many texts measures nothing".to_owned());
                self.parts.outbox.send(Message::Measured(Err(error.into())));
            }
        }
    }

    /// Queues a request for a lane, or refuses it.
    fn prepare(&mut self, request: Request) {
        let id = request.id;
        self.parts.send(Event::Taken { id });
        match self.ready(request) {
            Ok(ready) => self.ready.push_back(ready),
            Err(error) => self.parts.send(Event::Refused { id, error }),
        }
    }

    fn ready(&mut self, request: Request) -> Result<Ready, RequestError> {
        let model = self.parts.model;
        let Admitted { prompt, n_left_out, assembler } = admit(model, &request, self.longest)?;
        let n_prompt = prompt.len();
        // It depends on the request alone, not on the lane that it gets.
        let max_tokens = request.max_tokens.unwrap_or(self.most_tokens).clamp(1, self.longest - n_prompt);
        if let Some(shortage) = self.n_available.and_then(|n| self.capacity.shortage(n_prompt, max_tokens, n)) {
            return Err(RequestError::TextTooLarge(shortage));
        }
        let (sampler, filter) = match &request.constraint {
            None => (sampler(&request.sampling, model, &prompt), None),
            Some(constraint) => {
                let made = self.parts.constrainer.sampler_and_filter(constraint, &request.sampling, &prompt)?;
                (made.0, Some(made.1))
            }
        };
        // A user who asked for fewer tokens expects the answer to end there.
        let at_limit = match request.max_tokens {
            Some(asked) if asked <= max_tokens => End::Limit,
            None if max_tokens == self.most_tokens => End::DefaultLimit,
            _ => End::Context { n_ctx: n_prompt + max_tokens },
        };
        if n_left_out > 0 {
            let text =
                format!("the messages do not fit into the context: the oldest {n_left_out} messages are left out");
            self.parts.send(Event::Notice { id: Some(request.id), text });
        }
        if request.n_top.is_some() {
            self.parts.send(Event::Prompt { id: request.id, tokens: prompt.clone() });
        }
        let answering = Answering::new(&request, n_prompt, assembler, at_limit);
        self.n_prepared += 1;
        let text = Text { id: self.n_prepared, prompt, max_tokens, sampler, filter };
        Ok(Ready { text, answering, n_needed: n_prompt + max_tokens })
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

    fn check_interrupt(&self) -> Result<(), Failure> {
        if self.parts.outbox.is_interrupted() { Err(TargetError::Interrupted.into()) } else { Ok(()) }
    }
}
