//! One request being answered: collects tokens into text and builds the final answer.

use std::ops::ControlFlow;
use std::time::Instant;

use crate::batching::{self, EmittedToken, Ended};
use crate::logprobs::Logprobs;
use crate::model::Model;
use crate::stats::Stats;
use crate::text::TextAssembler;
use chaski_core::engine::{Answer, End, Event, Request, TokenLogprob};

/// An unfinished answer.
pub(super) struct Answering {
    id: u64,
    n_prompt: usize,
    n_predicted: usize,
    assembler: TextAssembler,
    text: String,
    logprobs: Option<Logprobs>,
    n_top: Option<usize>,
    tokens: Vec<TokenLogprob>,
    /// How the answer ends if it reaches its token limit.
    at_limit: End,
    placed: Instant,
    first: Option<Instant>,
}

impl Answering {
    pub(super) fn new(request: &Request, n_prompt: usize, assembler: TextAssembler, at_limit: End) -> Answering {
        Answering {
            at_limit,
            id: request.id,
            n_prompt,
            n_predicted: 0,
            assembler,
            text: String::new(),
            logprobs: request.n_logprobs.map(Logprobs::new),
            n_top: request.n_top,
            tokens: Vec::new(),
            placed: Instant::now(),
            first: None,
        }
    }

    /// Starts the clock: the request got its lane.
    pub(super) fn placed(self) -> Answering {
        Answering { placed: Instant::now(), ..self }
    }

    /// Id of the request.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// How many of the most likely tokens to report with each token.
    pub(super) fn n_top(&self) -> Option<usize> {
        self.n_top
    }

    /// Whether it has no token yet.
    pub(super) fn is_new(&self) -> bool {
        self.first.is_none()
    }

    /// Adds a token. Breaks if the answer ends with it.
    pub(super) fn take(&mut self, said: EmittedToken<'_>, model: &Model) -> ControlFlow<()> {
        self.first.get_or_insert_with(Instant::now);
        self.n_predicted += 1;
        if model.is_end(said.token) {
            return ControlFlow::Break(());
        }
        self.text.push_str(self.assembler.push(&model.bytes(said.token)));
        if let Some(logprobs) = &mut self.logprobs {
            self.tokens.extend(logprobs.of(said.token, said.logits, model));
        }
        if self.assembler.stopped().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The answer, or the reason there is none.
    pub(super) fn finish(mut self, ended: &Ended) -> Event {
        let end = match &ended.end {
            batching::End::Broken => self.assembler.stopped().map_or(End::Eos, |stop| End::Word(stop.to_owned())),
            batching::End::Limit | batching::End::Full => self.at_limit,
            batching::End::Failed(error) => return Event::Refused { id: self.id, error: error.clone().into() },
        };
        self.text.push_str(self.assembler.finish());
        let first = self.first.unwrap_or(self.placed);
        let stats = Stats {
            n_prompt: self.n_prompt,
            n_cached: ended.n_cached,
            prompt_ms: (first - self.placed).as_secs_f64() * 1e3,
            n_predicted: self.n_predicted,
            predicted_ms: first.elapsed().as_secs_f64() * 1e3,
            n_drafted: ended.n_drafted,
            n_accepted: ended.n_accepted,
            ..Stats::default()
        };
        Event::Done(Box::new(Answer {
            id: self.id,
            text: self.text,
            reasoning: None,
            end,
            stats,
            logprobs: self.tokens,
            details: None,
        }))
    }
}
