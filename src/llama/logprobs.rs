//! How likely emitted tokens were, and what else was: before the samplers, as with OpenAI.

use crate::batch::engine::TokenLogprob;
use crate::draft::top::TopK;
use crate::generate::{Observer, Step};
use crate::llama::model::Model;
use crate::token::Token;

/// Most alternatives told of a token, as with OpenAI.
pub const MAX_LOGPROBS: usize = 20;

/// Tells of tokens by their rows.
pub(super) struct Logprobs {
    n_top: usize,
    top: TopK,
}

impl Logprobs {
    /// With so many alternatives.
    pub(super) fn new(n_top: usize) -> Logprobs {
        Logprobs { n_top: n_top.min(MAX_LOGPROBS), top: TopK::default() }
    }

    /// What is told of a token that was chosen from `logits`; `None` where those are no numbers.
    pub(super) fn of(&mut self, token: Token, logits: &[f32], model: &Model) -> Option<TokenLogprob> {
        let top = self.top.of(logits, self.n_top.max(1));
        let best = top.first()?;
        // Far below the likeliest a probability is 0 as a number, and its logarithm is not.
        let logprob = |token: Token| best.weight.ln() + logits[token.index()] - logits[best.token.index()];
        let alternatives = top.iter().take(self.n_top);
        let alternatives = alternatives.map(|likely| (model.bytes(likely.token), logprob(likely.token)));
        Some(TokenLogprob { bytes: model.bytes(token), logprob: logprob(token), top: alternatives.collect() })
    }
}

/// Tells of every token of a text but the one that ends it.
pub(super) struct LogprobsOf<'a> {
    pub(super) model: &'a Model,
    pub(super) logprobs: Logprobs,
    pub(super) told: Vec<TokenLogprob>,
}

impl Observer for LogprobsOf<'_> {
    fn step(&mut self, step: &Step<'_>) {
        // Each token was chosen from the row of the node before it.
        let emitted = step.context[step.from..].iter().zip(step.path).filter(|(token, _)| !self.model.is_end(**token));
        for (&token, &node) in emitted {
            self.told.extend(self.logprobs.of(token, step.verified.target.logits(node), self.model));
        }
    }
}
