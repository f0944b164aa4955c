//! One chat with a model: sends messages and receives answers. [`crate::cli::chat::make_room`] makes room in the
//! context; [`crate::cli::chat::commands`] runs what the user types.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::chat::overflow;
use crate::chat::session::{Session, Turn, turn_seed};
use crate::chat::template::{Message, Rendered, TemplateValue};
use crate::chat::thinking::{self, Reasoning, opens_thinking, without_thinking};
use crate::cli::chat::screen::Screen;
use crate::cli::chat::settings::Settings;
use crate::cli::draft_model;
use crate::cli::exact::ExactArg;
use crate::cli::failure::Failure;
use crate::cli::hidden_log::HiddenLog;
use crate::cli::interrupt::Signals;
use crate::cli::output::{Bars, THINKING_ONLY, stderr_line};
use crate::cli::prompt::{MERGED_SYSTEM, Prompter};
use crate::cli::run::{context_full, cut_off_notice, details, receive};
use crate::engine::PromptCacheConfig;
use crate::engine::{Alone, Answer, DrafterKind, End, Request};
use crate::gguf::ModelId;
use crate::llama::engine;
use crate::llama::sampler::Sampling;
use crate::stats::Stats;
use crate::store::sessions::Place;

/// How a prompt ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Opens {
    /// After the messages so far.
    Nothing,
    /// With the opening of an answer.
    Answer,
    /// With the opening of a summary, without thinking.
    Summary,
}

/// The model, and all settings that stay fixed during a chat.
pub struct Engine {
    /// The engine thread.
    pub engine: engine::Engine,
    /// Renders messages with the chat template.
    pub prompter: Prompter,
    /// Extra variables of the template.
    pub variables: BTreeMap<String, TemplateValue>,
    /// The model.
    pub model: ModelId,
    /// Context size, in tokens.
    pub n_ctx: usize,
    /// The model's trained length, if the file says so.
    pub n_ctx_train: Option<usize>,
    /// The drafter.
    pub drafter: DrafterKind,
    /// Time budget for measuring the cost curve.
    pub curve_budget: Duration,
    /// The prompt cache, if it is in use.
    pub prompt_cache: Option<PromptCacheConfig>,
    /// Where answers are recorded, if the user wants that.
    pub hidden_log: Option<HiddenLog>,
    /// Whether every answer must be exact.
    pub exact: ExactArg,
    /// Whether to print the exactness of every answer.
    pub is_verbose: bool,
    /// Signals that interrupt an answer.
    pub signals: Signals,
    /// Where answers go.
    pub screen: Screen,
}

/// A chat in progress.
pub struct Conversation {
    pub(super) engine: Engine,
    pub(super) session: Session,
    pub(super) settings: Settings,
    /// Where the chat is saved, if it has a name.
    pub(super) place: Option<Place>,
    /// Statistics and seed of the last answer.
    pub(super) stats: Option<(Stats, u32)>,
    /// Whether the last answer was interrupted.
    pub(super) was_interrupted: bool,
    is_merge_told: bool,
}

impl Conversation {
    /// Continues `session`.
    pub fn new(engine: Engine, session: Session, settings: Settings, place: Option<Place>) -> Conversation {
        Conversation { engine, session, settings, place, stats: None, was_interrupted: false, is_merge_told: false }
    }

    /// Answers a message. `seed` replaces the seed that follows from the turn's place in the chat.
    ///
    /// # Errors
    /// If there is no answer; the chat is then unchanged. Also if the answer cannot be shown; then the chat keeps what
    /// was generated, because a closed terminal or pipe does not undo it.
    pub fn ask(&mut self, message: &str, seed: Option<u32>) -> Result<(), Failure> {
        let (turn, shown) = self.answer(message, seed)?;
        self.session.turns.push(turn);
        self.engine.model.clone_into(&mut self.session.model);
        self.keep()?;
        shown
    }

    /// Saves the session, if the chat has a name.
    ///
    /// # Errors
    /// If it cannot be saved.
    pub fn keep(&mut self) -> Result<(), Failure> {
        self.settings.given().clone_into(&mut self.session.settings);
        match &self.place {
            Some(place) => Ok(place.save(&self.session)?),
            None => Ok(()),
        }
    }

    /// Number of context tokens that the chat uses.
    pub fn n_used(&mut self) -> usize {
        let has_text = !self.session.turns.is_empty() || self.session.system.is_some();
        let messages = self.messages(self.session.n_left_out, None);
        let rendered = has_text.then(|| self.render(&messages, Opens::Nothing).ok()).flatten();
        // Some templates reject a system prompt without messages.
        rendered.and_then(|rendered| self.count(rendered).ok()).unwrap_or(0)
    }

    /// The turn, and whether all of it was shown.
    fn answer(&mut self, message: &str, seed: Option<u32>) -> Result<(Turn, Result<(), Failure>), Failure> {
        self.make_room(message)?;
        let rendered = self.render(&self.messages(self.session.n_left_out, Some(message)), Opens::Answer)?;
        if rendered.merged_system && !self.is_merge_told {
            stderr_line(MERGED_SYSTEM);
            self.is_merge_told = true;
        }
        let seed = seed.unwrap_or_else(|| turn_seed(self.settings.sampling.seed, self.session.turns.len()));
        let sampling = Sampling { seed, ..self.settings.sampling.clone() };
        let is_thinking = opens_thinking(&rendered.text());
        let state_file = self.place.as_ref().map(|place| place.state_path().to_owned());
        let mut request = self.request(rendered, self.settings.max_tokens, sampling);
        request.alone.state_file = state_file;
        request.alone.n_states = self.engine.hidden_log.as_ref().map_or(0, HiddenLog::n_wanted);
        let mut output = self.engine.screen.answer(is_thinking, self.settings.reasoning);
        let mut shown = Ok(());
        let answered = self.run(request, |piece| {
            if shown.is_ok() {
                shown = output.write(piece);
                // Nobody reads the rest, so stop the answer.
                self.engine.signals.raised.fetch_or(shown.is_err(), Ordering::Relaxed);
            }
            Ok(())
        });
        let ended = output.finish();
        let (answer, mut text) = answered?;
        if let Some(log) = &mut self.engine.hidden_log {
            log.keep(details(&answer)?);
        }
        self.was_interrupted = answer.end == End::Interrupted;
        if self.was_interrupted && text.is_empty() {
            return Err(Failure::interrupted());
        }
        tell_end(&answer);
        let (ended, ended_hidden) = match ended {
            Ok(ended_hidden) => (Ok(()), ended_hidden),
            Err(failure) => (Err(failure), false),
        };
        if ended_hidden {
            stderr_line(THINKING_ONLY);
        }
        self.stats = Some((answer.stats, seed));
        if is_thinking {
            text.insert_str(0, thinking::OPEN);
        }
        let assistant = if self.settings.reasoning == Reasoning::Off { without_thinking(&text) } else { text };
        Ok((Turn { user: message.to_owned(), assistant, seed }, shown.and(ended)))
    }

    pub(super) fn messages(&self, n_left_out: usize, message: Option<&str>) -> Vec<Message> {
        let system = overflow::system_with_summary(self.session.system.as_deref(), self.session.summary.as_deref());
        self.session.messages(system, n_left_out, message)
    }

    pub(super) fn render(&self, messages: &[Message], opens: Opens) -> Result<Rendered, Failure> {
        let mut extra = self.engine.variables.clone();
        if self.settings.reasoning == Reasoning::Off || opens == Opens::Summary {
            extra.insert("enable_thinking".to_owned(), TemplateValue::from(false));
        }
        self.engine.prompter.render(messages, opens != Opens::Nothing, extra)
    }

    /// Tokens of the prompt without the first `n_left_out` turns.
    pub(super) fn count_with(&self, n_left_out: usize, message: &str) -> Result<usize, Failure> {
        self.count(self.render(&self.messages(n_left_out, Some(message)), Opens::Answer)?)
    }

    pub(super) fn count(&self, rendered: Rendered) -> Result<usize, Failure> {
        let mut notice = |text: &str| stderr_line(&format!("notice: {text}"));
        Ok(self.engine.engine.count(rendered.segments, &mut notice)?)
    }

    pub(super) fn request(&self, rendered: Rendered, max_tokens: Option<usize>, sampling: Sampling) -> Request {
        let alone = Alone {
            n_ctx: Some(self.engine.n_ctx),
            drafter: self.engine.drafter,
            curve_budget: self.engine.curve_budget,
            learns: true,
            prompt_cache: self.engine.prompt_cache.clone(),
            ..Alone::default()
        };
        let stop = self.settings.stops.clone();
        Request { prompt: rendered.segments, max_tokens, sampling, stop, alone, ..Request::default() }
    }

    /// Answers a request and passes every piece of text to `each`. Returns the answer and its text.
    pub(super) fn run(
        &self,
        request: Request,
        mut each: impl FnMut(&str) -> Result<(), Failure>,
    ) -> Result<(Answer, String), Failure> {
        self.engine.engine.submit(request);
        let mut text = String::new();
        let answer = receive(&self.engine.engine, &mut Bars::default(), |piece| {
            text.push_str(piece);
            each(piece)
        })?;
        let details = details(&answer)?;
        draft_model::tell(details, self.engine.is_verbose);
        self.engine.exact.check(&details.exactness, self.engine.is_verbose)?;
        Ok((answer, text))
    }
}

fn tell_end(answer: &Answer) {
    match answer.end {
        End::Interrupted => stderr_line("notice: interrupted; the chat keeps this part of the answer"),
        End::Context { n_ctx } => stderr_line(&cut_off_notice(context_full(n_ctx))),
        End::Eos | End::Word(_) | End::Limit | End::DefaultLimit => {}
    }
}
