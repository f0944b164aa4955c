//! One request that is being answered: from tokens to text, and to the answer.

use std::ops::ControlFlow;
use std::time::Instant;

use crate::batch::engine::{Answer, End, Event, Refusal, TokenLogprob};
use crate::crowd::{self, Ended, Said};
use crate::draft::top::TopK;
use crate::llama::model::Model;
use crate::target::TargetError;
use crate::text::TextAssembler;

/// Most alternatives told of a token, as with OpenAI.
const MAX_LOGPROBS: usize = 20;

/// An answer in the making.
pub(super) struct Answering {
    id: u64,
    n_prompt: usize,
    n_predicted: usize,
    assembler: TextAssembler,
    text: String,
    n_logprobs: Option<usize>,
    logprobs: Vec<TokenLogprob>,
    top: TopK,
    placed: Instant,
    first: Option<Instant>,
}

impl Answering {
    pub(super) fn new(id: u64, n_prompt: usize, n_logprobs: Option<usize>, assembler: TextAssembler) -> Answering {
        Answering {
            id,
            n_prompt,
            n_predicted: 0,
            assembler,
            text: String::new(),
            n_logprobs,
            logprobs: Vec::new(),
            top: TopK::default(),
            placed: Instant::now(),
            first: None,
        }
    }

    /// It has its place from now on.
    pub(super) fn placed(self) -> Answering {
        Answering { placed: Instant::now(), ..self }
    }

    /// The request's.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Whether it has no token yet.
    pub(super) fn is_new(&self) -> bool {
        self.first.is_none()
    }

    /// Takes a token. Tells whether it is the last one.
    pub(super) fn take(&mut self, said: Said<'_>, model: &Model) -> ControlFlow<()> {
        self.first.get_or_insert_with(Instant::now);
        self.n_predicted += 1;
        if model.is_end(said.token) {
            return ControlFlow::Break(());
        }
        let bytes = model.bytes(said.token);
        self.text.push_str(self.assembler.push(&bytes));
        if let Some(n_top) = self.n_logprobs {
            let logprob = self.logprob(said, bytes, n_top, model);
            self.logprobs.extend(logprob);
        }
        if self.assembler.stopped().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn logprob(&mut self, said: Said<'_>, bytes: Vec<u8>, n_top: usize, model: &Model) -> Option<TokenLogprob> {
        let n_top = n_top.min(MAX_LOGPROBS);
        let top = self.top.of(said.logits, n_top.max(1));
        let best = top.first()?;
        // Far below the likeliest a probability is 0 as a number, and its logarithm is not.
        let logprob = |logit: f32| best.weight.ln() + logit - said.logits[best.token.index()];
        let of = |token: crate::token::Token| logprob(said.logits[token.index()]);
        let alternatives = top.iter().take(n_top).map(|likely| (model.bytes(likely.token), of(likely.token)));
        Some(TokenLogprob { bytes, logprob: of(said.token), top: alternatives.collect() })
    }

    /// The answer, or why there is none.
    pub(super) fn finish(mut self, ended: &Ended) -> Event {
        let end = match &ended.end {
            crowd::End::Broken => End::Stop,
            crowd::End::Limit | crowd::End::Full => End::Length,
            crowd::End::Failed(error) => return Event::Refused { id: self.id, refusal: failure(error) },
        };
        self.text.push_str(self.assembler.finish());
        // The characters held back until the end can complete a stop text.
        let end = if self.assembler.stopped().is_some() { End::Stop } else { end };
        let first = self.first.unwrap_or(self.placed);
        Event::Done(Box::new(Answer {
            id: self.id,
            text: self.text,
            end,
            n_prompt: self.n_prompt,
            n_cached: ended.n_cached,
            n_predicted: self.n_predicted,
            n_drafted: ended.n_drafted,
            n_accepted: ended.n_accepted,
            prompt_ms: (first - self.placed).as_secs_f64() * 1e3,
            predicted_ms: first.elapsed().as_secs_f64() * 1e3,
            logprobs: self.logprobs,
        }))
    }
}

/// What one text failed with; the others are not concerned.
fn failure(error: &TargetError) -> Refusal {
    let code = if *error == TargetError::NotFinite { "not_finite" } else { "generation_failed" };
    Refusal { code: code.to_owned(), message: error.to_string() }
}
