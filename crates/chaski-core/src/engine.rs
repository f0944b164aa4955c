//! The protocol between an engine, which decodes texts with a model, and its clients: requests in, events out.
//!
//! It is plain data and names no type of llama.cpp, so an engine can run in a thread, in another process, or as a fake
//! in a test. The real one is in the crate `chaski-llama`.

mod error;
mod step;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::chat::template::Segment;
use crate::draft::table::Successor;
use crate::exactness::Exactness;
use crate::replay::trace::Trace;
use crate::sampling::Sampling;
use crate::stats::Stats;
use crate::token::Token;
use crate::tune::Settings;

pub use crate::structure::Constraint;

pub use self::error::RequestError;
pub use self::step::{Fate, NodeReport, StepReport};

/// Longest answer, in tokens, if neither the request nor the context size limits it.
pub const DEFAULT_MAX_TOKENS: usize = 2048;

/// Which drafter to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum DrafterKind {
    /// Draft from several sources, as many tokens as pay off on this machine
    #[default]
    Auto,
    /// The same without a draft model and a drafter on hidden states; learns nothing
    AutoAlone,
    /// ADED as published (arXiv 2407.12021): always draft 64 tokens
    Aded,
    /// ADED's drafts, cut to the size that pays off
    AdedSized,
    /// Do not draft
    None,
}

/// A prompt to answer, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// Identifies the request in events.
    pub id: u64,
    /// The rendered prompt.
    pub prompt: Vec<Segment>,
    /// Shorter versions of the prompt. If the prompt leaves no room for the answer, the engine takes the first of these
    /// that does, or else the last.
    pub shorter: Vec<Shorter>,
    /// Most tokens to emit; `None`: the engine's default limit. The context is always a limit.
    pub max_tokens: Option<usize>,
    /// Sampling parameters. The draws depend on these and on the text alone, not on the requests decoded beside it.
    pub sampling: Sampling,
    /// Stop strings; they are not part of the answer.
    pub stop: Vec<String>,
    /// The JSON schema, grammar or regular expression that the answer must match.
    pub constraint: Option<Constraint>,
    /// Number of alternatives to report with each token; `None`: no log-probabilities.
    pub n_logprobs: Option<usize>,
    /// If set, report the prompt's tokens and each emitted token, with this many of the most likely tokens.
    pub n_top: Option<usize>,
    /// Options of an engine that decodes one text at a time.
    pub alone: Alone,
}

/// A prompt without its oldest messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Shorter {
    /// Number of messages left out.
    pub n_left_out: usize,
    /// The remaining messages, rendered.
    pub prompt: Vec<Segment>,
}

/// What a request can ask of an engine that decodes one text at a time. An engine of many texts ignores it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Alone {
    /// Positions of the context; `None`: as many as needed.
    pub n_ctx: Option<usize>,
    /// The drafter.
    pub drafter: DrafterKind,
    /// Time budget for completing the cost curve.
    pub curve_budget: Duration,
    /// Whether to record a trace.
    pub record: bool,
    /// Record at most this many tokens of the answer with their hidden states, if the drafter reads states.
    pub n_states: usize,
    /// Whether the drafter starts from the learned state and saves what it learns.
    pub learns: bool,
    /// Whether to send each step as [`Event::Step`].
    pub explain: bool,
    /// The prompt cache; `None`: do not read or write it.
    pub prompt_cache: Option<PromptCacheConfig>,
    /// A file with the state of this text alone, such as a chat's. It is read if it covers more of the prompt than the
    /// context does, and written after the answer. A missing or damaged file costs time, never text.
    pub state_file: Option<PathBuf>,
}

/// Where to cache prompts, and how many bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptCacheConfig {
    /// A private folder.
    pub folder: PathBuf,
    /// Maximum bytes of all states in it.
    pub max_bytes: u64,
}

/// A message from the engine.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The engine has taken a request from its queue, so there is room for another.
    Taken {
        /// The request's id.
        id: u64,
    },
    /// The request has a lane, and its prompt is decoded.
    Begun {
        /// The request's id.
        id: u64,
    },
    /// A message for the user.
    Notice {
        /// The request it is about, if any.
        id: Option<u64>,
        /// The message.
        text: String,
    },
    /// Prompt tokens decoded, and in total. Only of an engine of one text, like the next three.
    Prefill(usize, usize),
    /// The cost curve is being measured.
    Measuring,
    /// The next piece of the answer: valid UTF-8.
    Text(String),
    /// One step of the loop, if the request asked for it.
    Step(Box<StepReport>),
    /// The prompt's tokens, for a request with `n_top`.
    Prompt {
        /// The request's id.
        id: u64,
        /// All tokens before the first emitted one.
        tokens: Vec<Token>,
    },
    /// An emitted token, for a request with `n_top`.
    Token(Emitted),
    /// An answer is complete.
    Done(Box<Answer>),
    /// The request failed; the engine continues with other requests.
    Refused {
        /// The request's id.
        id: u64,
        /// Why.
        error: RequestError,
    },
    /// Progress of an engine of many texts, sent several times a second.
    Progress(Progress),
}

/// An emitted token.
#[derive(Clone, Debug, PartialEq)]
pub struct Emitted {
    /// The request's id.
    pub id: u64,
    /// The token.
    pub token: Token,
    /// The most likely tokens of its row, with their probabilities at temperature 1.
    pub top: Vec<Successor>,
    /// The hidden state of its row; empty unless the engine was asked for states.
    pub state: Vec<f32>,
}

/// An answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The request's id.
    pub id: u64,
    /// The text, without the stop string.
    pub text: String,
    /// The model's thinking. Engines leave it in `text`; the batch pipeline splits it off.
    pub reasoning: Option<String>,
    /// Why it ended.
    pub end: End,
    /// Counts and times. In an engine of many texts, other requests are decoded in the same time, and steps are not
    /// counted.
    pub stats: Stats,
    /// Log-probabilities of each token, if requested.
    pub logprobs: Vec<TokenLogprob>,
    /// More about the answer, from an engine of one text.
    pub details: Option<Box<Details>>,
}

/// What only an engine of one text reports with an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Details {
    /// The emitted tokens, without an end-of-generation token.
    pub tokens: Vec<Token>,
    /// The settings of the context.
    pub settings: Settings,
    /// Whether everything computed in this context so far was exact.
    pub exactness: Exactness,
    /// The trace, if requested; its id is empty.
    pub trace: Option<Trace>,
    /// The first emitted tokens with their hidden states, if requested and known.
    pub states: Vec<Emitted>,
    /// What the draft model did, if there is one and the drafter may ask it.
    pub draft_model: Option<DraftModelStats>,
}

/// What a draft model, or a drafter on hidden states, did for an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DraftModelStats {
    /// Whether it is a drafter on hidden states.
    pub is_hidden: bool,
    /// How often it predicted what follows a text.
    pub n_predictions: u64,
    /// Measured time of a prediction after one new token, in milliseconds; `None` if the model could not be used.
    pub row_ms: Option<f64>,
}

/// A token with its alternatives.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token's bytes; they may end within a UTF-8 character.
    pub bytes: Vec<u8>,
    /// Natural logarithm of the token's probability at temperature 1.
    pub logprob: f32,
    /// The most likely tokens and their log-probabilities, most likely first.
    pub top: Vec<(Vec<u8>, f32)>,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The model ended it.
    Eos,
    /// This stop string occurred.
    Word(String),
    /// `max_tokens` were emitted.
    Limit,
    /// The request had no `max_tokens`, and the engine's default limit was reached.
    DefaultLimit,
    /// The context was full before `max_tokens` were emitted.
    Context {
        /// Context size for this text, in tokens.
        n_ctx: usize,
    },
    /// The user interrupted it.
    Interrupted,
}

impl End {
    /// llama-server's `stop_type`, and `interrupted`.
    #[must_use]
    pub fn stop_type(&self) -> &'static str {
        match self {
            End::Eos => "eos",
            End::Word(_) => "word",
            // llama-server has only one kind of limit.
            End::Limit | End::DefaultLimit | End::Context { .. } => "limit",
            End::Interrupted => "interrupted",
        }
    }
}

/// Counts of an engine of many texts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Requests being decoded.
    pub n_running: usize,
    /// Prompt tokens decoded since the start, without tokens shared with another request.
    pub n_prompt: u64,
    /// Tokens emitted since the start.
    pub n_predicted: u64,
    /// Sum over all steps of the requests decoded in each: `n_predicted / n_steps` is tokens per step.
    pub n_steps: u64,
}

/// Decodes requests.
pub trait Engine: Send {
    /// Whether the engine's queue has room for a request. The queue is short, so that the caller decides late which
    /// request is next, and so that few requests are to blame for a crash.
    fn has_room(&self) -> bool;

    /// Submits a request, or returns it if the queue is full. Retry after each event to keep the engine busy.
    ///
    /// # Errors
    /// The request, if the queue is full.
    fn try_submit(&self, request: Request) -> Result<(), Box<Request>>;

    /// Waits for the next event.
    ///
    /// # Errors
    /// A message if the engine has ended.
    fn next_event(&self) -> Result<Event, String>;
}
