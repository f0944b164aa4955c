//! The interface between a batch and the engine that decodes it: requests in, events out.
//!
//! It consists of messages and uses no type of the engine, so an engine can run in a thread, in another process, or as
//! a fake in a test.

use crate::chat::template::Segment;
use crate::draft::table::Successor;
use crate::sampling::Sampling;
use crate::token::Token;

pub use crate::structure::Constraint;

/// A prompt to answer, and how.
#[derive(Clone, Debug, PartialEq)]
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
}

/// A prompt without its oldest messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Shorter {
    /// Number of messages left out.
    pub n_left_out: usize,
    /// The remaining messages, rendered.
    pub prompt: Vec<Segment>,
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
    /// The request is refused; the other requests continue.
    Refused {
        /// The request's id.
        id: u64,
        /// Why.
        refusal: Refusal,
    },
    /// Progress, sent several times a second.
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
}

/// An answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The request's id.
    pub id: u64,
    /// The text, without the stop string.
    pub text: String,
    /// The model's thinking. Engines leave it in `text`; the pipeline splits it off.
    pub reasoning: Option<String>,
    /// Why it ended.
    pub end: End,
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Prompt tokens that were already in the KV cache, computed for another request.
    pub n_cached: usize,
    /// Tokens emitted.
    pub n_predicted: usize,
    /// Tokens drafted.
    pub n_drafted: usize,
    /// Drafted tokens accepted.
    pub n_accepted: usize,
    /// Milliseconds from getting a lane to the first token.
    pub prompt_ms: f64,
    /// Milliseconds from the first token to the end. Other requests are decoded in the same time.
    pub predicted_ms: f64,
    /// Log-probabilities of each token, if requested.
    pub logprobs: Vec<TokenLogprob>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model ended it, or a stop string did.
    Stop,
    /// `max_tokens` were emitted.
    Length,
    /// The context was full before `max_tokens` were emitted.
    Context {
        /// Context size for this text, in tokens.
        n_ctx: usize,
    },
    /// The request had no `max_tokens`, and the engine's default limit was reached.
    DefaultLimit,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A code for programs: `context_length_exceeded`, `empty_prompt`, `invalid_grammar`, ...
    pub code: String,
    /// A message for people.
    pub message: String,
}

/// Counts of a running engine.
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
