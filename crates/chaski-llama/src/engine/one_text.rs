//! Decodes one text at a time, with token trees. The context, and with it the decoded tokens, stays for the next
//! request.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;

use crate::available::available;
use crate::cost::{Clock as _, CostCurve};
use crate::draft::draft_model::Assisted;
use crate::engine::admission::{Admitted, admit};
use crate::engine::draft_model::{EngineDraftModel, LlamaDraftModel};
use crate::engine::drafters::Active;
use crate::engine::explain::Explainer;
use crate::engine::state_recorder::StateRecorder;
use crate::engine::states::{Context, States};
use crate::engine::{Failure, Message, Notice, Parts, Policy, Task, WallClock, unix_s};
use crate::exact;
use crate::generate::{Generated, Generation, Length, Prefilled};
use crate::hidden::HiddenError;
use crate::logprobs::{Logprobs, LogprobsOf};
use crate::model::Model;
use crate::replay::trace::{Recorder, Trace};
use crate::sampler::sampler;
use crate::schedule::{RowMemory, Schedule};
use crate::session::{FlashAttention, Session, SessionConfig};
use crate::target::Target as _;
use crate::text::TextAssembler;
use crate::thread::Outbox;
use crate::token::Token;
use crate::tree::MAX_NODES;
use crate::tune::Settings;
use chaski_core::engine::{
    Answer, DEFAULT_MAX_TOKENS, Details, DraftModelStats, DrafterKind, End, Event, Request, RequestError,
};

/// Longer answers count as this many tokens when the settings are chosen.
const USUAL_TOKENS: usize = 512;

/// For shorter answers, measuring the curve costs more than it saves.
const SHORT_ANSWER: usize = 32;

/// Decodes one text at a time.
pub(super) struct OneTextPolicy<'a> {
    pub(super) parts: Parts<'a>,
    states: States,
    pub(super) session: Option<Session<'a>>,
    draft_model: Option<Box<dyn EngineDraftModel + 'a>>,
    /// Settings of the session and of the curve.
    pub(super) settings: Settings,
    curve: CostCurve,
    /// Time of the curve's measurement.
    measured_unix_s: u64,
    pub(super) clock: WallClock,
}

impl Policy for OneTextPolicy<'_> {
    fn serve(&mut self, tasks: &Receiver<Task>) -> Result<(), Failure> {
        for task in tasks {
            match task {
                Task::Answer(request) => {
                    let answer = self.answer(&request).map(|answer| Event::Done(Box::new(answer)));
                    self.parts.send(answer.unwrap_or_else(|error| Event::Refused { id: request.id, error }));
                    // After `Done`, so that it runs while the user reads the answer.
                    self.save_own_state(&request);
                }
                Task::Count(prompt) => {
                    let n_tokens = self.parts.model.tokenize(&prompt).len();
                    self.parts.outbox.send(Message::Counted(n_tokens));
                }
                Task::Measure(what) => {
                    let measured = self.measurement(&what).map(Box::new);
                    self.parts.outbox.send(Message::Measured(measured));
                }
            }
        }
        Ok(())
    }
}

impl<'a> OneTextPolicy<'a> {
    pub(super) fn new(mut parts: Parts<'a>) -> OneTextPolicy<'a> {
        let settings = parts.config.settings.short;
        let (curve, measured_unix_s) = parts.curves.load(&settings.to_string());
        let states = States::new(parts.config.secret.clone());
        let (target, outbox) = (parts.model, parts.outbox);
        let draft_model = match (parts.draft_model, parts.hidden.take()) {
            (Some(draft), _) => Some(Box::new(LlamaDraftModel::new(draft, target, move || outbox.go_on())) as Box<_>),
            (None, Some(hidden)) => Some(Box::new(hidden) as Box<_>),
            (None, None) => None,
        };
        OneTextPolicy {
            parts,
            states,
            session: None,
            draft_model,
            settings,
            curve,
            measured_unix_s,
            clock: WallClock(Instant::now()),
        }
    }

    fn answer(&mut self, request: &Request) -> Result<Answer, RequestError> {
        let n_ctx_train = self.parts.model.n_ctx_train();
        let admitted = admit(self.parts.model, request, request.alone.n_ctx.unwrap_or(n_ctx_train))?;
        let n_prompt = admitted.prompt.len();
        let needed = n_prompt.saturating_add(request.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS));
        let n_ctx = request.alone.n_ctx.unwrap_or_else(|| needed.min(n_ctx_train));
        let length = Length { max_tokens: request.max_tokens.unwrap_or(usize::MAX), n_ctx };
        let mut session = self.session(length, n_prompt)?;
        let answer = self.answer_in(&mut session, request, admitted, length);
        // After an interrupt too: the next request reuses the decoded tokens.
        self.session = Some(session);
        answer
    }

    fn answer_in(
        &mut self,
        session: &mut Session<'a>,
        request: &Request,
        admitted: Admitted,
        length: Length,
    ) -> Result<Answer, RequestError> {
        let Admitted { prompt, assembler, .. } = admitted;
        let prefilled = self.prefill(session, request, &prompt)?;
        let mut drafting = self.drafting(session, request, &prompt, length)?;
        let (model, outbox) = (self.parts.model, self.parts.outbox);
        let mut sampler = match &request.constraint {
            None => sampler(&request.sampling, model, &prompt),
            Some(constraint) => {
                let made = self.parts.constrainer.sampler_and_filter(constraint, &request.sampling, &prompt)?;
                drafting.drafter.set_filter(made.1);
                made.0
            }
        };
        let mut said = Said { model, outbox, assembler, text: String::new(), end: None };
        let logprobs = request.n_logprobs.map(|n| LogprobsOf { model, logprobs: Logprobs::new(n), found: Vec::new() });
        let recorder = request.alone.record.then(Recorder::default);
        let states = (request.alone.n_states > 0).then(|| StateRecorder::new(request));
        let explainer = request.alone.explain.then_some(Explainer { model, outbox });
        let mut observers = ((recorder, states), (explainer, logprobs));
        let mut assisted;
        let drafter = match (&mut drafting.drafter, &mut self.draft_model) {
            (Active::Auto(auto), Some(draft_model)) if request.alone.drafter == DrafterKind::Auto => {
                assisted = Assisted::new(auto, draft_model.as_mut());
                &mut assisted
            }
            (drafter, _) => drafter.as_mut(),
        };
        let mut generation = Generation {
            target: session,
            drafter,
            schedule: &mut drafting.schedule,
            sampler: sampler.as_mut(),
            clock: &self.clock,
            observer: &mut observers,
        };
        let generated = generation.run(&prompt, prefilled, length, &mut |token| said.take(token));
        // Before returning an error too: this text belongs to the answer.
        said.finish();
        let Generated { mut tokens, stats, .. } = generated?;
        self.learn(request, &drafting, &tokens);
        let end = said.end.unwrap_or_else(|| reached(request, length, prompt.len(), tokens.len()));
        if end == End::Eos {
            tokens.pop();
        }
        let ((recorder, states), (_, logprobs)) = observers;
        let details = Details {
            tokens,
            settings: self.settings,
            exactness: exact::of_work(&self.settings),
            trace: recorder.map(|recorder| self.trace(recorder, request, &prompt)),
            states: states.map(|states| states.recorded).unwrap_or_default(),
            draft_model: self.draft_model_stats(request.alone.drafter, &drafting.drafter),
        };
        Ok(Answer {
            id: request.id,
            text: said.text,
            reasoning: None,
            end,
            stats,
            logprobs: logprobs.map(|of| of.found).unwrap_or_default(),
            details: Some(Box::new(details)),
        })
    }

    /// What drafts an answer, and how much of it is verified. Completes the cost curve first, if that decides.
    fn drafting(
        &mut self,
        session: &mut Session<'a>,
        request: &Request,
        prompt: &[Token],
        length: Length,
    ) -> Result<Drafting, RequestError> {
        let can_draft = session.limits().max_nodes > 1;
        let kind = if can_draft { request.alone.drafter } else { DrafterKind::None };
        let is_cost_aware = matches!(kind, DrafterKind::Auto | DrafterKind::AutoAlone | DrafterKind::AdedSized);
        if is_cost_aware {
            self.complete_curve(request, session, prompt, length)?;
        }
        // Without a curve it is not asked.
        let has_curve = self.curve.plain_ms(session.n_past()).is_some();
        if let (DrafterKind::Auto, Some(draft_model), true) = (kind, &mut self.draft_model, has_curve) {
            draft_model.prepare(prompt.len(), session.n_ctx(), &self.settings);
        }
        let max_rows = self.max_rows(length.n_ctx);
        let (drafter, schedule) = self.parts.drafters.make(kind, self.curve.clone(), max_rows, request.alone.learns);
        let schedule = schedule.with_redone_tokens(session.loses_tokens());
        Ok(Drafting { drafter, schedule, is_cost_aware })
    }

    /// Keeps what an answer taught; `generated` are its tokens. Reports what failed.
    fn learn(&mut self, request: &Request, drafting: &Drafting, generated: &[Token]) {
        let Drafting { drafter, schedule, is_cost_aware } = drafting;
        if *is_cost_aware {
            self.curve = schedule.curve().clone();
            self.save_curve();
        }
        let kept = request.alone.learns.then(|| self.parts.drafters.keep(drafter, generated)).flatten();
        let failed = self.draft_model.as_mut().and_then(|model| model.take_failure()).map(Notice::DraftModel);
        let notices = kept.into_iter().chain(self.parts.drafters.damage()).chain(failed);
        notices.for_each(|notice| self.parts.notice(&notice));
    }

    fn draft_model_stats(&self, kind: DrafterKind, drafter: &Active) -> Option<DraftModelStats> {
        if kind != DrafterKind::Auto {
            return None;
        }
        let (Active::Auto(auto), Some(draft_model)) = (drafter, &self.draft_model) else { return None };
        let is_hidden = draft_model.states().is_some();
        Some(DraftModelStats { is_hidden, n_predictions: auto.n_predictions(), row_ms: draft_model.row_ms() })
    }

    fn trace(&self, recorder: Recorder, request: &Request, prompt: &[Token]) -> Trace {
        let path = &self.parts.config.model.path;
        Trace {
            id: String::new(),
            model: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            n_vocab: self.parts.model.n_vocab(),
            temperature: request.sampling.temperature,
            prompt: prompt.iter().map(|token| token.0).collect(),
            tokens: recorder.tokens,
            top: recorder.top,
        }
    }

    /// Decodes a prompt, starting from a state on disk if that is faster. Also stores what was decoded before an
    /// interrupt.
    fn prefill(
        &mut self,
        session: &mut Session<'a>,
        request: &Request,
        prompt: &[Token],
    ) -> Result<Prefilled, RequestError> {
        let (_root, before) = prompt.split_last().ok_or(RequestError::EmptyPrompt)?;
        let outbox = self.parts.outbox;
        let notice = |notice: Notice| {
            outbox.send(Message::Event(Event::Notice { id: Some(request.id), text: notice.to_string() }));
        };
        self.states.prepare(&self.parts.config.model, &request.alone).unwrap_or_else(notice);
        let context = self.state_context(session, request);
        let start = self.clock.now();
        self.states.recall(session, &context, before).into_iter().for_each(notice);
        let recalled = self.clock.now();
        let mut n_cached = None;
        let mut progress = |done, total| {
            n_cached.get_or_insert(done);
            outbox.send(Message::Event(Event::Prefill(done, total)));
            outbox.go_on()
        };
        let prefilled = Generation::prefill(session, &self.clock, prompt, &mut progress);
        let ms = |from: Duration| (self.clock.now() - from).as_secs_f64() * 1e3;
        let n_new = session.n_past().saturating_sub(n_cached.unwrap_or(0));
        self.states.keep(session, &context, n_new, ms(recalled)).unwrap_or_else(notice);
        let Prefilled { n_prompt, n_cached, prompt_ms } = prefilled?;
        Ok(Prefilled { n_prompt, n_cached, prompt_ms: prompt_ms + (recalled - start).as_secs_f64() * 1e3 })
    }

    fn state_context<'b>(&self, session: &Session<'_>, request: &'b Request) -> Context<'b>
    where
        'a: 'b,
    {
        let alone = &request.alone;
        Context { alone, model: self.parts.model, settings: self.settings, n_ctx: session.n_ctx() }
    }

    /// Saves the context in the request's own state file.
    fn save_own_state(&mut self, request: &Request) {
        let Some(mut session) = self.session.take() else { return };
        let context = self.state_context(&session, request);
        let kept = self.states.keep_own(&mut session, &context);
        kept.unwrap_or_else(|notice| self.parts.notice(&notice));
        self.session = Some(session);
    }

    /// The current session if it is long enough and has the right settings, otherwise a new one.
    pub(super) fn session(&mut self, length: Length, n_prompt: usize) -> Result<Session<'a>, RequestError> {
        let n_expected = n_prompt + length.max_tokens.min(USUAL_TOKENS) / 2;
        let settings = *self.parts.config.settings.at(n_expected);
        if settings != self.settings {
            // Drop the old context first: memory may not hold two.
            self.session = None;
            self.settings = settings;
            (self.curve, self.measured_unix_s) = self.parts.curves.load(&settings.to_string());
        }
        // Room for the widest tree beyond the text.
        let n_ctx = length.n_ctx + MAX_NODES;
        if let Some(session) = self.session.take()
            && session.n_ctx() >= n_ctx
        {
            return Ok(session);
        }
        // So is the draft model's: both are counted.
        if let Some(draft_model) = &mut self.draft_model {
            draft_model.drop_context();
        }
        self.check_memory(length.n_ctx, &settings)?;
        exact::reset();
        let mut session = Session::new(self.parts.model, &SessionConfig::new(n_ctx, &settings))?;
        if let Some(states) = self.draft_model.as_ref().and_then(|model| model.states())
            && let Err(error) = session.keep_states(self.parts.model, states)
        {
            self.draft_model = None;
            self.parts.notice(&Notice::HiddenUnusable(HiddenError::Input(error.to_string())));
        }
        if exact::is_demanded() {
            session.try_out()?;
            RequestError::unless_exact(exact::of_work(&settings))?;
        }
        Ok(session)
    }

    /// Refuses a context that does not fit into memory: the system would end this process, or another.
    fn check_memory(&self, n_ctx: usize, settings: &Settings) -> Result<(), RequestError> {
        let (Some(shape), Some(available)) = (&self.parts.config.shape, available()) else { return Ok(()) };
        let needed = shape.estimate(n_ctx, settings).context();
        if needed > available {
            return Err(RequestError::NotEnoughMemory { n_ctx, needed, available });
        }
        Ok(())
    }

    /// The most rows of a tree that fit into memory.
    fn max_rows(&self, n_ctx: usize) -> usize {
        // Flash attention does not store the attention scores.
        let keeps_scores = self.settings.flash_attention == FlashAttention::Off;
        let n_heads = if keeps_scores { self.parts.model.n_heads() } else { 0 };
        let row = RowMemory { n_vocab: self.parts.model.n_vocab(), n_heads, n_ctx };
        row.max_rows(available().unwrap_or(u64::MAX))
    }

    /// Measures what the curve lacks, on top of the content of `session`.
    fn complete_curve(
        &mut self,
        request: &Request,
        session: &mut Session<'a>,
        prompt: &[Token],
        length: Length,
    ) -> Result<(), RequestError> {
        let n_past = session.n_past();
        // Some models have no positions beyond the context.
        let max_rows = session.limits().max_nodes.min(length.n_ctx - n_past);
        let filler = *prompt.last().ok_or(RequestError::EmptyPrompt)?;
        let is_short = request.max_tokens.is_some_and(|n| n < SHORT_ANSWER);
        if is_short || self.curve.is_complete(n_past, max_rows) {
            return Ok(());
        }
        self.parts.send(Event::Measuring);
        let outbox = self.parts.outbox;
        let mut go_on = || outbox.go_on();
        self.curve.measure(session, &self.clock, request.alone.curve_budget, max_rows, filler, &mut go_on)?;
        self.measured_unix_s = unix_s();
        self.save_curve();
        Ok(())
    }

    fn save_curve(&mut self) {
        self.parts.curves.save(&self.settings.to_string(), &self.curve, self.measured_unix_s);
    }
}

/// What drafts an answer.
struct Drafting {
    drafter: Active,
    schedule: Schedule,
    /// Whether the cost curve decides how much is verified.
    is_cost_aware: bool,
}

/// The text of an answer, sent as it arrives.
struct Said<'a> {
    model: &'a Model,
    outbox: &'a Outbox<Message>,
    assembler: TextAssembler,
    text: String,
    /// Why the answer ends.
    end: Option<End>,
}

impl Said<'_> {
    /// Takes the next token. Breaks if it ends the answer.
    fn take(&mut self, token: Token) -> ControlFlow<()> {
        self.end = if self.model.is_end(token) {
            Some(End::Eos)
        } else {
            let piece = self.assembler.push(&self.model.bytes(token)).to_owned();
            self.say(piece);
            self.assembler.stopped().map(|stop| End::Word(stop.to_owned()))
        };
        if self.end.is_none() && self.outbox.is_interrupted() {
            self.end = Some(End::Interrupted);
        }
        if self.end.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Sends the rest: the start of a stop string, or of a character.
    fn finish(&mut self) {
        let rest = self.assembler.finish().to_owned();
        self.say(rest);
    }

    fn say(&mut self, piece: String) {
        if !piece.is_empty() {
            self.text.push_str(&piece);
            self.outbox.send(Message::Event(Event::Text(piece)));
        }
    }
}

/// Why an answer of `n_tokens` ended, if nothing in its text ended it.
fn reached(request: &Request, length: Length, n_prompt: usize, n_tokens: usize) -> End {
    match request.max_tokens {
        Some(n) if n == n_tokens => End::Limit,
        None if length.n_ctx == n_prompt + DEFAULT_MAX_TOKENS && request.alone.n_ctx.is_none() => End::DefaultLimit,
        _ => End::Context { n_ctx: length.n_ctx },
    }
}
