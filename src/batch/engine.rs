//! The seam between a batch and what decodes it: requests in, events out.
//!
//! Messages only, and no type of the engine, so that it can live in a thread, in a process, or in a test.

use crate::chat::template::Segment;
use crate::draft::table::Successor;
use crate::sampling::Sampling;
use crate::token::Token;

pub use crate::structure::Constraint;

/// A line to answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The line's number; events name it.
    pub id: u64,
    /// What comes before the answer.
    pub prompt: Vec<Segment>,
    /// What may come instead where that leaves no room for the answer: the first that does is taken.
    pub shorter: Vec<Shorter>,
    /// Most tokens to emit; `None` is all that the context has room for.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen. The draws depend on this and on the text alone, not on what is decoded beside it.
    pub sampling: Sampling,
    /// Texts that end the answer, and are no part of it.
    pub stop: Vec<String>,
    /// What the answer must be.
    pub constraint: Option<Constraint>,
    /// Alternatives told of each token; `None` tells nothing of tokens.
    pub n_logprobs: Option<usize>,
    /// Report the prompt's tokens and every token as it is emitted, with so many of the likeliest; `None` reports the answer
    /// alone.
    pub n_top: Option<usize>,
}

/// A prompt without its oldest messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Shorter {
    /// How many messages are left out.
    pub n_left_out: usize,
    /// The others.
    pub prompt: Vec<Segment>,
}

/// What an engine tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A request has its place, and its prompt is read.
    Begun {
        /// The request's.
        id: u64,
    },
    /// Something the user should know.
    Notice {
        /// The request that it is about, if it is about one.
        id: Option<u64>,
        /// What.
        text: String,
    },
    /// The prompt of a request that asked for tokens.
    Prompt {
        /// The request's.
        id: u64,
        /// All tokens before the first emitted one.
        tokens: Vec<Token>,
    },
    /// A token of such a request.
    Token(Emitted),
    /// An answer is complete.
    Done(Box<Answer>),
    /// A request is not answered; the others are.
    Refused {
        /// The request's.
        id: u64,
        /// Why.
        refusal: Refusal,
    },
    /// How it goes, some times a second.
    Progress(Progress),
}

/// A token as it is emitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Emitted {
    /// The request's.
    pub id: u64,
    /// The token.
    pub token: Token,
    /// The likeliest tokens of its row, with their probabilities at temperature 1.
    pub top: Vec<Successor>,
}

/// An answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The request's.
    pub id: u64,
    /// The text.
    pub text: String,
    /// What the model thought before it, where that is told apart: an engine does not.
    pub reasoning: Option<String>,
    /// Why it ended.
    pub end: End,
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Of these, computed for another request before.
    pub n_cached: usize,
    /// Tokens emitted.
    pub n_predicted: usize,
    /// Tokens drafted, and of these accepted.
    pub n_drafted: usize,
    /// See `n_drafted`.
    pub n_accepted: usize,
    /// Milliseconds from its place to its first token.
    pub prompt_ms: f64,
    /// Milliseconds from there to its end; other requests were answered meanwhile.
    pub predicted_ms: f64,
    /// Where asked for, each token.
    pub logprobs: Vec<TokenLogprob>,
}

/// A token with its alternatives.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// Its bytes, which need not be whole characters.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability at temperature 1.
    pub logprob: f32,
    /// The likeliest ones, likeliest first.
    pub top: Vec<(Vec<u8>, f32)>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model ended it, or a stop text did.
    Stop,
    /// `max_tokens` were emitted.
    Length,
    /// The context was full before that.
    Context {
        /// The positions it had for this text.
        n_ctx: usize,
    },
    /// Neither the request nor the engine had a limit, and all that is set aside for an answer then was emitted.
    DefaultLimit,
}

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs: `context_length_exceeded`, `empty_prompt`, `invalid_grammar`, ...
    pub code: String,
    /// For people.
    pub message: String,
}

/// The state of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Requests at work.
    pub n_running: usize,
    /// Prompt tokens read since the start, those that were shared not counted.
    pub n_prompt: u64,
    /// Tokens emitted since the start.
    pub n_predicted: u64,
    /// Sum over all steps of the requests at work in them: `n_predicted` over this is tokens per step.
    pub n_steps: u64,
}

/// What decodes.
pub trait Engine: Send {
    /// Hands in a request, or gives it back while enough are waiting. Whoever tries again after each event keeps the
    /// engine busy.
    ///
    /// # Errors
    /// The request.
    fn try_submit(&self, request: Request) -> Result<(), Box<Request>>;

    /// The next event: it waits. An end that nobody asked for is an error.
    ///
    /// # Errors
    /// Why the engine ended, in words.
    fn next_event(&self) -> Result<Event, String>;
}
